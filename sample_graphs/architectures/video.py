"""Video classification: a 101-layer residual network with depthwise 3-D convolutions."""

from __future__ import annotations

from torch import Tensor, nn


class DepthwiseBottleneck(nn.Module):
    """Residual bottleneck: 1x1x1, depthwise 3x3x3, 1x1x1."""

    def __init__(self, inputs: int, middle: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(inputs, middle, 1, bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(),
            nn.Conv3d(middle, middle, 3, stride, padding=1, groups=middle, bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(),
            nn.Conv3d(middle, outputs, 1, bias=False),
            nn.BatchNorm3d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.activation(self.layers(x) + self.shortcut(x))
        return y


class ResNeXt3D101(nn.Module):
    """ResNeXt3D-101: 33 bottlenecks, every 3x3x3 convolution depthwise."""

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), padding=(1, 3, 3), bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), padding=(0, 1, 1)),
        )
        blocks: list[nn.Module] = []
        channels = 64
        for stage, depth in enumerate((3, 4, 23, 3)):
            middle = 64 * 2**stage
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(DepthwiseBottleneck(channels, middle, middle * 4, stride))
                channels = middle * 4
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, clip: Tensor) -> Tensor:
        """Class scores of a batch of clips [batch, 3, frames, height, width]."""
        x: Tensor = self.pool(self.blocks(self.stem(clip))).flatten(1)
        x = self.head(x)
        return x
