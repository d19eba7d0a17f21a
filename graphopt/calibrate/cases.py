"""What ``calibrate`` measures of onnxruntime's own operators: for each rate of a machine, one case or several.

Rates of one key are fitted to all of its cases at once, so that a class whose rows have a price of their own has a case
with long rows and one with short rows. Operands take about 256 KiB each: the data lie in the second-level cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from graphopt.calibrate.layers import RECURRENT, Layer, along_time, convolution, recurrent

MS = "com.microsoft"
BLOCKED = "com.microsoft.nchwc"

Array = NDArray[Any]
_RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """One operator to time.

    Attributes:
        key: the rate that it measures: a rate class, or an operator's full name.
        op_type: operator type.
        inputs: values by slot; None is absent.
        constants: slots that are initializers.
        attributes: of the node.
        domain: of the operator; empty for ai.onnx.
        outputs: number of results.
        opset: of ai.onnx.
    """

    key: str
    op_type: str
    inputs: Sequence[Array | np.generic | None]
    constants: tuple[int, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    outputs: int = 1
    opset: int = 17

    @property
    def feeds(self) -> dict[str, Array]:
        """Inputs that are no initializers, by name (``x0``, ``x1``, …)."""
        return {
            f"x{slot}": np.asarray(value)
            for slot, value in enumerate(self.inputs)
            if value is not None and slot not in self.constants
        }


def f32(*shape: int) -> Array:
    """Values in (0.5, 1.5): valid for every operator that is timed."""
    return _RNG.random(shape, np.float32) + np.float32(0.5)


def _indices(high: int, *shape: int) -> Array:
    return _RNG.integers(0, high, shape)


def _u8(*shape: int) -> Array:
    return _RNG.integers(100, 150, shape).astype(np.uint8)


def _ints(*values: int) -> Array:
    return np.asarray(values, np.int64)


X, Y = f32(256, 256), f32(256, 256)
_IMAGE = f32(1, 64, 28, 28)
_TRUTH = X > 1
_STEP = np.asarray(np.float32(0.02)), np.asarray(np.uint8(128))
_ZERO = np.uint8(128)


def _unary(op_type: str, key: str = "", **more: Any) -> Case:
    return Case(key or op_type, op_type, [X], **more)


def _binary(op_type: str, key: str = "", **more: Any) -> Case:
    return Case(key or op_type, op_type, [X, Y], **more)


def _rows(op_type: str, key: str, **more: Any) -> tuple[Case, ...]:
    """Long and short rows along the last axis, some of which end in the middle of a vector."""
    sizes = ((128, 512), (2048, 32), (256, 200), (1000, 49))
    return tuple(Case(key, op_type, [f32(*size)], **more) for size in sizes)


def _conv(key: str, layer: Layer, *, domain: str = "", activation: str = "") -> Case:
    """A convolution by constant weights."""
    operands = [f32(*layer.shapes[name]) for name in "xwb" if name in layer.shapes]
    attributes = {**layer.attributes, **({"activation": activation} if activation else {})}
    return Case(key, "Conv", operands, tuple(range(1, len(operands))), attributes, domain)


def _plain(key: str, *sizes: int, **more: int) -> Case:
    return _conv(key, convolution(*sizes, **more))


def _blocked(key: str, *sizes: int, activation: str = "", **more: int) -> Case:
    return _conv(key, convolution(*sizes, **more), domain=BLOCKED, activation=activation)


def _along_time(*sizes: int, batch: int = 1, stride: int = 1) -> Case:
    key = "conv_plain_strided" if stride > 1 else "conv_plain"
    return _conv(key, along_time(*sizes, batch=batch, stride=stride))


def _recurrent(op_type: str, *sizes: int) -> Case:
    layer = recurrent(op_type, *sizes)
    return Case("recurrent", op_type, [f32(*layer.shapes[name]) for name in "xwrb"], (1, 2, 3), layer.attributes)


def _integer_weights(dtype: type, *shape: int) -> Array:
    return _RNG.integers(100, 120, shape).astype(dtype)


def _integer_case(key: str, op_type: str, left: Array, right: Array, **attributes: Any) -> Case:
    """Integers without a sign by ``right``: several matrices, or constant weights."""
    zeros = np.asarray(_ZERO), np.asarray(right.dtype.type(110))
    constant = right.ndim != 3
    key = key if right.dtype == np.int8 else f"{key}_unsigned"
    if op_type.startswith("QLinear"):
        scale = _STEP[0]
        operands = [left, scale, zeros[0], right, scale, zeros[1], *_STEP]
        slots = (1, 2, 3, 4, 5, 6, 7) if constant else (1, 2, 4, 5, 6, 7)
        return Case(key, op_type, operands, slots, attributes)
    return Case(key, op_type, [left, right, *zeros], (1, 2, 3) if constant else (2, 3), attributes)


def _integer_product(op_type: str, dtype: type, rows: int, depth: int, columns: int, number: int = 0) -> Case:
    front = (number,) if number else ()
    left, right = _u8(*front, rows, depth), _integer_weights(dtype, *front, depth, columns)
    return _integer_case("gemm_int8", op_type, left, right)


def _integer_conv(op_type: str, dtype: type, *sizes: int) -> Case:
    layer = convolution(*sizes)
    left, right = _u8(*layer.shapes["x"]), _integer_weights(dtype, *layer.shapes["w"])
    return _integer_case(
        "QLinearConv" if op_type == "QLinearConv" else "conv_int8", op_type, left, right, **layer.attributes
    )


def _matmul(rows: int, depth: int, columns: int) -> Case:
    return Case("gemm", "MatMul", [f32(rows, depth), f32(depth, columns)], (1,))


def _heads(number: int, rows: int, depth: int, columns: int, *, turned: bool = False) -> Case:
    if turned:
        operands = [f32(number, rows, depth), f32(number, columns, depth)]
        return Case("gemm_computed", "FusedMatMul", operands, (), {"transB": 1}, MS)
    return Case("gemm_computed", "MatMul", [f32(number, rows, depth), f32(number, depth, columns)])


def _transpose(key: str, shape: Sequence[int], perm: Sequence[int]) -> Case:
    return Case(key, "Transpose", [f32(*shape)], (), {"perm": list(perm)})


def _concat(*shapes: Sequence[int]) -> Case:
    return Case("Concat", "Concat", [f32(*shape) for shape in shapes], (), {"axis": 1})


def _singles(operands: int, rows: int) -> Case:
    """Operands that give single elements in turn."""
    return replace(_concat(*[(rows, 1)] * operands), key="Concat_elements")


def _reorder(key: str, op_type: str, channels: int, size: int, **attributes: Any) -> Case:
    """A reorder of an image; ``size`` squared is a multiple of 16 or not."""
    name = f"{BLOCKED}.{op_type}{key}"
    padded = -(-channels // 16) * 16 if op_type == "ReorderOutput" else channels
    attributes |= {"channels": channels} if op_type == "ReorderOutput" else {}
    last = op_type == "ReorderInput" and attributes.get("channels_last")
    shape = (1, size, size, padded) if last else (1, padded, size, size)
    return Case(name, op_type, [f32(*shape)], (), attributes, BLOCKED)


def _norm(op_type: str, key: str, operands: int, constants: int, **more: Any) -> tuple[Case, ...]:
    """Normalisation of long and of short rows; ``operands`` tensors, then ``constants`` vectors."""
    slots = tuple(range(operands, operands + constants))
    shapes = ((1, 128, 512), (1, 1024, 64))
    return tuple(
        Case(key, op_type, [*(f32(*s) for _ in range(operands)), *(f32(s[-1]) for _ in slots)], slots, **more)
        for s in shapes
    )


ARITHMETIC: tuple[Case, ...] = (
    _binary("Add", "add"),
    Case("add", "Add", [f32(2048, 32), f32(32)], (1,)),
    Case("add", "Add", [f32(160, 384), f32(384)], (1,)),
    Case("add", "Add", [f32(1, 256, 14, 14), f32(1, 256, 1, 1)]),
    Case("add", "Add", [X, f32()], (1,)),
    Case("add", "Add", [f32(100, 600), f32(100, 1)]),
    Case("add", "Add", [f32(1, 800, 1, 1), f32(1)], (1,)),
    Case("add_wide", "Add", [_indices(9, 160, 256), _indices(9, 160, 256)]),
    _binary("Mul", "mul"),
    Case("mul", "Mul", [f32(1, 1024, 8, 8), f32(1, 1024, 1, 1)]),
    Case("mul", "Mul", [f32(1, 256, 14, 14), f32(1, 256, 1, 1)]),
    Case("mul", "Mul", [f32(160, 384), f32(384)], (1,)),
    Case("mul", "Mul", [f32(100, 600), f32(100, 1)]),
    Case("mul", "Mul", [f32(1, 64, 200, 2), f32(1, 1, 200, 1)]),
    Case("mul", "Mul", [f32(1, 800, 1, 1), f32(1)], (1,)),
    Case("mul_wide", "Mul", [_indices(9, 160, 256), _indices(9, 160, 256)]),
    _binary("Div", "div"),
    Case("div", "Div", [f32(160, 384), f32(384)], (1,)),
    Case("div", "Div", [f32(1024, 64), f32(1024, 1)]),
    Case("div", "Div", [f32(1, 800, 1, 1), f32(1)], (1,)),
    _binary("Pow", "pow"),
    _unary("Sqrt", "sqrt"),
    _unary("Exp", "exp"),
    _unary("Log", "log"),
    _unary("Erf", "erf"),
    _unary("Tanh", "tanh"),
    _unary("Sigmoid", "sigmoid"),
    _unary("Sin", "sin"),
    _unary("Cast", "cast", attributes={"to": TensorProto.INT32}),
    *(
        _unary(name)
        for name in ("Floor", "Neg", "Abs", "Sign", "Relu", "LeakyRelu", "HardSigmoid", "HardSwish", "IsNaN")
    ),
    _unary("Reciprocal"),
    _unary("Softplus"),
    Case("Clip", "Clip", [X, np.float32(0.6), np.float32(1.2)], (1, 2)),
    *(_binary(name) for name in ("Max", "Min", "Sum", "Equal", "Less")),
    Case("And", "And", [_TRUTH, ~_TRUTH]),
    Case("Not", "Not", [_TRUTH]),
    Case("Where", "Where", [_TRUTH, X, Y]),
    _unary("Gelu", opset=20),
    _unary("Gelu", f"{MS}.Gelu", domain=MS),
    Case(f"{MS}.BiasGelu", "BiasGelu", [X, f32(256)], (1,), {}, MS),
    Case(f"{MS}.FastGelu", "FastGelu", [X], (), {}, MS),
    Case(f"{MS}.QuickGelu", "QuickGelu", [X], (), {"alpha": 1.0}, MS),
    Case("BatchNormalization", "BatchNormalization", [_IMAGE, *(f32(64) for _ in range(4))], (1, 2, 3, 4)),
)

LAYOUT: tuple[Case, ...] = (
    _transpose("transpose_axis", (4, 128, 2, 64), (0, 2, 1, 3)),
    _transpose("transpose_axis", (4, 64, 16, 16), (0, 2, 1, 3)),
    _transpose("transpose_axis", (1, 2, 64, 512), (0, 2, 1, 3)),
    _transpose("transpose_axis", (1, 160, 8, 64), (0, 2, 1, 3)),
    _transpose("transpose_axis", (6, 36, 8, 32), (0, 2, 1, 3)),
    _transpose("transpose_axis", (2, 2, 48, 16, 16), (0, 2, 1, 3, 4)),
    _transpose("transpose", (3, 36, 2, 8, 32), (2, 0, 3, 1, 4)),
    _transpose("transpose", (2, 8, 4, 8, 128), (2, 0, 3, 1, 4)),
    _transpose("transpose_elements", (1, 240, 264), (0, 2, 1)),
    _transpose("transpose_elements", (1, 300, 100), (0, 2, 1)),
    _transpose("transpose_narrow", (1, 100, 100, 3), (0, 3, 1, 2)),
    _transpose("transpose_narrow", (1, 3, 100, 100), (0, 2, 3, 1)),
    _transpose("transpose_aliased", (1, 120, 512), (0, 2, 1)),
    _transpose("transpose_aliased", (300, 128), (1, 0)),
    _concat((64, 512), (64, 512)),
    _concat((1024, 32), (1024, 32)),
    _concat(*[(64, 1, 32)] * 24),
    _concat((1, 400, 12, 12), (1, 40, 12, 12)),
    _concat((4096, 8), (4096, 8)),
    _singles(2, 9000),
    _singles(20, 200),
    Case("Split", "Split", [f32(64, 1024)], (), {"axis": 1}, outputs=2, opset=13),
    Case("Split", "Split", [f32(1024, 64)], (), {"axis": 1}, outputs=2, opset=13),
    Case("Slice", "Slice", [f32(256, 512), _ints(0), _ints(256), _ints(1)], (1, 2, 3)),
    Case("Slice", "Slice", [f32(4096, 32), _ints(0), _ints(16), _ints(1)], (1, 2, 3)),
    Case("Slice_elements", "Slice", [f32(256, 512), _ints(0), _ints(512), _ints(1), _ints(2)], (1, 2, 3, 4)),
    Case("Expand", "Expand", [f32(256, 1), _ints(256, 256)], (1,)),
    Case("Tile", "Tile", [f32(64, 64), _ints(4, 4)], (1,)),
    Case("Pad", "Pad", [f32(128, 500), _ints(0, 6, 0, 6)], (1,)),
    Case("Pad", "Pad", [f32(1, 64, 30, 30), _ints(0, 0, 1, 1, 0, 0, 1, 1)], (1,)),
    _reorder("", "ReorderInput", 64, 28),
    _reorder("", "ReorderInput", 24, 36),
    _reorder("", "ReorderInput", 200, 14),
    _reorder("", "ReorderInput", 64, 28, channels_last=1),
    _reorder("", "ReorderOutput", 64, 28),
    _reorder("", "ReorderOutput", 24, 36),
    _reorder("", "ReorderOutput", 128, 12),
    _reorder("_uneven", "ReorderOutput", 64, 29),
    _reorder("_uneven", "ReorderOutput", 320, 13),
    _reorder("_last", "ReorderOutput", 64, 28, channels_last=1),
    _reorder("_last", "ReorderOutput", 96, 18, channels_last=1),
    Case("fill", "ConstantOfShape", [_ints(256, 256)]),
    Case("gather", "Gather", [f32(512, 64), _indices(512, 1024)], (0,), {"axis": 0}),
    Case("gather", "Gather", [f32(4096, 8), _indices(4096, 4096)], (0,), {"axis": 0}),
    Case("gather_elements", "Gather", [f32(256, 300), _indices(300, 250)], (1,), {"axis": 1}),
    Case("gather_element", "GatherElements", [X, _indices(256, 256, 256)], (), {"axis": 1}),
    Case("scatter", "ScatterElements", [X, _indices(256, 256, 256), Y], (), {"axis": 1}, opset=16),
    Case("OneHot", "OneHot", [_indices(256, 256), _ints(256)[0], np.asarray([0, 1], np.float32)], (1, 2), {"axis": -1}),
)

REDUCTIONS: tuple[Case, ...] = (
    *_rows("ReduceSum", "reduce", attributes={"axes": [-1], "keepdims": 1}, opset=11),
    *_rows("ReduceMean", "ReduceMean", attributes={"axes": [-1], "keepdims": 1}),
    Case("ReduceMax", "ReduceMax", [_IMAGE], (), {"axes": [2, 3], "keepdims": 1}),
    Case("ReduceMax", "ReduceMax", [f32(2048, 32)], (), {"axes": [1], "keepdims": 1}),
    Case("GlobalAveragePool", "GlobalAveragePool", [_IMAGE]),
    Case(f"{BLOCKED}.GlobalAveragePool", "GlobalAveragePool", [_IMAGE], (), {}, BLOCKED),
    _unary("ArgMax", "argmax", attributes={"axis": -1}),
    *_rows("Softmax", "softmax", attributes={"axis": -1}),
    Case("scan", "CumSum", [X, _ints(1)[0]], (1,)),
    Case("ReduceSum", "ReduceSum", [f32(64, 16, 64), _ints(1)], (1,), {"keepdims": 0}),
    Case("ReduceSum", "ReduceSum", [f32(256, 256), _ints(1)], (1,), {"keepdims": 1}),
    *_norm("LayerNormalization", "layernorm", 1, 2, attributes={"axis": -1}),
    *_norm("SimplifiedLayerNormalization", "SimplifiedLayerNormalization", 1, 1, attributes={"axis": -1}),
    *_norm("SkipLayerNormalization", f"{MS}.SkipLayerNormalization", 2, 2, domain=MS),
    Case("InstanceNormalization", "InstanceNormalization", [_IMAGE, f32(64), f32(64)], (1, 2)),
    Case("lrn", "LRN", [_IMAGE], (), {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}),
)

_POOL = {"kernel_shape": [3, 3], "pads": [1] * 4}
_WIDE_POOL = {"kernel_shape": [5, 5], "pads": [2] * 4}
_SCALES = np.asarray([1, 1, 2, 2], np.float32)

WINDOWS: tuple[Case, ...] = (
    Case("pool", "MaxPool", [_IMAGE], (), _POOL),
    Case(f"{BLOCKED}.MaxPool", "MaxPool", [_IMAGE], (), _POOL, BLOCKED),
    Case(f"{BLOCKED}.MaxPool", "MaxPool", [_IMAGE], (), _WIDE_POOL, BLOCKED),
    Case("AveragePool", "AveragePool", [_IMAGE], (), _POOL),
    Case(f"{BLOCKED}.AveragePool", "AveragePool", [_IMAGE], (), _POOL, BLOCKED),
    *(
        Case(f"resize_{mode}", "Resize", [f32(1, 64, 16, 16), None, _SCALES], (2,), {"mode": mode})
        for mode in ("nearest", "linear", "cubic")
    ),
)

CONTRACTIONS: tuple[Case, ...] = (
    _matmul(256, 256, 256),
    _matmul(128, 32, 256),
    _matmul(64, 512, 128),
    _matmul(4, 160, 1024),
    _matmul(8, 400, 500),
    _matmul(16, 200, 192),
    _matmul(8, 640, 640),
    _matmul(12, 1000, 1000),
    _matmul(80, 256, 8),
    _matmul(70, 300, 1),
    Case("gemm", "Gemm", [f32(70, 300), f32(1, 300), f32(1)], (1, 2), {"transB": 1}),
    _matmul(160, 144, 600),
    Case("gemm", "Gemm", [f32(72, 300), f32(300, 340), f32(340)], (1, 2)),
    _heads(8, 64, 64, 64),
    _heads(12, 50, 32, 50),
    _heads(48, 20, 24, 20),
    _heads(4, 160, 160, 64),
    _heads(256, 4, 16, 4),
    _heads(6, 10, 12, 30),
    _heads(8, 64, 64, 64, turned=True),
    _heads(48, 20, 24, 20, turned=True),
    _heads(30, 40, 16, 40, turned=True),
    replace(_matmul(1, 256, 512), key="gemm_row"),
    replace(_matmul(1, 1200, 100), key="gemm_row"),
    replace(_matmul(1, 96, 200), key="gemm_row"),
    _plain("conv_plain", 64, 64, 28, 3),
    _plain("conv_plain", 24, 72, 14, 5),
    _plain("conv_plain_pointwise", 200, 50, 13, 1),
    _plain("conv_plain", 8, 40, 60, 3),
    _plain("conv_plain", 128, 128, 14, 3, 16),
    _plain("conv_plain_pointwise", 144, 144, 20, 1, 4),
    _plain("conv_plain", 64, 64, 5, 3, batch=8),
    _plain("conv_plain_strided", 64, 64, 28, 3, stride=2),
    _plain("conv_plain_strided", 3, 32, 100, 3, stride=2),
    _plain("conv_plain_pointwise", 64, 80, 30, 1),
    _along_time(96, 120, 400, 3, stride=2),
    _along_time(1, 130, 4000, 200, stride=40),
    _along_time(1, 130, 800, 200, batch=8, stride=100),
    _along_time(96, 120, 300, 3),
    _along_time(1, 100, 3000, 10),
    _along_time(100, 80, 4, 3, batch=12),
    _plain("conv_depthwise_plain", 64, 64, 28, 3, 64),
    _plain("conv_depthwise_plain", 100, 100, 14, 5, 100),
    _plain("conv_depthwise_plain", 40, 40, 40, 3, 40),
    _blocked("conv", 64, 64, 28, 3),
    _blocked("conv", 32, 16, 28, 3),
    _blocked("conv", 16, 16, 60, 3),
    _blocked("conv", 160, 160, 7, 3),
    _blocked("conv", 3, 32, 80, 3),
    _blocked("conv", 1, 32, 60, 3),
    _blocked("conv_strided", 32, 64, 28, 3, stride=2),
    _blocked("conv_strided", 48, 48, 20, 3, stride=2),
    _blocked("conv_strided", 3, 16, 100, 3, stride=2),
    _blocked("conv", 48, 48, 20, 3, activation="HardSwish"),
    _blocked("conv_pointwise", 128, 128, 28, 1),
    _blocked("conv_pointwise", 32, 32, 28, 1),
    _blocked("conv_pointwise", 16, 48, 60, 1),
    _blocked("conv_pointwise", 96, 16, 30, 1),
    _blocked("conv_pointwise", 320, 96, 7, 1),
    _blocked("conv_row", 208, 480, 1, 1),
    _blocked("conv_row", 48, 960, 1, 1),
    _blocked("conv_row", 960, 240, 1, 1),
    _blocked("conv_row", 160, 48, 1, 1),
    _blocked("conv_pointwise", 480, 96, 1, 1, batch=4),
    _blocked("conv_pointwise", 64, 128, 28, 1, stride=2),
    _blocked("conv_pointwise", 64, 64, 20, 1, activation="HardSwish"),
    _blocked("conv_depthwise", 64, 64, 28, 3, 64),
    _blocked("conv_depthwise", 64, 64, 28, 5, 64),
    _blocked("conv_depthwise", 320, 320, 14, 3, 320),
    _blocked("conv_depthwise", 800, 800, 7, 5, 800),
    _blocked("conv_depthwise", 32, 32, 60, 3, 32),
    _blocked("conv_depthwise", 400, 400, 14, 1, 400),
    _blocked("conv_depthwise", 96, 96, 20, 7, 96),
    _blocked("conv_depthwise", 160, 160, 14, 3, 160, activation="HardSwish"),
    _blocked("conv_depthwise_strided", 64, 64, 40, 3, 64, stride=2),
    _blocked("conv_depthwise_strided", 160, 160, 14, 5, 160, stride=2),
    _blocked("conv_depthwise_strided", 96, 96, 28, 5, 96, stride=2),
    _blocked("conv_depthwise_strided", 320, 320, 14, 3, 320, stride=2),
    _blocked("conv_depthwise_strided", 160, 160, 4, 3, 160, batch=6, stride=2),
    Case("conv_transpose", "ConvTranspose", [f32(1, 32, 28, 28), f32(32, 32, 2, 2)], (1,), {"strides": [2, 2]}),
    *(_recurrent(*sizes) for sizes in RECURRENT),
)

_SOFTMAX = {"axis": -1, "opset": 13}

QUANTIZED: tuple[Case, ...] = (
    Case("quantize", "QuantizeLinear", [X, *_STEP], (1, 2)),
    Case("dequantize", "DequantizeLinear", [_u8(256, 256), *_STEP], (1, 2)),
    Case("DynamicQuantizeLinear", "DynamicQuantizeLinear", [X], outputs=3, opset=11),
    *(
        _integer_product(op_type, dtype, *sizes)
        for dtype in (np.uint8, np.int8)
        for op_type, *sizes in (
            ("MatMulInteger", 256, 256, 256),
            ("MatMulInteger", 30, 500, 200),
            ("MatMulInteger", 300, 64, 400),
            ("MatMulInteger", 200, 200, 64, 4),
            ("MatMulInteger", 50, 32, 50, 12),
            ("QLinearMatMul", 256, 256, 256),
            ("QLinearMatMul", 150, 150, 64, 4),
        )
    ),
    *(
        _integer_conv(op_type, dtype, *sizes)
        for dtype in (np.uint8, np.int8)
        for op_type, *sizes in (
            ("ConvInteger", 64, 64, 28, 3),
            ("ConvInteger", 16, 32, 40, 3),
            ("ConvInteger", 128, 96, 14, 3),
            ("ConvInteger", 80, 160, 30, 1),
            ("ConvInteger", 96, 48, 20, 1),
            ("QLinearConv", 32, 64, 28, 3),
            ("QLinearConv", 128, 96, 14, 3),
            ("QLinearConv", 80, 160, 30, 1),
        )
    ),
    Case(
        "softmax_int8", "QLinearSoftmax", [_u8(256, 256), *_STEP, *_STEP], (1, 2, 3, 4), {"axis": -1, "opset": 13}, MS
    ),
)

CASES: tuple[Case, ...] = (*ARITHMETIC, *LAYOUT, *REDUCTIONS, *WINDOWS, *CONTRACTIONS, *QUANTIZED)
"""Every operator that is timed as a node of its own."""


def peak_cases() -> dict[str, Case]:
    """A large matrix product for each dtype in which onnxruntime may have one, by dtype."""
    left, right = f32(512, 512), f32(512, 512)
    found = {
        dtype: Case(dtype, "MatMul", [left.astype(dtype), right.astype(dtype)], (1,))
        for dtype in ("float32", "float64", "float16")
    }
    signed = _u8(512, 512).astype(np.int8)
    operands = [_u8(512, 512), *_STEP, signed, _STEP[0], np.asarray(np.int8(0)), *_STEP]
    return found | {"int8": Case("int8", "QLinearMatMul", operands, (1, 2, 3, 4, 5, 6, 7))}


TINY = Case("tiny", "Neg", [f32(4, 4)])
"""An operator that does nothing to speak of: its time is that of a call."""
