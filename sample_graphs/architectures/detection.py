"""Object detection: Faster R-CNN on a ShuffleNet trunk."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 16
# Keeps exp() of a regressed size finite, as detectors do.
SIZE_LIMIT = math.log(1000.0 / 16)


class RegionAlign(torch.autograd.Function):
    """Exports as the ONNX operator RoiAlign; evaluated here it only has the right shape."""

    @staticmethod
    def forward(context: Any, features: Tensor, boxes: Tensor, batch: Tensor, size: int) -> Tensor:
        """Shape stand-in: nothing but the exporter calls this."""
        return features.new_zeros(boxes.shape[0], features.shape[1], size, size)

    @staticmethod
    def symbolic(graph: Any, features: Any, boxes: Any, batch: Any, size: int) -> Any:
        """The operator that the exporter writes."""
        return graph.op(
            "RoiAlign",
            features,
            boxes,
            batch,
            mode_s="avg",
            output_height_i=size,
            output_width_i=size,
            sampling_ratio_i=2,
            spatial_scale_f=1.0 / STRIDE,
            coordinate_transformation_mode_s="half_pixel",
        )


class ShuffleUnit(nn.Module):
    """ShuffleNet unit: grouped 1x1, channel shuffle, depthwise 3x3, grouped 1x1; concatenation when it strides."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.stride = stride
        self.middle = outputs // 4 // groups * groups
        branch_outputs = outputs - inputs if stride == 2 else outputs
        self.compress = nn.Sequential(
            nn.Conv2d(inputs, self.middle, 1, groups=first_groups, bias=False), nn.BatchNorm2d(self.middle), nn.ReLU()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(self.middle, self.middle, 3, stride, padding=1, groups=self.middle, bias=False),
            nn.BatchNorm2d(self.middle),
        )
        self.expand = nn.Sequential(
            nn.Conv2d(self.middle, branch_outputs, 1, groups=groups, bias=False), nn.BatchNorm2d(branch_outputs)
        )
        self.pool = nn.AvgPool2d(3, 2, padding=1)

    def shuffle(self, x: Tensor) -> Tensor:
        """Interleave the channels of the groups."""
        batch, _, height, width = x.shape
        x = x.reshape(batch, self.groups, self.middle // self.groups, height, width)
        return x.transpose(1, 2).reshape(batch, self.middle, height, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the unit."""
        y: Tensor = self.expand(self.depthwise(self.shuffle(self.compress(x))))
        if self.stride == 2:
            return F.relu(torch.cat([self.pool(x), y], dim=1))
        return F.relu(x + y)


def shuffle_stage(inputs: int, outputs: int, units: int, groups: int, first_groups: int) -> nn.Sequential:
    """A stage: one striding unit, then plain ones."""
    layers = [ShuffleUnit(inputs, outputs, 2, groups, first_groups)]
    layers += [ShuffleUnit(outputs, outputs, 1, groups, groups) for _ in range(units - 1)]
    return nn.Sequential(*layers)


class FasterRCNNShuffle(nn.Module):
    """Faster R-CNN with a ShuffleNet (3 groups, width 1.5) trunk split at stride 16.

    The best-scoring boxes of the proposal network go straight to the second stage; suppression of overlapping
    boxes is left to the caller, so every shape follows from the image's.
    """

    def __init__(self, classes: int = 81, proposals: int = 50, groups: int = 3) -> None:
        super().__init__()
        self.classes = classes
        self.proposals = proposals
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
        )
        self.stage2 = shuffle_stage(24, 360, 4, groups, first_groups=1)
        self.stage3 = shuffle_stage(360, 720, 8, groups, first_groups=groups)
        self.stage4 = shuffle_stage(720, 1440, 4, groups, first_groups=groups)
        self.anchor_count = 15
        self.proposal_hidden = nn.Conv2d(720, 256, 3, padding=1)
        self.proposal_score = nn.Conv2d(256, self.anchor_count, 1)
        self.proposal_box = nn.Conv2d(256, self.anchor_count * 4, 1)
        self.class_score = nn.Linear(1440, classes)
        self.box_delta = nn.Linear(1440, classes * 4)
        sizes = [
            (size * math.sqrt(ratio), size / math.sqrt(ratio))
            for size in (32.0, 64.0, 128.0, 256.0, 512.0)
            for ratio in (0.5, 1.0, 2.0)
        ]
        self.register_buffer("anchor_sizes", torch.tensor(sizes))
        self.anchor_sizes: Tensor
        # The usual box coding: centers are regressed in tenths of a size, sizes in fifths of a logarithm.
        self.register_buffer("delta_scale", torch.tensor([0.1, 0.1, 0.2, 0.2]))
        self.delta_scale: Tensor

    def decode(self, deltas: Tensor, height: Tensor, width: Tensor, index: Tensor) -> Tensor:
        """Boxes (left, top, right, bottom) of the chosen anchors."""
        anchor = index % self.anchor_count
        cell = torch.div(index, self.anchor_count, rounding_mode="trunc")
        column = (cell % width).to(deltas.dtype)
        row = torch.div(cell, width, rounding_mode="trunc").to(deltas.dtype)
        center = (torch.stack([column, row], dim=1) + 0.5) * float(STRIDE)
        size = self.anchor_sizes[anchor]
        center = center + deltas[:, :2] * size
        size = size * torch.exp(deltas[:, 2:].clamp(max=SIZE_LIMIT))
        corner = torch.stack([width, height]).to(deltas.dtype) * float(STRIDE)
        low = torch.minimum((center - size * 0.5).clamp(min=0.0), corner)
        high = torch.minimum((center + size * 0.5).clamp(min=0.0), corner)
        return torch.cat([low, high], dim=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, class probabilities and per-class box corrections of one image."""
        features: Tensor = self.stage3(self.stage2(self.stem(image)))
        hidden = F.relu(self.proposal_hidden(features))
        # Unsquashed scores: a sigmoid keeps the order but makes ties of large ones.
        scores = self.proposal_score(hidden).permute(0, 2, 3, 1).reshape(-1)
        deltas = self.proposal_box(hidden).permute(0, 2, 3, 1).reshape(-1, 4) * self.delta_scale
        index = scores.topk(self.proposals).indices
        grid = torch._shape_as_tensor(features)
        boxes = self.decode(deltas[index], grid[2], grid[3], index)
        regions: Tensor = RegionAlign.apply(features, boxes, torch.zeros_like(index), 14)  # type: ignore[no-untyped-call]
        pooled = self.stage4(regions).mean(dim=(2, 3))
        return boxes, torch.softmax(self.class_score(pooled), dim=1), self.box_delta(pooled)
