"""Image classification by attention within shifted windows (Swin)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 7


def windows(x: Tensor) -> Tensor:
    """[batch, height, width, channels] to [batch * windows, window * window, channels]."""
    _, height, width, channels = x.shape
    x = x.reshape(-1, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW * WINDOW, channels)


def relative_index() -> Tensor:
    """Row of the relative bias table for every pair of positions in a window."""
    position = torch.arange(WINDOW * WINDOW)
    row, column = position // WINDOW, position % WINDOW
    rows = row[:, None] - row[None, :] + WINDOW - 1
    columns = column[:, None] - column[None, :] + WINDOW - 1
    return (rows * (2 * WINDOW - 1) + columns).reshape(-1)


def shift_mask(side: int, shift: int) -> Tensor:
    """Added to the scores of each window of the shifted image: -100 between positions of different image regions."""
    bands = torch.zeros(side, dtype=torch.int64)
    bands[side - WINDOW : side - shift] = 1
    bands[side - shift :] = 2
    labels = bands[:, None] * 3 + bands[None, :]
    label = windows(labels[None, :, :, None]).squeeze(2)
    return torch.where(label[:, None, :] != label[:, :, None], -100.0, 0.0)


class WindowAttention(nn.Module):
    """Self-attention within windows with a learned relative position bias."""

    def __init__(self, width: int, heads: int, mask: Tensor | None) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.joined = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.register_buffer("relative_index", relative_index())
        self.relative_index: Tensor
        self.register_buffer("mask", mask)
        self.mask: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Attend within [batch * windows, positions, width]."""
        _, length, width = x.shape
        joined = self.joined(x).reshape(-1, length, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        query, key, value = joined.unbind(0)
        scores = torch.matmul(query * self.head_width**-0.5, key.transpose(2, 3))
        bias = self.bias_table.index_select(0, self.relative_index).reshape(length, length, self.heads)
        scores = scores + bias.permute(2, 0, 1).unsqueeze(0)
        if self.mask is not None:
            scores = scores.reshape(-1, self.mask.shape[0], self.heads, length, length)
            scores = scores + self.mask.unsqueeze(1).unsqueeze(0)
            scores = scores.reshape(-1, self.heads, length, length)
        mixed = torch.matmul(torch.softmax(scores, dim=3), value)
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(-1, length, width))
        return out


class WindowBlock(nn.Module):
    """Window attention, shifted or not, and a feed-forward part."""

    def __init__(self, width: int, heads: int, side: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.attention_norm = nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, shift_mask(side, shift) if shift else None)
        self.feed_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to [batch, height, width, channels]."""
        _, height, width, channels = x.shape
        y: Tensor = self.attention_norm(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = self.attention(windows(y))
        y = y.reshape(-1, height // WINDOW, width // WINDOW, WINDOW, WINDOW, channels)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, channels)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        x = x + self.contract(F.gelu(self.expand(self.feed_norm(x))))
        return x


class PatchMerging(nn.Module):
    """Join each 2x2 neighborhood and halve the joined channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve height and width, double channels."""
        quarters = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = self.reduction(self.norm(torch.cat(quarters, dim=3)))
        return x


class SwinTiny(nn.Module):
    """Swin-T for 224x224 images (28.3 million parameters)."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 96, 4, 4)
        self.patch_norm = nn.LayerNorm(96)
        layers: list[nn.Module] = []
        width, heads, side = 96, 3, 56
        for stage, depth in enumerate((2, 2, 6, 2)):
            if stage > 0:
                layers.append(PatchMerging(width))
                width, heads, side = width * 2, heads * 2, side // 2
            for block in range(depth):
                # A single window cannot be shifted.
                shift = WINDOW // 2 if block % 2 == 1 and side > WINDOW else 0
                layers.append(WindowBlock(width, heads, side, shift))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Class scores of a batch of images."""
        x: Tensor = self.patch_norm(self.patches(image).permute(0, 2, 3, 1))
        x = self.norm(self.layers(x)).mean(dim=(1, 2))
        x = self.head(x)
        return x
