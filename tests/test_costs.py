"""Costs: values worked out by hand, bounds on every example of the ONNX standard, and published counts of networks."""

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt import models, operators
from graphopt.characterization.parameters import parameter_elements
from graphopt.graph import Capture, Node, Shape, Tensor
from graphopt.observation import observe
from graphopt.operators.base import Cost, FusionClass, Operand, element_bytes
from tests import networks
from tests.test_operators import IN_BLOCKED_LAYOUT, OPTIMISED

MS = "com.microsoft"
BLOCKED = "com.microsoft.nchwc"
Given = Operand | None


_names = (f"tensor_{number}" for number in count())


def t(*shape: int, dtype: str = "float32") -> Operand:
    """A computed tensor."""
    return Operand(Tensor(next(_names), dtype, len(shape)), shape)


def c(*shape: int, dtype: str = "float32", value: Sequence[int] | None = None) -> Operand:
    """A constant."""
    array = None if value is None else np.asarray(value, dtype)
    return Operand(Tensor(next(_names), dtype, len(shape), constant=True, value=array, shape=shape), shape)


def cost(operator: str, inputs: Sequence[Given], outputs: Sequence[Given], **attributes: object) -> Cost:
    domain, _, op_type = operator.rpartition(".")
    node = Node("n", domain, op_type, 21, tuple("x" if i else "" for i in inputs), ("y",), attributes)  # type: ignore[arg-type]
    row = operators.find(node)
    assert row is not None, operator
    return row.cost(node, inputs, outputs)


def numbers(found: Cost) -> tuple[int, int, int, int]:
    return found.flops, found.bytes_read, found.bytes_written, found.parameter_bytes


