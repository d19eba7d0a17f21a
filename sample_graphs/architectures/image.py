"""Image classification: ResNet-50, ResNeXt-101, RegNetY and a mobile net with squeeze and excite."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def convolution_unit(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """A convolution with batch normalization and, where given, an activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Scale channels by a gate computed from their averages."""

    def __init__(self, channels: int, squeezed: int, gate: type[nn.Module] = nn.Sigmoid) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.ReLU()
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        """Gate the channels of x."""
        scale: Tensor = self.gate(self.expand(self.activation(self.reduce(self.pool(x)))))
        return x * scale


class Bottleneck(nn.Module):
    """Residual bottleneck with a (grouped) 3x3 convolution and optional squeeze and excite before the last 1x1."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int, groups: int = 1, squeezed: int | None = None
    ) -> None:
        super().__init__()
        self.first = convolution_unit(inputs, middle, 1)
        self.second = convolution_unit(middle, middle, 3, stride, groups)
        self.excite = SqueezeExcite(middle, squeezed) if squeezed is not None else nn.Identity()
        self.third = convolution_unit(middle, outputs, 1, activation=None)
        changes = stride != 1 or inputs != outputs
        self.shortcut = convolution_unit(inputs, outputs, 1, stride, activation=None) if changes else nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.third(self.excite(self.second(self.first(x))))
        y = self.activation(y + self.shortcut(x))
        return y


class Classifier(nn.Module):
    """Trunk, global average pooling and one fully connected layer."""

    def __init__(self, trunk: nn.Module, channels: int, classes: int = 1000) -> None:
        super().__init__()
        self.trunk = trunk
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Class scores of a batch of images."""
        x: Tensor = self.pool(self.trunk(image)).flatten(1)
        x = self.head(x)
        return x


def residual_network(depths: Sequence[int], groups: int = 1, width_per_group: int = 64) -> Classifier:
    """ResNet or ResNeXt of bottleneck blocks."""
    layers: list[nn.Module] = [convolution_unit(3, 64, 7, 2), nn.MaxPool2d(3, 2, padding=1)]
    channels = 64
    for stage, depth in enumerate(depths):
        base = 64 * 2**stage
        middle = base * width_per_group * groups // 64
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Bottleneck(channels, middle, base * 4, stride, groups))
            channels = base * 4
    return Classifier(nn.Sequential(*layers), channels)


def resnet50() -> Classifier:
    """ResNet-50 (25.6 million parameters)."""
    return residual_network((3, 4, 6, 3))


def resnext101_32x4d() -> Classifier:
    """ResNeXt-101 with 32 groups of width 4 (44.2 million parameters)."""
    return residual_network((3, 4, 23, 3), groups=32, width_per_group=4)


def regnet_y_1_6gf() -> Classifier:
    """RegNetY of 1.6 billion multiply-adds (11.2 million parameters)."""
    layers: list[nn.Module] = [convolution_unit(3, 32, 3, 2)]
    channels = 32
    for depth, width in ((2, 48), (6, 120), (17, 336), (2, 888)):
        for block in range(depth):
            # The squeezed width is a quarter of the block's input.
            layers.append(
                Bottleneck(channels, width, width, 2 if block == 0 else 1, groups=width // 24, squeezed=channels // 4)
            )
            channels = width
    return Classifier(nn.Sequential(*layers), channels)


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, optional squeeze and excite, project."""

    def __init__(
        self, inputs: int, expanded: int, outputs: int, kernel: int, stride: int, excite: bool, hard_swish: bool
    ) -> None:
        super().__init__()
        activation: type[nn.Module] = nn.Hardswish if hard_swish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(convolution_unit(inputs, expanded, 1, activation=activation))
        layers.append(convolution_unit(expanded, expanded, kernel, stride, expanded, activation))
        if excite:
            # A quarter of the channels, rounded to a multiple of eight but never below nine tenths of the quarter.
            squeezed = max(8, int(expanded / 4 + 4) // 8 * 8)
            squeezed += 8 if squeezed < 0.9 * expanded / 4 else 0
            layers.append(SqueezeExcite(expanded, squeezed, nn.Hardsigmoid))
        layers.append(convolution_unit(expanded, outputs, 1, activation=None))
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class MobileNetV3Large(nn.Module):
    """MobileNetV3-Large (5.5 million parameters)."""

    # kernel, expanded, outputs, squeeze and excite, hard swish, stride
    BLOCKS = (
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    )

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [convolution_unit(3, 16, 3, 2, activation=nn.Hardswish)]
        channels = 16
        for kernel, expanded, outputs, excite, hard_swish, stride in self.BLOCKS:
            layers.append(InvertedResidual(channels, expanded, outputs, kernel, stride, excite, hard_swish))
            channels = outputs
        layers.append(convolution_unit(channels, 960, 1, activation=nn.Hardswish))
        self.trunk = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(nn.Linear(960, 1280), nn.Hardswish(), nn.Linear(1280, classes))

    def forward(self, image: Tensor) -> Tensor:
        """Class scores of a batch of images."""
        x: Tensor = self.pool(self.trunk(image)).flatten(1)
        x = self.head(x)
        return x
