"""Text: transformer encoders (BERT and XLM-R styles) and a decoder-only language model (Llama style)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EncoderLayer(nn.Module):
    """Transformer encoder layer with normalization after each half."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, inner)
        self.contract = nn.Linear(inner, width)
        self.output_norm = nn.LayerNorm(width)

    def split_heads(self, x: Tensor) -> Tensor:
        """[batch, length, width] to [batch, heads, length, head width]."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.head_width).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply the layer; the mask is added to the attention scores."""
        query = self.split_heads(self.query(x))
        key = self.split_heads(self.key(x))
        value = self.split_heads(self.value(x))
        scores = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(self.head_width)
        weights = torch.softmax(scores + mask, dim=3)
        mixed = torch.matmul(weights, value).transpose(1, 2)
        mixed = mixed.reshape(x.shape[0], x.shape[1], self.heads * self.head_width)
        x = self.attention_norm(x + self.attention_output(mixed))
        x = self.output_norm(x + self.contract(F.gelu(self.expand(x))))
        return x


class TextEncoder(nn.Module):
    """BERT-base widths and depth, with a sentence classifier on the first token.

    With positions_from_mask, positions count the tokens that are not padding, as XLM-R does; otherwise they count
    all tokens and segment embeddings are added, as BERT does.
    """

    def __init__(
        self,
        vocabulary: int,
        positions_from_mask: bool,
        width: int = 768,
        heads: int = 12,
        inner: int = 3072,
        layers: int = 12,
        longest: int = 514,
        classes: int = 16,
    ) -> None:
        super().__init__()
        self.positions_from_mask = positions_from_mask
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(longest, width)
        if not positions_from_mask:
            self.segments = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, inner) for _ in range(layers))
        self.pooler = nn.Linear(width, width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, tokens: Tensor, mask: Tensor, segments: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class scores and token representations; mask is 1 for tokens and 0 for padding."""
        if self.positions_from_mask:
            # Row 1 of the position table is the padding row.
            embedded = self.words(tokens) + self.positions(torch.cumsum(mask, dim=1) * mask + 1)
        else:
            counted = torch.arange(tokens.shape[1]).unsqueeze(0)
            embedded = self.words(tokens) + self.positions(counted) + self.segments(segments)
        x: Tensor = self.norm(embedded)
        added = (1.0 - mask.unsqueeze(1).unsqueeze(2).to(x.dtype)) * -10_000.0
        for layer in self.layers:
            x = layer(x, added)
        pooled = torch.tanh(self.pooler(x[:, 0]))
        return self.classifier(pooled), x


class RootMeanSquareNorm(nn.Module):
    """Normalization by the root mean square of the last axis."""

    def __init__(self, width: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon))


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding on the two halves of the last axis."""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cosine + turned * sine


class DecoderLayer(nn.Module):
    """Pre-normalized decoder layer with grouped-query attention and a gated (SwiGLU) feed-forward part."""

    def __init__(self, width: int, heads: int, groups: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.groups = groups
        self.head_width = width // heads
        self.attention_norm = RootMeanSquareNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, groups * self.head_width, bias=False)
        self.value = nn.Linear(width, groups * self.head_width, bias=False)
        self.attention_output = nn.Linear(width, width, bias=False)
        self.feed_norm = RootMeanSquareNorm(width)
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def repeat_groups(self, x: Tensor) -> Tensor:
        """Share each key or value head among the query heads of its group."""
        batch, _, length, _ = x.shape
        shared = self.heads // self.groups
        x = x.unsqueeze(2).expand(batch, self.groups, shared, length, self.head_width)
        return x.reshape(batch, self.heads, length, self.head_width)

    def forward(
        self, x: Tensor, cosine: Tensor, sine: Tensor, visible: Tensor, past_key: Tensor, past_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's output and the extended keys and values."""
        batch, length, width = x.shape
        normal = self.attention_norm(x)
        query = self.query(normal).reshape(batch, length, self.heads, self.head_width).transpose(1, 2)
        key = self.key(normal).reshape(batch, length, self.groups, self.head_width).transpose(1, 2)
        value = self.value(normal).reshape(batch, length, self.groups, self.head_width).transpose(1, 2)
        query = rotate(query, cosine, sine)
        key = torch.cat([past_key, rotate(key, cosine, sine)], dim=2)
        value = torch.cat([past_value, value], dim=2)
        scores = torch.matmul(query, self.repeat_groups(key).transpose(2, 3)) * self.head_width**-0.5
        scores = torch.where(visible, scores, torch.finfo(torch.float32).min)
        mixed = torch.matmul(torch.softmax(scores, dim=3), self.repeat_groups(value))
        x = x + self.attention_output(mixed.transpose(1, 2).reshape(batch, length, width))
        normal = self.feed_norm(x)
        x = x + self.down(F.silu(self.gate(normal)) * self.up(normal))
        return x, key, value


class LanguageModel(nn.Module):
    """Decoder-only language model with a key and value cache, one step or one chunk of a prompt at a time.

    Widths are those of a 135-million-parameter model of the Llama architecture (30 layers); the depth is cut.
    """

    def __init__(
        self,
        layers: int = 6,
        vocabulary: int = 49_152,
        width: int = 576,
        heads: int = 9,
        groups: int = 3,
        inner: int = 1536,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, groups, inner) for _ in range(layers))
        self.norm = RootMeanSquareNorm(width)
        half = width // heads // 2
        self.register_buffer("frequencies", 10_000.0 ** (-torch.arange(half, dtype=torch.float32) / half))
        self.frequencies: Tensor

    def forward(self, tokens: Tensor, positions: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        """Scores of the next words and the extended cache; the cache alternates keys and values by layer."""
        x: Tensor = self.words(tokens)
        angles = positions.unsqueeze(-1).to(x.dtype) * self.frequencies
        angles = torch.cat([angles, angles], dim=-1).unsqueeze(1)
        cosine, sine = torch.cos(angles), torch.sin(angles)
        reach = torch.arange(cache[0].shape[2] + tokens.shape[1])
        visible = reach <= positions.unsqueeze(1).unsqueeze(3)
        extended: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            x, key, value = layer(x, cosine, sine, visible, cache[2 * index], cache[2 * index + 1])
            extended += [key, value]
        last = self.norm(x[:, -1:])
        # The output layer shares the embedding table.
        return (F.linear(last, self.words.weight), *extended)