# Each line: operator, operands, results, attributes, (flops, bytes read, bytes written, parameter bytes).
BY_HAND = [
    # 2 * 3 * 5 products of depth 4
    ("MatMul", [t(2, 3, 4), c(4, 5)], [t(2, 3, 5)], {}, (2 * 4 * 30, 96, 120, 80)),
    ("MatMul", [t(4), t(4)], [t()], {}, (8, 32, 4, 0)),
    ("MatMul", [t(0, 4), c(4, 5)], [t(0, 5)], {}, (0, 0, 0, 80)),
    # A is [K, M]: depth 3; C adds one operation per element
    ("Gemm", [t(3, 2), c(5, 3), c(5)], [t(2, 5)], {"transA": 1, "transB": 1}, ((6 + 1) * 10, 24, 40, 80)),
    (f"{MS}.FusedGemm", [t(2, 3), c(3, 5), c(5)], [t(2, 5)], {"activation": "Relu"}, ((6 + 2) * 10, 24, 40, 80)),
    (f"{MS}.FusedMatMul", [t(2, 4, 3), t(2, 4, 5)], [t(2, 3, 5)], {"transA": 1, "alpha": 0.5}, (8 * 30, 256, 120, 0)),
    # with transBatchA and transA, the first dimension is the summed one: [K, batch, M]
    (
        f"{MS}.FusedMatMul",
        [t(4, 2, 3), t(2, 4, 5)],
        [t(2, 3, 5)],
        {"transA": 1, "transBatchA": 1},
        (8 * 30, 256, 120, 0),
    ),
    ("Einsum", [t(2, 3, 4), t(2, 4, 5)], [t(2, 3, 5)], {"equation": "bij,bjk->bik"}, (2 * 2 * 3 * 4 * 5, 256, 120, 0)),
    ("Einsum", [t(7, 2, 3), t(3, 4)], [t(7, 2, 4)], {"equation": "...ij,jk->...ik"}, (2 * 7 * 2 * 3 * 4, 216, 224, 0)),
    # 8 output channels of 6 x 6, each over 3 channels of 3 x 3, and a bias
    (
        "Conv",
        [t(1, 3, 8, 8), c(8, 3, 3, 3), c(8)],
        [t(1, 8, 6, 6)],
        {"kernel_shape": (3, 3)},
        ((2 * 27 + 1) * 288, 768, 1152, 864 + 32),
    ),
    # depthwise: one channel per group
    (
        "Conv",
        [t(1, 8, 4, 4), c(8, 1, 3, 3)],
        [t(1, 8, 4, 4)],
        {"group": 8, "pads": (1, 1, 1, 1)},
        (2 * 9 * 128, 512, 512, 288),
    ),
    # bias, added tensor, activation
    (
        f"{BLOCKED}.Conv",
        [t(1, 16, 4, 4), c(16, 16, 1, 1), c(16), t(1, 16, 4, 4)],
        [t(1, 16, 4, 4)],
        {"activation": "Relu"},
        ((32 + 3) * 256, 2048, 1024, 1024 + 64),
    ),
    # every one of 3 * 4 * 4 inputs meets 5 * 2 * 2 weights
    (
        "ConvTranspose",
        [t(1, 3, 4, 4), c(3, 5, 2, 2)],
        [t(1, 5, 8, 8)],
        {"strides": (2, 2)},
        (2 * 20 * 48, 192, 1280, 240),
    ),
    # a gather reads what it picks
    ("Gather", [c(1000, 8), t(4, dtype="int64")], [t(4, 8)], {}, (0, 32, 128, 128)),
    ("Gather", [t(10, 8), c(2, dtype="int64")], [t(2, 8)], {}, (0, 64, 64, 16)),
    ("GatherElements", [t(4, 4), t(2, 4, dtype="int64")], [t(2, 4)], {}, (0, 64 + 32, 32, 0)),
    ("GatherND", [t(4, 4, 4), t(3, 1, dtype="int64")], [t(3, 4, 4)], {}, (0, 24 + 192, 192, 0)),
    # data copied (16 elements), 4 updates written over it
    ("ScatterElements", [t(4, 4), t(1, 4, dtype="int64"), t(1, 4)], [t(4, 4)], {}, (0, 64 + 32 + 16, 64 + 16, 0)),
    ("ScatterElements", [t(4, 4), t(1, 4, dtype="int64"), t(1, 4)], [t(4, 4)], {"reduction": "add"}, (4, 112, 80, 0)),
    ("OneHot", [t(6, dtype="int64"), c(dtype="int64"), c(2)], [t(6, 10)], {}, (60, 48, 240, 8)),
    ("ReduceSum", [t(2, 8), c(1, dtype="int64")], [t(2, 1)], {}, (16, 64, 8, 0)),
    ("ReduceMean", [t(2, 8)], [t(2, 1)], {"axes": (1,)}, (16, 64, 8, 0)),
    ("ReduceL2", [t(2, 8)], [t(2)], {}, (32, 64, 8, 0)),
    ("ArgMax", [t(2, 8)], [t(2, 1, dtype="int64")], {}, (16, 64, 16, 0)),
    ("Softmax", [t(2, 8)], [t(2, 8)], {"axis": -1}, (80, 64, 64, 0)),
    ("LayerNormalization", [t(2, 8), c(8), c(8)], [t(2, 8)], {}, (7 * 16, 64, 64, 64)),
    ("LayerNormalization", [t(2, 8), c(8), None], [t(2, 8)], {}, (6 * 16, 64, 64, 32)),
    ("RMSNormalization", [t(2, 8), c(8)], [t(2, 8)], {}, (4 * 16, 64, 64, 32)),
    # input + skip + bias, then 7 per element; the sum is a result too
    (
        f"{MS}.SkipLayerNormalization",
        [t(2, 1, 8), t(2, 1, 8), c(8), c(8), c(8)],
        [t(2, 1, 8), None, None, t(2, 1, 8)],
        {},
        (9 * 16, 128, 128, 96),
    ),
    (f"{MS}.SkipSimplifiedLayerNormalization", [t(2, 1, 8), t(2, 1, 8), c(8)], [t(2, 1, 8)], {}, (5 * 16, 128, 64, 32)),
    ("BatchNormalization", [t(1, 4, 2, 2), c(4), c(4), c(4), c(4)], [t(1, 4, 2, 2)], {}, (2 * 16 + 16, 64, 64, 64)),
    ("InstanceNormalization", [t(1, 4, 2, 2), c(4), c(4)], [t(1, 4, 2, 2)], {}, (7 * 16, 64, 64, 32)),
    ("LRN", [t(1, 4, 2, 2)], [t(1, 4, 2, 2)], {"size": 5}, (10 * 16, 64, 64, 0)),
    ("MaxPool", [t(1, 2, 4, 4)], [t(1, 2, 2, 2)], {"kernel_shape": (3, 3)}, (9 * 8, 128, 32, 0)),
    ("GlobalAveragePool", [t(1, 2, 4, 4)], [t(1, 2, 1, 1)], {}, (32, 128, 8, 0)),
    ("Resize", [t(1, 2, 2, 2), None, c(4)], [t(1, 2, 4, 4)], {"mode": "nearest"}, (0, 32, 128, 0)),
    # two taps in each of two dimensions, one after the other
    ("Resize", [t(1, 2, 2, 2), None, c(4)], [t(1, 2, 4, 4)], {"mode": "linear"}, (8 * 32, 32, 128, 0)),
    # LSTM: 5 steps, batch 2, 3 inputs, hidden 4: products with W and R, and 17 operations per hidden element
    (
        "LSTM",
        [t(5, 2, 3), c(1, 16, 3), c(1, 16, 4)],
        [t(5, 1, 2, 4)],
        {"hidden_size": 4},
        (10 * (2 * (48 + 64) + 17 * 4), 120, 160, 448),
    ),
    (
        "GRU",
        [t(5, 2, 3), c(2, 12, 3), c(2, 12, 4)],
        [t(5, 2, 2, 4)],
        {"hidden_size": 4},
        (10 * (2 * (72 + 96) + 14 * 8), 120, 320, 672),
    ),
    ("QuantizeLinear", [t(8), c(), c(dtype="uint8")], [t(8, dtype="uint8")], {}, (32, 32, 8, 5)),
    ("DequantizeLinear", [t(8, dtype="uint8"), c(), c(dtype="uint8")], [t(8)], {}, (16, 8, 32, 5)),
    ("MatMulInteger", [t(2, 4, dtype="uint8"), c(4, 3, dtype="int8")], [t(2, 3, dtype="int32")], {}, (48, 8, 24, 12)),
    # one query over 3 keys, 2 heads of 4: 2 * (2 * 4 + 6 + 2 * 4) per key
    (
        "Attention",
        [t(1, 2, 1, 4), t(1, 2, 3, 4), t(1, 2, 3, 4)],
        [t(1, 2, 1, 4)],
        {},
        (2 * 3 * 22, 32 + 96 + 96, 32, 0),
    ),
    # 3 positions of 5 become 16 columns: 2 heads of 3 for Q and K, of 2 for V; 2 * (6 + 6 + 4) per pair of positions
    (
        f"{MS}.Attention",
        [t(1, 3, 5), c(5, 16)],
        [t(1, 3, 4)],
        {"num_heads": 2, "qkv_hidden_sizes": (6, 6, 4)},
        (480 + 9 * 32, 60, 48, 320),
    ),
    ("Shape", [t(2, 3)], [t(2, dtype="int64")], {}, (0, 0, 16, 0)),
    ("ConstantOfShape", [c(2, dtype="int64")], [t(3, 4)], {}, (0, 0, 48, 0)),
    ("Reshape", [t(2, 3), c(1, dtype="int64")], [t(6)], {}, (0, 0, 0, 0)),
    ("Add", [t(2, 3), c(3)], [t(2, 3)], {}, (6, 24, 24, 12)),
    ("Transpose", [t(2, 3)], [t(3, 2)], {}, (0, 24, 24, 0)),
    # n - 1 steps for n operands, a division for the mean
    ("Sum", [t(2, 3), t(2, 3), t(3)], [t(2, 3)], {}, (12, 60, 24, 0)),
    ("Mean", [t(2, 3), t(2, 3), t(3)], [t(2, 3)], {}, (18, 60, 24, 0)),
    ("Identity", [t(2, 3)], [t(2, 3)], {}, (0, 0, 0, 0)),
    ("BitCast", [t(2, 3)], [t(2, 3, dtype="int32")], {"to": 6}, (0, 0, 0, 0)),
    ("Dropout", [t(2, 3), c()], [t(2, 3)], {}, (0, 0, 0, 0)),
    ("Dropout", [t(2, 3), c()], [t(2, 3), t(2, 3, dtype="bool")], {}, (0, 0, 6, 0)),
    ("SwiGLU", [t(2, 8), t(2, 8)], [t(2, 8)], {}, (48, 128, 64, 0)),
    # the upper triangle of 3 x 4: 4 + 3 + 2; above the main diagonal (k = 1) 3 + 2 + 1; the lower one 1 + 2 + 3
    ("Trilu", [t(2, 3, 4)], [t(2, 3, 4)], {}, (0, 72, 96, 0)),
    ("Trilu", [t(2, 3, 4), c(value=[1], dtype="int64")], [t(2, 3, 4)], {"upper": 1}, (0, 48, 96, 0)),
    ("Trilu", [t(2, 3, 4)], [t(2, 3, 4)], {"upper": 0}, (0, 48, 96, 0)),
    ("Trilu", [t(3, 3), c(value=[-5], dtype="int64")], [t(3, 3)], {"upper": 0}, (0, 0, 36, 0)),
    # cropped to 4 rows, padded to 10 columns: 4 x 8 elements lie in both
    ("CenterCropPad", [t(6, 8), c(2, dtype="int64")], [t(4, 10)], {}, (0, 128, 160, 0)),
    ("Pad", [t(2, 2), c(4, dtype="int64")], [t(4, 4)], {}, (0, 16, 64, 0)),
    # nothing is read twice: three rows out of a table of two
    ("Gather", [c(2, 8), t(3, dtype="int64")], [t(3, 8)], {}, (0, 24, 96, 64)),
    # half the size: a quarter of the elements
    ("Resize", [t(1, 2, 4, 4), None, c(4)], [t(1, 2, 2, 2)], {"mode": "nearest"}, (0, 32, 32, 0)),
    # packed, two in a byte
    ("DequantizeLinear", [c(9, dtype="int4"), c()], [t(9)], {}, (18, 0, 36, 5 + 4)),
    ("SplitToSequence", [t(4, 3), c(dtype="int64")], [None], {}, (0, 48, 48, 0)),
    ("ConcatFromSequence", [None], [t(4, 3)], {}, (0, 48, 48, 0)),
    ("SequenceAt", [None, c(dtype="int64")], [t(4, 3)], {}, (0, 0, 0, 0)),
    ("SequenceLength", [None], [t(dtype="int64")], {}, (0, 0, 8, 0)),
    (f"{MS}.Trilu", [t(3, 3)], [t(3, 3)], {}, (0, 24, 36, 0)),
    (f"{MS}.ExpandDims", [t(2, 3), c(dtype="int32")], [t(2, 1, 3)], {}, (0, 0, 0, 0)),
    (f"{MS}.UnfoldTensor", [t(5)], [t(2, 3)], {"dim": -1, "size": 3, "step": 2}, (0, 20, 24, 0)),
    (f"{MS}.BiasAdd", [t(1, 4, 8), c(8), t(1, 4, 8)], [t(1, 4, 8)], {}, (64, 256, 128, 32)),
    (f"{MS}.BiasSplitGelu", [t(1, 4, 8), c(8)], [t(1, 4, 4)], {}, (128, 128, 64, 32)),
    (f"{MS}.GatedAdd", [t(4, 8), t(4, 8), t(4, 1)], [t(4, 8)], {}, (64, 272, 128, 0)),
    (f"{MS}.ScaledSiLU", [t(8)], [t(8)], {}, (24, 32, 32, 0)),
    (f"{MS}.LinearAttentionGate", [t(4, 2), c(2), c(2), t(4, 2)], [t(4, 2), t(4, 2)], {}, (32, 64, 64, 16)),
    (f"{MS}.BiasDropout", [t(2, 8), c(8), t(2, 8), c()], [t(2, 8)], {}, (32, 128, 64, 32)),
    (f"{MS}.BranchwiseRMSNorm", [t(2, 8), c(8)], [t(2, 8)], {}, (64, 64, 64, 32)),
    (f"{MS}.GatedRMSNorm", [t(2, 8), c(8), t(2, 8)], [t(2, 8)], {}, (7 * 16, 128, 64, 32)),
    (f"{MS}.CDist", [t(2, 3), t(4, 3)], [t(2, 4)], {"metric": "euclidean"}, (80, 72, 32, 0)),
    (f"{MS}.DynamicTimeWarping", [t(3, 4)], [t(2, 5, dtype="int32")], {}, (36, 48, 40, 0)),
    (f"{MS}.IsAllFinite", [t(3), t(4)], [t(dtype="bool")], {}, (7, 28, 1, 0)),
    # complex length 4: 5 * 4 * 2 per transform
    (f"{MS}.Rfft", [t(3, 4)], [t(3, 3, 2)], {"signal_ndim": 1}, (120, 48, 72, 0)),
    (f"{MS}.Irfft", [t(3, 3, 2)], [t(3, 4)], {"signal_ndim": 1}, (120, 72, 48, 0)),
    # one query over 2 past keys and itself, 2 heads of 4: 6 scores of 2 * 4 + 6 + 2 * 4
    (
        f"{MS}.DecoderMaskedMultiHeadAttention",
        [t(1, 1, 8), t(1, 1, 8), t(1, 1, 8), None, None, t(1, 2, 2, 4), t(1, 2, 2, 4)],
        [t(1, 1, 8)],
        {"num_heads": 2},
        (132, 3 * 32 + 2 * 64, 32, 0),
    ),
    # 3 tokens to 24 columns of depth 8 with rescaling and bias, then 2 heads of 4 over 3 keys
    (
        f"{MS}.QAttention",
        [t(1, 3, 8, dtype="uint8"), c(8, 24, dtype="uint8"), c(24), c(), c()],
        [t(1, 3, 8)],
        {"num_heads": 2},
        (3 * 24 * 18 + 2 * 9 * 22, 24, 96, 192 + 96 + 8),
    ),
    # 2 tokens through 1 of 4 experts each: 2 operations for 2 * 8 * 16 weights, 3 per inner element, the weighted sum
    # of 8; softmax over 8 router values; half of the weights
    (
        f"{MS}.MoE",
        [t(2, 8), t(2, 4), c(4, 16, 8), None, c(4, 8, 16)],
        [t(2, 8)],
        {"k": 1},
        (2 * (512 + 48 + 16) + 40, 96, 64, 2048),
    ),
    # rows of 32, two projections of width 4 with packed weights, Swish of one times the other
    (
        f"{MS}.MatMulNBitsMlp",
        [t(2, 32), None, None, c(4, 1, 16, dtype="uint8"), c(4), None, c(4, 1, 16, dtype="uint8"), c(4)],
        [t(2, 4)],
        {"K": 32, "N": 4},
        (2 * (2 * 4 * 64 + 12), 256, 32, 128 + 32),
    ),
    (
        f"{MS}.MatMulNBitsQkv",
        [
            *(t(1, 32), None, c(32)),
            *(c(8, 1, 16, dtype="uint8"), c(8), None),
            *(c(4, 1, 16, dtype="uint8"), c(4), None),
            *(c(4, 1, 16, dtype="uint8"), c(4)),
        ],
        [t(1, 8), t(1, 4), t(1, 4)],
        {"K": 32, "Nq": 8, "Nkv": 4},
        (16 * 64 + 4 * 32, 128, 64, 128 + 256 + 64),
    ),
    (f"{MS}.RelativePositionBias", [c(32, 4), c(), c()], [t(1, 4, 3, 3)], {}, (90, 0, 144, 512)),
    # the best 4 of 8 in a heap: 2 comparisons for each of 16 elements
    ("TopK", [t(2, 8), c(1, dtype="int64")], [t(2, 4), t(2, 4, dtype="int64")], {}, (32, 64, 32 + 64, 0)),
    ("Cast", [t(2, 3)], [t(2, 3, dtype="int64")], {"to": 7}, (6, 24, 48, 0)),
    ("CastLike", [t(2, 3), c(1, dtype="int64")], [t(2, 3, dtype="int64")], {}, (6, 24, 48, 8)),
    ("GlobalLpPool", [t(1, 2, 4, 4)], [t(1, 2, 1, 1)], {}, (64, 128, 8, 0)),
    ("RandomNormal", [], [t(10)], {}, (200, 0, 40, 0)),
    ("RandomNormalLike", [t(10)], [t(10)], {}, (200, 0, 40, 0)),
    ("RandomUniform", [], [t(10)], {}, (100, 0, 40, 0)),
    ("RandomUniformLike", [t(10)], [t(10)], {}, (100, 0, 40, 0)),
    ("Multinomial", [t(2, 8)], [t(2, 1, dtype="int32")], {}, (48, 64, 8, 0)),
    ("MaxRoiPool", [t(1, 2, 8, 8), t(3, 5)], [t(3, 2, 2, 2)], {}, (96, 512 + 60, 96, 0)),
    ("SequenceConstruct", [t(2, 3), t(3)], [None], {}, (0, 0, 0, 0)),
    ("SequenceInsert", [None, t(2, 3)], [None], {}, (0, 0, 0, 0)),
    ("SequenceErase", [None], [None], {}, (0, 0, 0, 0)),
    ("SequenceEmpty", [], [None], {}, (0, 0, 0, 0)),
    ("Optional", [t(2, 3)], [None], {}, (0, 0, 0, 0)),
    # kernels of 4 taps, a bias and Swish for each of 2 * 5 results; the state is read and handed on
    (
        "CausalConvWithState",
        [t(1, 2, 5), c(2, 1, 4), c(2), t(1, 2, 3)],
        [t(1, 2, 5), t(1, 2, 3)],
        {"activation": "silu"},
        (10 * (8 + 1 + 2), 40 + 24, 40 + 24, 32 + 8),
    ),
    # 3 steps, 2 key heads with a state of 4 x 5 each: add 2, decay 1, read 2, and difference and rate of 5 values;
    # 4 query heads read 2 * 20 and scale 5; 6 decays
    (
        "LinearAttention",
        [t(1, 3, 16), t(1, 3, 8), t(1, 3, 10), None, t(1, 3, 2), t(1, 3, 2)],
        [t(1, 3, 20), t(1, 2, 4, 5)],
        {"q_num_heads": 4, "kv_num_heads": 2, "update_rule": "gated_delta"},
        (3 * (2 * (5 * 20 + 10) + 4 * (40 + 5)) + 6, 4 * (48 + 24 + 30 + 6 + 6), 4 * (60 + 40), 0),
    ),
    (f"{MS}.Gelu", [t(8)], [t(8)], {}, (40, 32, 32, 0)),
    (f"{MS}.BiasGelu", [t(2, 8), c(8)], [t(2, 8)], {}, (96, 64, 64, 32)),
    (f"{MS}.FastGelu", [t(2, 8), c(8)], [t(2, 8)], {}, (128, 64, 64, 32)),
    (f"{MS}.QuickGelu", [t(8)], [t(8)], {"alpha": 1.0}, (24, 32, 32, 0)),
    (f"{MS}.BiasSoftmax", [t(2, 8), t(1, 8)], [t(2, 8)], {}, (96, 64 + 32, 64, 0)),
    (
        f"{MS}.FusedConv",
        [t(1, 3, 8, 8), c(8, 3, 3, 3)],
        [t(1, 8, 6, 6)],
        {"activation": "Relu"},
        (55 * 288, 768, 1152, 864),
    ),
    (f"{BLOCKED}.MaxPool", [t(1, 16, 4, 4)], [t(1, 16, 2, 2)], {"kernel_shape": (3, 3)}, (9 * 64, 1024, 256, 0)),
    (f"{BLOCKED}.AveragePool", [t(1, 16, 4, 4)], [t(1, 16, 2, 2)], {"kernel_shape": (2, 2)}, (4 * 64, 1024, 256, 0)),
    (f"{BLOCKED}.GlobalAveragePool", [t(1, 16, 4, 4)], [t(1, 16, 1, 1)], {}, (256, 1024, 64, 0)),
    (f"{BLOCKED}.GlobalMaxPool", [t(1, 16, 4, 4)], [t(1, 16, 1, 1)], {}, (256, 1024, 64, 0)),
    (f"{BLOCKED}.ReorderInput", [t(1, 3, 4, 4)], [t(1, 16, 4, 4)], {}, (0, 192, 1024, 0)),
    (f"{BLOCKED}.ReorderOutput", [t(1, 16, 4, 4)], [t(1, 3, 4, 4)], {"channels": 3}, (0, 1024, 192, 0)),
    (f"{BLOCKED}.Upsample", [t(1, 16, 2, 2)], [t(1, 16, 4, 4)], {"scales": (1, 1, 2, 2)}, (0, 256, 1024, 0)),
    # 2 tokens of width 4: a row of each of three tables, their sums, and a layer normalization
    (
        f"{MS}.EmbedLayerNormalization",
        [t(1, 2, dtype="int32"), t(1, 2, dtype="int32"), c(100, 4), c(10, 4), c(2, 4), c(4), c(4)],
        [t(1, 2, 4), t(1, dtype="int32")],
        {},
        (8 * (2 + 7), 16, 32 + 4, 3 * 32 + 32),
    ),
    # 3 tokens to 24 columns of depth 8 and a bias, then 2 heads of 4 over 3 keys
    (
        f"{MS}.Attention",
        [t(1, 3, 8), c(8, 24), c(24)],
        [t(1, 3, 8)],
        {"num_heads": 2},
        (3 * 24 * 17 + 2 * 9 * 22, 96, 96, 768 + 96),
    ),
    # 2 heads of 4: 3 queries over 5 keys
    (
        f"{MS}.MultiHeadAttention",
        [t(1, 3, 8), t(1, 5, 8), t(1, 5, 8)],
        [t(1, 3, 8)],
        {"num_heads": 2},
        (2 * 15 * 22, 96 + 320, 96, 0),
    ),
    # 4 query heads and 2 key heads of 4: one query over 2 past keys and itself; rotation of 4 + 2 heads; a row of the
    # angles for the one position
    (
        f"{MS}.GroupQueryAttention",
        [t(1, 1, 16), t(1, 1, 8), t(1, 1, 8), t(1, 2, 2, 4), t(1, 2, 2, 4), None, None, c(32, 2), c(32, 2)],
        [t(1, 1, 16), t(1, 2, 3, 4), t(1, 2, 3, 4)],
        {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1},
        (4 * 3 * 22 + 3 * 4 * 6, 64 + 64 + 128, 64 + 192, 16),
    ),
    # 3 operations per element; for two positions two rows of 2 angles, twice
    (
        f"{MS}.RotaryEmbedding",
        [t(1, 2, 4), t(1, 2, dtype="int64"), c(8, 2), c(8, 2)],
        [t(1, 2, 4)],
        {},
        (24, 32 + 16, 32, 32),
    ),
    # 3 rows times a matrix of 32 x 4, packed in 64 bytes with a scale per block of 16
    (f"{MS}.MatMulNBits", [t(3, 32), c(4, 2, 8, dtype="uint8"), c(8)], [t(3, 4)], {"K": 32}, (768, 384, 48, 64 + 32)),
    # quantizing 2 x 4 takes 6 each, the product 8 and rescaling 2 per result
    (
        f"{MS}.DynamicQuantizeMatMul",
        [t(2, 4), c(4, 3, dtype="int8"), c(1)],
        [t(2, 3)],
        {},
        (6 * 10 + 8 * 6, 32, 24, 12 + 4),
    ),
    (
        f"{MS}.QGemm",
        [
            t(2, 4, dtype="uint8"),
            c(),
            c(dtype="uint8"),
            c(4, 3, dtype="int8"),
            c(),
            c(dtype="int8"),
            c(3, dtype="int32"),
        ],
        [t(2, 3, dtype="uint8")],
        {},
        (6 * (8 + 1 + 4), 8, 6, 4 + 1 + 12 + 4 + 1 + 12),
    ),
    (f"{MS}.QLinearSoftmax", [t(2, 8, dtype="uint8"), c()], [t(2, 8, dtype="uint8")], {}, (80, 16, 16, 4)),
    # as LSTM, with W and R in bytes and transposed: 5 steps, batch 2, 3 inputs, hidden 4
    (
        f"{MS}.DynamicQuantizeLSTM",
        [t(5, 2, 3), c(1, 3, 16, dtype="int8"), c(1, 4, 16, dtype="int8")],
        [t(5, 1, 2, 4)],
        {"hidden_size": 4},
        (10 * (2 * (48 + 64) + 17 * 4), 120, 160, 48 + 64),
    ),
    (f"{MS}.GroupNorm", [t(1, 4, 4, 8), c(8), c(8)], [t(1, 4, 4, 8)], {"groups": 2}, (7 * 128, 512, 512, 64)),
    (f"{MS}.HyperConnectionPreMix", [t(3, 2, 4), t(3, 2)], [t(3, 4)], {}, (48, 96 + 24, 48, 0)),
    (f"{MS}.HyperConnectionPostMix", [t(3, 2, 4), t(3, 4), t(3, 2), t(3, 2, 2)], [t(3, 2, 4)], {}, (144, 216, 96, 0)),
    # orders 2 and 3 with 4 heads each: 2 + 1 and 3 + 2 steps for the mixes, 2 per head
    (
        f"{MS}.NGramHashMapping",
        [t(1, 5, dtype="int64"), c(3, dtype="int64"), c(8, dtype="int64")],
        [t(1, 5, 8, dtype="int64")],
        {"max_ngram_size": 3, "n_head_per_ngram": 4},
        (5 * (3 + 8 + 5 + 8), 40, 320, 24 + 64),
    ),
    # half the elements
    ("Slice", [t(4, 4), c(1), c(1)], [t(2, 4)], {}, (0, 32, 32, 0)),
]


