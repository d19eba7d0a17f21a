"""The list of sample graphs: which network, which example inputs, which exporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from architectures import detection, image, recommendation, speech, text, translation, video, windowed
from torch import Tensor, nn

LANGUAGE_MODEL_LAYERS = 6


@dataclass(frozen=True)
class Sample:
    """How one graph of the fleet is made."""

    name: str
    network: Callable[[], nn.Module]
    # Inputs by name, in the order of the network's arguments.
    inputs: Callable[[], dict[str, Tensor]]
    outputs: tuple[str, ...]
    exporter: Literal["trace", "export"]
    opset: int
    # Named axes of inputs and outputs; every other axis is fixed.
    axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    # Keep batch normalization as an operator rather than folding it into the convolution before it.
    keep_normalization: bool = False


def integers(*shape: int) -> Tensor:
    """An all-ones int64 tensor, a valid index into any table."""
    return torch.ones(shape, dtype=torch.int64)


def batched(*names: str) -> dict[str, dict[int, str]]:
    """Axis 0 of each name is the batch."""
    return {name: {0: "batch"} for name in names}


def image_sample(
    name: str,
    network: Callable[[], nn.Module],
    exporter: Literal["trace", "export"],
    opset: int,
    keep_normalization: bool = False,
) -> Sample:
    """A classifier of 224x224 images."""
    return Sample(
        name=name,
        network=network,
        inputs=lambda: {"image": torch.ones(2, 3, 224, 224)},
        outputs=("scores",),
        exporter=exporter,
        opset=opset,
        axes=batched("image", "scores"),
        keep_normalization=keep_normalization,
    )


def dlrm_inputs() -> dict[str, Tensor]:
    """Dense features and one index matrix per table."""
    sparse = {f"sparse_{table}": integers(4, hot) for table, hot in enumerate(recommendation.DLRM_HOT)}
    return {"dense": torch.ones(4, 13), **sparse}


def language_model_cache(prefix: str) -> list[str]:
    """Names of the keys and values of all layers."""
    return [f"{prefix}_{part}_{layer}" for layer in range(LANGUAGE_MODEL_LAYERS) for part in ("key", "value")]


def language_model_inputs() -> dict[str, Tensor]:
    """A chunk of tokens, their positions and the cache of what came before."""
    cache = {name: torch.ones(2, 3, 7, 64) for name in language_model_cache("past")}
    return {"tokens": integers(2, 5), "positions": integers(2, 5) * 7, **cache}


LANGUAGE_MODEL_AXES: dict[str, dict[int, str]] = {
    **{name: {0: "batch", 1: "length"} for name in ("tokens", "positions")},
    **{name: {0: "batch", 2: "past"} for name in language_model_cache("past")},
    **{name: {0: "batch", 2: "total"} for name in language_model_cache("present")},
    "scores": {0: "batch"},
}

SAMPLES = (
    Sample(
        name="dlrm",
        network=recommendation.DeepLearningRecommendationModel,
        inputs=dlrm_inputs,
        outputs=("probability",),
        exporter="trace",
        opset=17,
        axes=batched("dense", "probability", *(f"sparse_{table}" for table in range(26))),
    ),
    Sample(
        name="wide_and_deep",
        network=recommendation.WideAndDeep,
        inputs=lambda: {
            "dense": torch.ones(4, 48),
            "categorical": integers(4, recommendation.WIDE_AND_DEEP_COLUMNS),
            "crossed": integers(4, 10),
        },
        outputs=("probability",),
        exporter="trace",
        opset=17,
        axes=batched("dense", "categorical", "crossed", "probability"),
    ),
    Sample(
        name="dcn_v2",
        network=recommendation.DeepCrossNetwork,
        inputs=lambda: {"dense": torch.ones(4, 13), "sparse": integers(4, sum(recommendation.MULTI_HOT))},
        outputs=("probability",),
        exporter="export",
        opset=18,
        axes=batched("dense", "sparse", "probability"),
    ),
    image_sample("resnet50", image.resnet50, "trace", 17),
    image_sample("resnext101_32x4d", image.resnext101_32x4d, "trace", 17, keep_normalization=True),
    image_sample("regnet_y_1_6gf", image.regnet_y_1_6gf, "export", 18),
    image_sample("mobilenet_v3_large", image.MobileNetV3Large, "trace", 17),
    image_sample("swin_tiny", windowed.SwinTiny, "export", 18),
    Sample(
        name="faster_rcnn_shuffle",
        network=detection.FasterRCNNShuffle,
        inputs=lambda: {"image": torch.ones(1, 3, 320, 480)},
        outputs=("boxes", "probabilities", "corrections"),
        exporter="trace",
        opset=17,
        axes={"image": {2: "height", 3: "width"}},
    ),
    Sample(
        name="resnext3d_101",
        network=video.ResNeXt3D101,
        inputs=lambda: {"clip": torch.ones(2, 3, 8, 112, 112)},
        outputs=("scores",),
        exporter="trace",
        opset=17,
        axes=batched("clip", "scores"),
    ),
    Sample(
        name="seq2seq_gru",
        network=translation.GatedRecurrentScorer,
        inputs=lambda: {"source": integers(7, 2), "target": integers(5, 2)},
        outputs=("scores",),
        exporter="trace",
        opset=17,
        axes={
            "source": {0: "source_length", 1: "batch"},
            "target": {0: "target_length", 1: "batch"},
            "scores": {0: "target_length", 1: "batch"},
        },
    ),
    Sample(
        name="seq2seq_lstm",
        network=translation.LongShortTermTranslator,
        inputs=lambda: {"source": integers(7, 2), "first_word": integers(2)},
        outputs=("words", "scores"),
        exporter="trace",
        opset=17,
        axes={
            "source": {0: "source_length", 1: "batch"},
            "first_word": {0: "batch"},
            "words": {1: "batch"},
            "scores": {1: "batch"},
        },
    ),
    Sample(
        name="bert_base",
        network=lambda: text.TextEncoder(vocabulary=30_522, positions_from_mask=False),
        inputs=lambda: {"tokens": integers(2, 7), "mask": integers(2, 7), "segments": integers(2, 7)},
        outputs=("scores", "representations"),
        exporter="trace",
        opset=17,
        axes={
            **{name: {0: "batch", 1: "length"} for name in ("tokens", "mask", "segments", "representations")},
            "scores": {0: "batch"},
        },
    ),
    Sample(
        name="xlm_r_base",
        network=lambda: text.TextEncoder(vocabulary=32_000, positions_from_mask=True),
        inputs=lambda: {"tokens": integers(2, 7), "mask": integers(2, 7)},
        outputs=("scores", "representations"),
        exporter="export",
        opset=18,
        axes={
            **{name: {0: "batch", 1: "length"} for name in ("tokens", "mask", "representations")},
            "scores": {0: "batch"},
        },
    ),
    Sample(
        name="llama_blocks",
        network=lambda: text.LanguageModel(layers=LANGUAGE_MODEL_LAYERS),
        inputs=language_model_inputs,
        outputs=("scores", *language_model_cache("present")),
        exporter="export",
        opset=18,
        axes=LANGUAGE_MODEL_AXES,
    ),
    Sample(
        name="conformer_small",
        network=speech.Conformer,
        inputs=lambda: {"features": torch.ones(2, 103, 80)},
        outputs=("scores",),
        exporter="trace",
        opset=17,
        axes={"features": {0: "batch", 1: "frames"}, "scores": {0: "batch", 1: "length"}},
    ),
)
