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
    return (0.5 + _RNG.random(shape)).astype(np.float32)


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
    """Long and short rows along the last axis."""
    return tuple(Case(key, op_type, [f32(65536 // size, size)], **more) for size in (512, 32))


def conv(key: str, channels: int, out: int, size: int, kernel: int, group: int = 1, **more: Any) -> Case:
    """A convolution with padding that keeps the size."""
    attributes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "group": group, "strides": [1, 1]}
    inputs = [f32(1, channels, size, size), f32(out, channels // group, kernel, kernel), f32(out)]
    return Case(key, "Conv", inputs, (1, 2), attributes, **more)


def _matmul(rows: int, depth: int, columns: int) -> Case:
    return Case("gemm", "MatMul", [f32(rows, depth), f32(depth, columns)], (1,))


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
    _binary("Mul", "mul"),
    Case("mul", "Mul", [f32(1, 1024, 8, 8), f32(1, 1024, 1, 1)]),
    _binary("Div", "div"),
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
    Case("transpose", "Transpose", [f32(4, 128, 2, 64)], (), {"perm": [0, 2, 1, 3]}),
    Case("transpose", "Transpose", [f32(4, 64, 16, 16)], (), {"perm": [0, 2, 1, 3]}),
    Case("transpose", "Transpose", [f32(1, 2, 64, 512)], (), {"perm": [0, 2, 1, 3]}),
    Case("transpose_elements", "Transpose", [f32(1, 240, 264)], (), {"perm": [0, 2, 1]}),
    Case("Concat", "Concat", [f32(64, 512), f32(64, 512)], (), {"axis": 1}),
    Case("Concat", "Concat", [f32(1024, 32), f32(1024, 32)], (), {"axis": 1}),
    Case("Split", "Split", [f32(64, 1024)], (), {"axis": 1}, outputs=2, opset=13),
    Case("Split", "Split", [f32(1024, 64)], (), {"axis": 1}, outputs=2, opset=13),
    Case("Slice", "Slice", [f32(256, 512), _ints(0), _ints(256), _ints(1)], (1, 2, 3)),
    Case("Slice", "Slice", [f32(4096, 32), _ints(0), _ints(16), _ints(1)], (1, 2, 3)),
    Case("Slice_elements", "Slice", [f32(256, 512), _ints(0), _ints(512), _ints(1), _ints(2)], (1, 2, 3, 4)),
    Case("Expand", "Expand", [f32(256, 1), _ints(256, 256)], (1,)),
    Case("Tile", "Tile", [f32(64, 64), _ints(4, 4)], (1,)),
    Case("Pad", "Pad", [f32(128, 500), _ints(0, 6, 0, 6)], (1,)),
    Case("Pad", "Pad", [f32(1, 64, 30, 30), _ints(0, 0, 1, 1, 0, 0, 1, 1)], (1,)),
    Case(f"{BLOCKED}.ReorderInput", "ReorderInput", [_IMAGE], (), {}, BLOCKED),
    Case(f"{BLOCKED}.ReorderOutput", "ReorderOutput", [_IMAGE], (), {"channels": 64}, BLOCKED),
    Case(f"{BLOCKED}.ReorderOutput", "ReorderOutput", [f32(1, 64, 29, 29)], (), {"channels": 64}, BLOCKED),
    Case(f"{BLOCKED}.ReorderOutput", "ReorderOutput", [f32(1, 32, 40, 60)], (), {"channels": 24}, BLOCKED),
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
    replace(_matmul(1, 256, 512), key="gemm_row"),
    conv("conv_plain", 64, 64, 28, 3),
    conv("conv_depthwise_plain", 64, 64, 28, 3, 64),
    conv("conv", 64, 64, 28, 3, domain=BLOCKED),
    conv("conv", 128, 128, 28, 1, domain=BLOCKED),
    conv("conv", 32, 32, 28, 1, domain=BLOCKED),
    conv("conv", 32, 16, 28, 3, domain=BLOCKED),
    conv("conv_depthwise", 64, 64, 28, 3, 64, domain=BLOCKED),
    conv("conv_depthwise", 64, 64, 28, 5, 64, domain=BLOCKED),
    Case("conv_transpose", "ConvTranspose", [f32(1, 32, 28, 28), f32(32, 32, 2, 2)], (1,), {"strides": [2, 2]}),
    Case("recurrent", "LSTM", [f32(32, 1, 128), f32(1, 512, 128), f32(1, 512, 128)], (1, 2), {"hidden_size": 128}),
)

_SOFTMAX = {"axis": -1, "opset": 13}

QUANTIZED: tuple[Case, ...] = (
    Case("quantize", "QuantizeLinear", [X, *_STEP], (1, 2)),
    Case("dequantize", "DequantizeLinear", [_u8(256, 256), *_STEP], (1, 2)),
    Case("DynamicQuantizeLinear", "DynamicQuantizeLinear", [X], outputs=3, opset=11),
    Case("gemm_int8", "MatMulInteger", [_u8(256, 256), _u8(256, 256), _ZERO, _ZERO], (1, 2, 3)),
    Case(
        "QLinearMatMul",
        "QLinearMatMul",
        [_u8(256, 256), *_STEP, _u8(256, 256).astype(np.int8), _STEP[0], np.asarray(np.int8(0)), *_STEP],
        (1, 2, 3, 4, 5, 6, 7),
    ),
    Case("conv_int8", "ConvInteger", [_u8(1, 64, 28, 28), _u8(64, 64, 3, 3), _ZERO, _ZERO], (1, 2, 3), _POOL),
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