@pytest.mark.parametrize(("operator", "inputs", "outputs", "attributes", "expected"), BY_HAND)
def test_costs_worked_out_by_hand(
    operator: str,
    inputs: list[Given],
    outputs: list[Given],
    attributes: dict[str, object],
    expected: tuple[int, int, int, int],
) -> None:
    assert numbers(cost(operator, inputs, outputs, **attributes)) == expected


def test_every_operator_of_the_standard_and_the_optimiser_is_costed_by_hand_or_by_an_example() -> None:
    by_hand = {name for name, *_ in BY_HAND}
    of_standard = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    bodies = {"If", "Loop", "Scan", "SequenceMap"}  # test_bodies.py; SequenceMap is unknown
    assert of_standard - by_hand - bodies - {proto.op_type for _, proto, _, _ in examples()} == set()
    optimised = {f"{MS}.{name}" for name in OPTIMISED} | {f"{BLOCKED}.{name}" for name in IN_BLOCKED_LAYOUT}
    assert optimised - by_hand == set()


def test_a_tensor_in_two_slots_is_read_once() -> None:
    x, w = t(2, 3), c(3, 3)
    assert numbers(cost("Mul", [x, x], [t(2, 3)])) == (6, 24, 24, 0)
    assert numbers(cost("Concat", [x, x], [t(4, 3)])) == (0, 24, 48, 0)
    assert numbers(cost("MatMul", [w, w], [t(3, 3)])) == (54, 0, 36, 36)


