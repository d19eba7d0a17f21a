"""Speech recognition: a convolution-augmented transformer (Conformer) encoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Pre-normalized feed-forward part with a Swish activation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the part."""
        x = self.contract(F.silu(self.expand(self.norm(x))))
        return x


class RelativeAttention(nn.Module):
    """Self-attention with relative positions: content scores plus shifted position scores."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.position = nn.Linear(width, width, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, self.head_width))
        self.position_bias = nn.Parameter(torch.zeros(heads, 1, self.head_width))
        self.output = nn.Linear(width, width)

    def split_heads(self, x: Tensor) -> Tensor:
        """[batch, length, width] to [batch, heads, length, head width]."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.head_width).transpose(1, 2)

    def shift(self, scores: Tensor) -> Tensor:
        """Turn scores by relative distance [.., length, 2 length - 1] into scores by key [.., length, length]."""
        batch, heads, length, distances = scores.shape
        padded = F.pad(scores, (1, 0)).reshape(batch, heads, distances + 1, length)
        return padded[:, :, 1:].reshape(batch, heads, length, distances)[..., :length]

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Apply the part; positions holds one row per relative distance."""
        batch, length, width = x.shape
        normal = self.norm(x)
        query = self.split_heads(self.query(normal))
        key = self.split_heads(self.key(normal))
        value = self.split_heads(self.value(normal))
        position = self.split_heads(self.position(positions))
        content_scores = torch.matmul(query + self.content_bias, key.transpose(2, 3))
        position_scores = self.shift(torch.matmul(query + self.position_bias, position.transpose(2, 3)))
        weights = torch.softmax((content_scores + position_scores) / math.sqrt(self.head_width), dim=3)
        mixed = torch.matmul(weights, value).transpose(1, 2).reshape(batch, length, width)
        out: Tensor = self.output(mixed)
        return out


class ConvolutionPart(nn.Module):
    """Gated pointwise convolution, depthwise convolution over time, Swish, pointwise convolution."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gated = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.batch_norm = nn.BatchNorm1d(width)
        self.pointwise = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the part."""
        x = F.glu(self.gated(self.norm(x).transpose(1, 2)), dim=1)
        x = self.pointwise(F.silu(self.batch_norm(self.depthwise(x))))
        return x.transpose(1, 2)


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, normalization."""

    def __init__(self, width: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.first = FeedForward(width)
        self.attention = RelativeAttention(width, heads)
        self.convolution = ConvolutionPart(width, kernel)
        self.second = FeedForward(width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Apply the block."""
        x = x + 0.5 * self.first(x)
        x = x + self.attention(x, positions)
        x = x + self.convolution(x)
        x = x + 0.5 * self.second(x)
        x = self.norm(x)
        return x


class Conformer(nn.Module):
    """Conformer-S (16 blocks of width 144, 4 heads, kernel 31) over 80 mel bands."""

    def __init__(
        self, blocks: int = 16, width: int = 144, heads: int = 4, kernel: int = 31, bands: int = 80, words: int = 1024
    ) -> None:
        super().__init__()
        self.subsample = nn.Sequential(nn.Conv2d(1, width, 3, 2), nn.ReLU(), nn.Conv2d(width, width, 3, 2), nn.ReLU())
        self.project = nn.Linear(width * (((bands - 1) // 2 - 1) // 2), width)
        self.blocks = nn.ModuleList(ConformerBlock(width, heads, kernel) for _ in range(blocks))
        self.head = nn.Linear(width, words)
        self.longest = 512
        distance = torch.arange(self.longest - 1, -self.longest, -1, dtype=torch.float32)
        rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
        angles = distance[:, None] * rates
        self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], dim=2).reshape(1, -1, width))
        self.positions: Tensor

    def forward(self, features: Tensor) -> Tensor:
        """Log-probabilities of word pieces for [batch, frames, bands] features."""
        x: Tensor = self.subsample(features.unsqueeze(1))
        batch, channels, length, bands = x.shape
        x = self.project(x.transpose(1, 2).reshape(batch, length, channels * bands))
        positions = self.positions[:, self.longest - length : self.longest + length - 1]
        for block in self.blocks:
            x = block(x, positions)
        return torch.log_softmax(self.head(x), dim=2)
