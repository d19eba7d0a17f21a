"""Click and conversion ranking: DLRM, wide and deep, and the deep and cross network (version 2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

# Categories of the 26 columns of the public Criteo one-terabyte click log. The largest columns hold tens of
# millions of rows; they are capped so that a filled model fits into a few hundred megabytes of memory.
CRITEO_ROWS = (
    39_884_406, 39_043, 17_289, 7_420, 20_263, 3, 7_120, 1_543, 63, 38_532_951, 2_953_546, 403_346, 10,
    2_208, 11_938, 155, 4, 976, 14, 39_979_771, 25_641_295, 39_664_984, 585_935, 12_972, 108, 36,
)  # fmt: skip
ROW_CAP = 20_000
DLRM_ROWS = tuple(min(rows, ROW_CAP) for rows in CRITEO_ROWS)
# Columns with many categories are histories (many values a sample); small ones hold a single value.
DLRM_HOT = tuple(20 if rows > 1_000 else 1 for rows in DLRM_ROWS)

# Values a sample in each column of the multi-hot Criteo set of MLPerf training.
MULTI_HOT = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
# The one index input of the deep and cross network has one value range, so no table is smaller than this.
CROSS_MINIMUM_ROWS = 1_000

WIDE_AND_DEEP_COLUMNS = 36
WIDE_AND_DEEP_ROWS = 5_000
WIDE_AND_DEEP_CROSSED_ROWS = 100_000


def perceptron(widths: Sequence[int], last_activation: bool = True) -> nn.Sequential:
    """Fully connected layers of the given widths with ReLU between them (and after the last, if asked)."""
    layers: list[nn.Module] = []
    for position, (inputs, outputs) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(inputs, outputs))
        if last_activation or position < len(widths) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class PooledEmbedding(nn.Module):
    """An embedding table whose selected rows are summed for each sample."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(rows, width)

    def forward(self, indices: Tensor) -> Tensor:
        """Map [batch, hot] row indices to [batch, width] sums."""
        rows: Tensor = self.table(indices)
        return rows.sum(dim=1)


class DeepLearningRecommendationModel(nn.Module):
    """DLRM: bottom network, pooled embeddings, pairwise dot products, top network.

    Layer widths are those of the MLPerf benchmark (embedding width 128).
    """

    def __init__(self, rows: Sequence[int] = DLRM_ROWS, width: int = 128, dense_features: int = 13) -> None:
        super().__init__()
        self.width = width
        self.vectors = len(rows) + 1
        self.bottom = perceptron((dense_features, 512, 256, width))
        self.embeddings = nn.ModuleList(PooledEmbedding(count, width) for count in rows)
        pairs = self.vectors * (self.vectors - 1) // 2
        self.top = perceptron((width + pairs, 1024, 1024, 512, 256, 1), last_activation=False)
        lower = torch.tril_indices(self.vectors, self.vectors, offset=-1)
        self.register_buffer("lower_triangle", lower[0] * self.vectors + lower[1])
        self.lower_triangle: Tensor

    def forward(self, dense: Tensor, *sparse: Tensor) -> Tensor:
        """Score a batch from dense features and one index matrix per table."""
        bottom: Tensor = self.bottom(dense)
        pooled = [embedding(indices) for embedding, indices in zip(self.embeddings, sparse, strict=True)]
        stacked = torch.cat([bottom, *pooled], dim=1).reshape(-1, self.vectors, self.width)
        products = torch.matmul(stacked, stacked.transpose(1, 2))
        pairs = products.reshape(-1, self.vectors * self.vectors).index_select(1, self.lower_triangle)
        logit: Tensor = self.top(torch.cat([bottom, pairs], dim=1))
        return torch.sigmoid(logit)


class WideAndDeep(nn.Module):
    """A linear model over crossed columns beside a deep network over embeddings, added at the logit.

    36 columns of width 32 and 48 dense features give the 1,200 concatenated inputs of the published model.
    """

    def __init__(
        self,
        columns: int = WIDE_AND_DEEP_COLUMNS,
        rows: int = WIDE_AND_DEEP_ROWS,
        crossed_rows: int = WIDE_AND_DEEP_CROSSED_ROWS,
        width: int = 32,
        dense_features: int = 48,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(rows, width) for _ in range(columns))
        self.crossed = PooledEmbedding(crossed_rows, 1)
        self.wide = nn.Linear(dense_features, 1)
        self.normalization = nn.BatchNorm1d(dense_features)
        self.deep = perceptron((columns * width + dense_features, 1024, 512, 256))
        self.logit = nn.Linear(256, 1)

    def forward(self, dense: Tensor, categorical: Tensor, crossed: Tensor) -> Tensor:
        """Score a batch from dense features, one category per column and the hashed crossed columns."""
        embedded = [table(categorical[:, column]) for column, table in enumerate(self.embeddings)]
        deep: Tensor = self.deep(torch.cat([self.normalization(dense), *embedded], dim=1))
        wide: Tensor = self.wide(dense) + self.crossed(crossed)
        return torch.sigmoid(wide + self.logit(deep))


class LowRankCross(nn.Module):
    """One low-rank cross layer: x0 * (U(V x) + b) + x."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, rank, bias=False)
        self.expand = nn.Linear(rank, width)

    def forward(self, first: Tensor, current: Tensor) -> Tensor:
        """Cross the first layer's input with the current one."""
        crossed: Tensor = self.expand(self.project(current))
        return first * crossed + current


class DeepCrossNetwork(nn.Module):
    """DCN-v2 as in the MLPerf recommender: pooled embeddings, three low-rank cross layers, top network."""

    def __init__(
        self,
        rows: Sequence[int] = DLRM_ROWS,
        hot: Sequence[int] = MULTI_HOT,
        width: int = 128,
        dense_features: int = 13,
        rank: int = 512,
        layers: int = 3,
    ) -> None:
        super().__init__()
        self.hot = list(hot)
        self.bottom = perceptron((dense_features, 512, 256, width))
        self.embeddings = nn.ModuleList(PooledEmbedding(max(count, CROSS_MINIMUM_ROWS), width) for count in rows)
        joined = (len(rows) + 1) * width
        self.cross = nn.ModuleList(LowRankCross(joined, rank) for _ in range(layers))
        self.top = perceptron((joined, 1024, 1024, 512, 256, 1), last_activation=False)

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """Score a batch from dense features and the index columns of all tables side by side."""
        columns = torch.split(sparse, self.hot, dim=1)
        pooled = [embedding(indices) for embedding, indices in zip(self.embeddings, columns, strict=True)]
        first = torch.cat([self.bottom(dense), *pooled], dim=1)
        current = first
        for layer in self.cross:
            current = layer(first, current)
        logit: Tensor = self.top(current)
        return torch.sigmoid(logit)