def test_sequences_have_no_shape_and_a_cost() -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        agraph (float[4,3] x, float[2,3] y) => (float[n,3] z) {
            s = SequenceConstruct(x, y)
            i = Constant <value = int64 {0}> ()
            a = SequenceAt(s, i)
            j = ConcatFromSequence <axis = 0> (s)
            z = Concat <axis = 0> (a, j)
        }"""
    )
    seen = observe(model, {}, name="sequences")
    capture = Capture(seen.graph, seen.shapes)
    found = [operators.cost(capture, index) for index in range(len(seen.graph.nodes))]
    assert [numbers(one) for one in found if one] == [(0, 0, 0, 0), (0, 0, 0, 0), (0, 72, 72, 0), (0, 120, 120, 0)]


def test_a_depthwise_convolution_has_a_rate_of_its_own() -> None:
    dense = cost("Conv", [t(1, 8, 4, 4), c(8, 8, 3, 3)], [t(1, 8, 4, 4)])
    depthwise = cost("Conv", [t(1, 8, 4, 4), c(8, 1, 3, 3)], [t(1, 8, 4, 4)], group=8)
    blocked = cost(f"{BLOCKED}.Conv", [t(1, 8, 4, 4), c(8, 1, 3, 3)], [t(1, 8, 4, 4)], group=8)
    assert (dense.rate_class, depthwise.rate_class, blocked.rate_class) == (
        "conv_plain",
        "conv_depthwise_plain",
        "conv_depthwise",
    )


def test_half_precision_halves_the_traffic() -> None:
    full = cost("Softmax", [t(2, 8)], [t(2, 8)])
    half = cost("Softmax", [t(2, 8, dtype="float16")], [t(2, 8, dtype="float16")])
    assert (half.flops, half.bytes_read * 2) == (full.flops, full.bytes_read)


# ------------------------------------------------------------------ the examples of the standard


@cache
def examples() -> list[tuple[str, onnx.NodeProto, list[Given], list[Given]]]:
    """Every example of a single operator in the ONNX package: node, operands and results."""
    from onnx.backend.test.case.node import collect_testcases

    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        graph = case.model.graph
        if len(graph.node) != 1 or not case.data_sets:
            continue
        node, (ins, outs) = graph.node[0], case.data_sets[0]
        values = dict(zip([i.name for i in graph.input], ins, strict=False))
        values |= dict(zip([o.name for o in graph.output], outs, strict=False))
        if all(isinstance(v, np.ndarray | np.generic) for v in values.values()):
            operands = [_operand(values.get(name)) for name in node.input]
            found.append((case.name, node, operands, [_operand(values.get(name)) for name in node.output]))
    return found


def _operand(value: np.ndarray | None) -> Given:
    if value is None:
        return None
    array = np.asarray(value)
    return Operand(Tensor(next(_names), array.dtype.name, array.ndim), array.shape)


def test_costs_of_the_standards_examples_are_whole_and_within_bounds() -> None:
    seen = set()
    for name, proto, inputs, outputs in examples():
        attributes = {a.name: models_attribute(a) for a in proto.attribute}
        node = Node(name, "", proto.op_type, 21, tuple(proto.input), tuple(proto.output), attributes)  # type: ignore[arg-type]
        row = operators.find(node)
        if row is None or proto.domain:
            continue
        found = row.cost(node, inputs, outputs)
        assert all(isinstance(v, int) and v >= 0 for v in numbers(found)), name
        read = sum(i.bytes for i in inputs if i is not None)
        written = sum(o.bytes for o in outputs if o is not None)
        # GatherND with batch dimensions may pick an element more than once; nothing else reads more than its operands.
        again = written if row.op_type in ("GatherND", "Gather", "GatherElements") else 0
        assert found.bytes_read + found.parameter_bytes <= read + again, name
        # Only a scatter writes twice: the copy, then the updates.
        assert found.bytes_written <= written + (
            read if "catter" in row.op_type or row.op_type == "MaxUnpool" else 0
        ), name
        seen.add(proto.op_type)
    assert len(seen) > 150


def models_attribute(attribute: onnx.AttributeProto) -> object:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    return tuple(value) if isinstance(value, list) else value


# ------------------------------------------------------------------ known networks


def multiply_adds(model: onnx.ModelProto, shapes: dict[str, Shape]) -> float:
    """Multiply-adds of matrix products and convolutions, in billions."""
    seen = observe(model, shapes, name="network")
    capture = Capture(seen.graph, seen.shapes)
    total = 0
    for index, node in enumerate(capture.graph.nodes):
        row = operators.find(node)
        assert row is not None, node.operator
        if row.fusion_class is FusionClass.CONTRACTION:
            found = operators.cost(capture, index)
            assert found is not None, f"{node.name}: a shape is unknown"
            total += found.flops
    return total / 2e9


LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"

# Billions of multiply-adds at 224 x 224 (227 for AlexNet), as published by the authors or torchvision.
PUBLISHED = [
    ("light_resnet50.onnx", 4.1, 0.02),  # He et al. 2015, stride in the 3 x 3 convolution; torchvision 4.09
    ("light_vgg19.onnx", 19.6, 0.02),  # torchvision 19.63
    ("light_bvlc_alexnet.onnx", 0.66, 0.12),  # Krizhevsky et al. 2012 with its groups
    ("light_inception_v1.onnx", 1.5, 0.06),  # Szegedy et al. 2014: 1.5 billion
    ("light_inception_v2.onnx", 2.0, 0.03),  # Ioffe and Szegedy 2015, as counted by Szegedy et al.: 2 billion
    ("light_densenet121.onnx", 2.87, 0.02),  # torchvision 2.83
    ("light_squeezenet.onnx", 0.352, 0.02),  # SqueezeNet 1.1: 2.4 times fewer than 0.86
]


@pytest.mark.parametrize(("name", "billions", "within"), PUBLISHED)
def test_published_counts_of_networks_in_the_onnx_package(name: str, billions: float, within: float) -> None:
    path = LIGHT / name
    if not path.is_file():
        pytest.skip("this onnx package does not hold the model")
    assert multiply_adds(models.load(path), {}) == pytest.approx(billions, rel=within)


SAMPLES = [
    ("resnet50.onnx", {"image": (1, 3, 224, 224)}, 4.09, 0.01),  # torchvision
    ("resnet50.onnx", {"image": (4, 3, 224, 224)}, 4 * 4.09, 0.01),
    ("resnext101_32x4d.onnx", {"image": (1, 3, 224, 224)}, 8.0, 0.02),  # Xie et al. 2016 by their rule; timm 8.01
    ("mobilenet_v3_large.onnx", {"image": (1, 3, 224, 224)}, 0.219, 0.01),  # Howard et al. 2019
    ("regnet_y_1_6gf.onnx", {"image": (1, 3, 224, 224)}, 1.6, 0.02),  # Radosavovic et al. 2020: its name
    ("swin_tiny.onnx", {"image": (1, 3, 224, 224)}, 4.5, 0.02),  # Liu et al. 2021
    # 12 layers of (4 + 8) * 128 * 768 * 768 for the projections and 2 * 128 * 128 * 768 for attention, and the pooler
    (
        "bert_base.onnx",
        {"tokens": (1, 128), "mask": (1, 128), "segments": (1, 128)},
        12 * (12 * 128 * 768 * 768 + 2 * 128 * 128 * 768) / 1e9,
        0.001,
    ),
]


@pytest.mark.parametrize(("name", "shapes", "billions", "within"), SAMPLES)
def test_published_counts_of_the_sample_graphs(
    sample_graphs: Path, name: str, shapes: dict[str, Shape], billions: float, within: float
) -> None:
    assert multiply_adds(models.load(sample_graphs / name), shapes) == pytest.approx(billions, rel=within)


# Structure and widths from the publications; counts as the authors or torchvision and timm publish them.
BUILT = [
    # He et al. 2015: 3.8 billion (of the convolutions), with the stride in the first convolution of a block
    ("ResNet-50 as published", lambda: networks.resnet((3, 4, 6, 3), stride_first=True), 3.8, 25.6, 0.02),
    ("ResNet-18", networks.resnet18, 1.81, 11.69, 0.01),  # torchvision 1.81
    ("ResNeXt-50 32x4d", lambda: networks.resnet((3, 4, 6, 3), groups=32, width=128), 4.23, 25.03, 0.01),  # torchvision
    ("ResNeXt-101 32x4d", lambda: networks.resnet((3, 4, 23, 3), groups=32, width=128), 8.01, 44.18, 0.01),  # timm
    ("MobileNetV2", networks.mobilenet_v2, 0.30, 3.5, 0.02),  # Sandler et al. 2018: 300 million, 3.4 M; torchvision 3.5
    ("EfficientNet-B0", networks.efficientnet_b0, 0.39, 5.3, 0.01),  # Tan and Le 2019
    ("ShuffleNetV2 1.0", networks.shufflenet_v2, 0.146, 2.28, 0.01),  # Ma et al. 2018: 146 million; torchvision 2.28
    ("DeiT-tiny", lambda: networks.vision_transformer(192, 3), 1.26, 5.72, 0.01),  # Touvron et al. 2021: 1.3; timm 1.26
    ("ViT-B/16", lambda: networks.vision_transformer(768, 12), 17.58, 86.57, 0.01),  # timm, torchvision
    ("ConvNeXt-T", networks.convnext_tiny, 4.47, 28.59, 0.01),  # Liu et al. 2022: 4.5; timm 4.47
]


@pytest.mark.parametrize(("name", "build", "billions", "millions", "within"), BUILT)
def test_published_counts_of_networks_built_here(
    name: str, build: Callable[[], onnx.ModelProto], billions: float, millions: float, within: float
) -> None:
    model = build()
    assert multiply_adds(model, {}) == pytest.approx(billions, rel=within)
    seen = observe(model, {}, name=name)
    assert parameter_elements(Capture(seen.graph, seen.shapes)) / 1e6 == pytest.approx(millions, rel=0.01)


def test_element_sizes() -> None:
    assert [element_bytes(d) for d in ("float32", "int64", "bool", "float16", "bfloat16", "float8e4m3fn")] == [
        4,
        8,
        1,
        2,
        2,
        1,
    ]
