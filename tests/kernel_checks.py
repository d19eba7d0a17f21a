"""Checks of generated kernels: a body of operators, its kernel in onnxruntime, and what other implementations compute.

The kernels of a test module are compiled into one library, because compiling is what takes the time. The expected
values come from the onnx reference evaluator node by node, from onnxruntime's own kernels for its own operators, and
from numpy where the reference evaluator differs from what onnxruntime does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import NodeProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from scipy.special import erf, log_softmax

from graphopt.graph import AttributeValue, Node, OperatorGraph, Tensor
from graphopt.kernels import FusedOperator, build_library, lowerable
from graphopt.operators.blocked import block_size
from tests import recurrent_layers

BLOCKED = "com.microsoft.nchwc"
FUSED = "graphopt.fused"
OPSET = 21
CHUNK = 128
IR_VERSION = 10

Array = np.ndarray
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Case:
    """A body of operators with an example of what it is fed.

    Attributes:
        name: of the kernel.
        nodes: in topological order.
        feeds: example inputs, in the order of the call; they say dtypes and ranks.
        outputs: in the order of the call.
        constants: tensors inside of the body.
        constant_inputs: inputs that are constants of the model.
        opset: of the standard operators.
        shaped: whether the example's shapes are told to the compiler.
    """

    name: str
    nodes: tuple[NodeProto, ...]
    feeds: Feeds
    outputs: tuple[str, ...]
    constants: Feeds = field(default_factory=dict)
    constant_inputs: frozenset[str] = frozenset()
    opset: int = OPSET
    shaped: bool = True

    def expected(self, feeds: Feeds) -> dict[str, Array]:
        """Every tensor of the body, computed node by node."""
        values = {**self.constants, **feeds}
        for node in self.nodes:
            results = compute(node, [values[name] if name else None for name in node.input], self.opset)
            values.update(zip([name for name in node.output if name], results, strict=True))
        return values

    def body(self) -> OperatorGraph:
        """The operator graph that the kernel is generated from."""
        values = self.expected(self.feeds)
        tensors = {}
        for name, value in values.items():
            inner = name in self.constants
            tensors[name] = Tensor(
                name,
                str(value.dtype),
                value.ndim,
                inner or name in self.constant_inputs,
                value if inner else None,
                value.shape if inner else None,
            )
        nodes = tuple(
            Node(f"n{i}", n.domain, n.op_type, self.opset, tuple(n.input), tuple(n.output), attributes(n))
            for i, n in enumerate(self.nodes)
        )
        return OperatorGraph(self.name, nodes, tensors, tuple(self.feeds), self.outputs)

    def fused(self) -> FusedOperator:
        """The fused operator, with the example's shapes where they are told."""
        values = self.expected(self.feeds)
        shapes = ({name: value.shape for name, value in values.items()},) if self.shaped else ()
        return FusedOperator(self.name, self.body(), shapes)


def attributes(node: NodeProto) -> dict[str, AttributeValue]:
    """The node's attributes as the operator graph holds them."""
    found: dict[str, AttributeValue] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        found[attribute.name] = (
            tuple(value) if isinstance(value, Sequence) and not isinstance(value, bytes | str) else value
        )
    return found


# ------------------------------------------------------------------ expected values


def compute(node: NodeProto, operands: Sequence[Array | None], opset: int) -> list[Array]:
    """The results of one node."""
    if node.domain == BLOCKED and node.op_type.startswith("Reorder"):
        return [_reordered(node, operands[0])]
    if node.op_type in recurrent_layers.GATES:
        return _recurrent(node, operands)
    if node.domain == BLOCKED and node.op_type in ("AveragePool", "MaxPool"):
        return [_pooled_blocks(node, operands[0])]
    special = NUMPY.get(node.op_type) if node.domain != BLOCKED else None
    result = special(node, *operands) if special else None
    if result is not None:
        return [result]
    feeds = {name: np.asarray(value) for name, value in zip(node.input, operands, strict=True) if name}
    if node.domain:
        dtypes = tuple((name, str(value.dtype)) for name, value in feeds.items())
        return list(_stock_session(node.SerializeToString(), dtypes, opset).run(None, feeds))
    reference = _reference(node.SerializeToString(), opset)
    with np.errstate(all="ignore"):
        try:
            results = reference.run(None, feeds)
        except TypeError:  # some evaluators do not know scalars
            if any(value.ndim for value in feeds.values()):
                raise
            flat = reference.run(None, {x: v.reshape(1) for x, v in feeds.items()})
            results = [np.reshape(np.asarray(value), ()) for value in flat]
    return [np.asarray(value) for value in results]


def _recurrent(node: NodeProto, operands: Sequence[Array | None]) -> list[Array]:
    """The results of a GRU or LSTM that the node names."""
    known = attributes(node)
    slots = ("x", "w", "r", "b", "", "h", "c")
    feeds = {slot: value for slot, value in zip(slots, operands, strict=False) if value is not None}
    directions = recurrent_layers.REVERSED[str(helper.get_node_attr_value(node, "direction"), "ascii")]
    if known["hidden_size"] != feeds["r"].shape[2]:
        raise ValueError("another hidden size")
    results = recurrent_layers.layer(node.op_type, feeds, directions, bool(known.get("linear_before_reset")))
    return [value.astype(np.float32) for value, name in zip(results.values(), node.output, strict=False) if name]


def _untyped(name: str) -> ValueInfoProto:
    return helper.make_value_info(name, helper.make_tensor_type_proto(0, None))


@cache
def _reference(node: bytes, opset: int) -> ReferenceEvaluator:
    proto = NodeProto.FromString(node)
    graph = helper.make_graph(
        [proto],
        "node",
        [_untyped(name) for name in dict.fromkeys(proto.input) if name],
        [_untyped(name) for name in proto.output],
    )
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


@cache
def _stock_session(node: bytes, dtypes: tuple[tuple[str, str], ...], opset: int) -> onnxruntime.InferenceSession:
    proto = NodeProto.FromString(node)
    outputs = [_untyped(name) for name in proto.output if name]
    for output in outputs:
        output.ClearField("type")
    return session([proto], dtypes, outputs, {"": opset, proto.domain or "": 1 if proto.domain else opset})


def session(
    nodes: Sequence[NodeProto],
    inputs: Sequence[tuple[str, str]],
    outputs: Sequence[ValueInfoProto],
    domains: Mapping[str, int],
    library: Path | None = None,
    threads: int = 1,
) -> onnxruntime.InferenceSession:
    """A session of some nodes; inputs (name, dtype) of any shape."""
    typed = [helper.make_tensor_value_info(name, element_type(dtype), None) for name, dtype in inputs]
    graph = helper.make_graph(list(nodes), "check", typed, list(outputs))
    imports = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    return open_session(model.SerializeToString(), library, threads)


def in_onnxruntime(case: Case) -> list[Array]:
    """What onnxruntime's own operators make of a case without constants, at its example inputs."""
    with np.errstate(all="ignore"):
        dtypes = {name: str(value.dtype) for name, value in case.expected(case.feeds).items()}
    inputs = [(name, dtypes[name]) for name in case.feeds]
    outputs = [helper.make_tensor_value_info(name, element_type(dtypes[name]), None) for name in case.outputs]
    domains = {"": case.opset, "com.microsoft": 1}
    return list(session(case.nodes, inputs, outputs, domains).run(None, dict(case.feeds)))


def open_session(model: bytes, library: Path | None = None, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session without onnxruntime's own optimisations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def element_type(dtype: str) -> int:
    """ONNX's number of a dtype."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _reordered(node: NodeProto, x: Array | None) -> Array:
    """What onnxruntime's ReorderInput and ReorderOutput do, for any number of channels."""
    assert x is not None
    block, known = block_size(), attributes(node)
    if node.op_type == "ReorderInput":
        if known.get("channels_last", 0):
            x = x.transpose(0, 3, 1, 2)
        n, channels, h, w = x.shape
        padded = -(-channels // block) * block
        full = np.zeros((n, padded, h, w), x.dtype)
        full[:, :channels] = x
        blocks = full.reshape(n, padded // block, block, h, w).transpose(0, 1, 3, 4, 2)
        return np.ascontiguousarray(blocks).reshape(n, padded, h, w)
    n, padded, h, w = x.shape
    flat = x.reshape(n, padded // block, h, w, block).transpose(0, 1, 4, 2, 3).reshape(n, padded, h, w)
    kept: Array = flat[:, slice(known["channels"])]
    return np.ascontiguousarray(kept.transpose(0, 2, 3, 1) if known.get("channels_last", 0) else kept)


def _is_integer(x: Array) -> bool:
    return x.dtype.kind in "iu"


def _divide(node: NodeProto, a: Array, b: Array) -> Array | None:
    """Integer division towards zero; by zero it gives 0, which the specification leaves open."""
    if not _is_integer(a):
        return None
    a, b = np.broadcast_arrays(a, b)
    wide = [
        0 if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)
    ]
    return _wrapped(wide, a.dtype).reshape(a.shape)


def _modulo(node: NodeProto, a: Array, b: Array) -> Array | None:
    """Integer remainders, of the divisor's sign or the dividend's (fmod); by zero 0."""
    if not _is_integer(a):
        return None
    a, b = np.broadcast_arrays(a, b)
    fmod = attributes(node).get("fmod", 0)
    wide = []
    for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
        rest = 0 if y == 0 else abs(x) % abs(y) * (-1 if x < 0 else 1) if fmod else x % y
        wide.append(rest)
    return _wrapped(wide, a.dtype).reshape(a.shape)


def _power(node: NodeProto, a: Array, b: Array) -> Array | None:
    """Integer powers modulo 2^bits; a negative exponent gives what real division rounds to zero."""
    with np.errstate(all="ignore"):
        if a.dtype.kind == "f":
            wide = np.float64 if b.dtype == np.float64 else a.dtype
            a, b = np.broadcast_arrays(a, b)  # for a single exponent of 1/2 numpy takes the square root instead
            return np.asarray(np.power(a.astype(wide), b.astype(wide))).astype(a.dtype)
        if b.dtype.kind == "f":
            return _whole(np.power(a.astype(np.float64), b.astype(np.float64)), a.dtype)
    a, b = np.broadcast_arrays(a, b)
    modulus = 1 << 64
    wide_values = [
        pow(x, y, modulus) if y >= 0 else 1 if x == 1 else (1 if y % 2 == 0 else -1) if x == -1 else 0
        for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)
    ]
    return _wrapped(wide_values, a.dtype).reshape(a.shape)


def _whole(x: Array, dtype: np.dtype) -> Array:
    """float64 as int32 or int64: what does not fit is the smallest number, as on x86, whatever this machine does."""
    info = np.iinfo(dtype)
    fits = (x > info.min - 1.0) & (x < info.max + 1.0)
    return np.where(fits, np.where(fits, x, 0).astype(dtype), info.min)


def _shifted(node: NodeProto, a: Array, b: Array) -> Array:
    left = attributes(node)["direction"] == b"LEFT"
    bits = 8 * a.dtype.itemsize
    a, b = np.broadcast_arrays(a, b)
    pairs = zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)
    wide = [0 if y >= bits else x << y if left else x >> y for x, y in pairs]
    return _wrapped(wide, a.dtype).reshape(a.shape)


def _wrapped(values: Sequence[int], dtype: np.dtype) -> Array:
    return np.array([value % (1 << 64) for value in values], np.uint64).astype(dtype)


def _wide(function: Callable[..., Array]) -> Callable[..., Array]:
    """An oracle computed in double precision."""

    def oracle(node: NodeProto, *operands: Array | None) -> Array:
        with np.errstate(all="ignore"):
            present = [x.astype(np.float64) for x in operands if x is not None]
            result = function(attributes(node), *present)
            return np.asarray(result).astype(operands[0].dtype)  # type: ignore[union-attr]

    return oracle


def _total(operands: Sequence[Array]) -> Array:
    with np.errstate(all="ignore"):
        wide = [x.astype(np.float32) if x.dtype == np.float16 else x for x in operands]
        return np.asarray(sum(wide[1:], start=wide[0])).astype(operands[0].dtype)


def _mean(operands: Sequence[Array]) -> Array:
    wide = [x.astype(np.float32) if x.dtype == np.float16 else x for x in operands]
    with np.errstate(all="ignore"):
        return np.asarray(_total(wide) / wide[0].dtype.type(len(wide))).astype(operands[0].dtype)


def _clip(node: NodeProto, x: Array, low: Array | None = None, high: Array | None = None) -> Array | None:
    if node.attribute:
        return None
    x = x if low is None else np.maximum(x, low)
    return np.asarray(x if high is None else np.minimum(x, high))


def _pad(node: NodeProto, x: Array, pads: Array, value: Array | None = None, axes: Array | None = None) -> Array | None:
    """Negative pads cut off, which the reference evaluator does not know."""
    if (pads >= 0).all():
        return None
    dims = range(x.ndim) if axes is None else axes
    widths = {int(axis) % x.ndim: (pads[k], pads[k + len(pads) // 2]) for k, axis in enumerate(dims)}
    sides = [widths.get(axis, (0, 0)) for axis in range(x.ndim)]
    cut = x[tuple(slice(max(0, -a), size - max(0, -b)) for size, (a, b) in zip(x.shape, sides, strict=True))]
    fill = 0 if value is None else value
    return np.pad(cut, [(max(0, a), max(0, b)) for a, b in sides], constant_values=fill)


def _flatten(node: NodeProto, x: Array) -> Array:
    axis = int(attributes(node).get("axis", 1))  # type: ignore[arg-type]
    axis += x.ndim if axis < 0 else 0
    return x.reshape(int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:])))


def _cast(node: NodeProto, x: Array, like: Array | None = None) -> Array:
    """onnxruntime's cast from float64 to float16 goes by float32."""
    to = like.dtype if like is not None else helper.tensor_dtype_to_np_dtype(int(attributes(node)["to"]))  # type: ignore[arg-type]
    with np.errstate(all="ignore"):
        return np.asarray(x.astype(np.float32) if to == np.float16 else x).astype(to)


def _gelu(known: Mapping[str, AttributeValue], x: Array, *bias: Array) -> Array:
    x = x + bias[0] if bias else x
    if known.get("approximate") == b"tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + erf(x / np.sqrt(2))))


def _swish(known: Mapping[str, AttributeValue], x: Array, default: float = 1.0) -> Array:
    return np.asarray(x / (1 + np.exp(-float(known.get("alpha", default)) * x)))  # type: ignore[arg-type]


def _rms_normalization(node: NodeProto, x: Array, scale: Array, *rest: Array) -> Array | None:
    if node.op_type == "SimplifiedLayerNormalization" and len(node.output) == 1:
        wide, epsilon = x.astype(np.float64), float(attributes(node).get("epsilon", 1e-5))  # type: ignore[arg-type]
        return np.asarray(wide / np.sqrt((wide**2).mean(-1, keepdims=True) + epsilon) * scale).astype(x.dtype)
    return None


def _group_normalization(node: NodeProto, x: Array, scale: Array, bias: Array) -> Array:
    known = attributes(node)
    groups, wide = int(known["num_groups"]), x.astype(np.float64)  # type: ignore[arg-type]
    flat = wide.reshape(x.shape[0], groups, -1)
    flat = (flat - flat.mean(2, keepdims=True)) / np.sqrt(flat.var(2, keepdims=True) + 1e-5)
    each = [np.repeat(v, x.shape[1] // len(v)).reshape(-1, *(1,) * (x.ndim - 2)) for v in (scale, bias)]
    return np.asarray(flat.reshape(x.shape) * each[0] + each[1]).astype(x.dtype)


def _local_response(node: NodeProto, x: Array) -> Array:
    """Of all channels; the reference evaluator stops at as many as there are batches."""
    known = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, **attributes(node)}
    size, alpha, beta, bias = (float(known[n]) for n in ("size", "alpha", "beta", "bias"))  # type: ignore[arg-type]
    wide, sums = x.astype(np.float64), np.zeros(x.shape)
    for c in range(x.shape[1]):
        first, last = c - int((size - 1) // 2), c + int(-(-(size - 1) // 2))
        sums[:, c] = (wide[:, max(0, first) : last + 1] ** 2).sum(1)
    return np.asarray(wide / (bias + alpha / size * sums) ** beta).astype(x.dtype)


def _lp_normalization(node: NodeProto, x: Array) -> Array:
    known, wide = attributes(node), np.abs(x.astype(np.float64))
    power, axis = int(known.get("p", 2)), int(known.get("axis", -1))  # type: ignore[arg-type]
    length = (wide**power).sum(axis, keepdims=True) ** (1 / power)
    return np.asarray(np.divide(x, length, out=np.zeros_like(length * x), where=length != 0)).astype(x.dtype)


def _pooled(node: NodeProto, x: Array) -> Array:
    """Each window for itself, with pads as onnxruntime finds them."""
    known = attributes(node)
    kernel = known["kernel_shape"]
    assert isinstance(kernel, tuple)
    inside = []  # along each axis, for each position of the result, the places that lie under the window
    for axis, (count, size) in enumerate(zip(kernel, x.shape[2:], strict=True)):
        ones = (1,) * len(kernel)
        stride, dilation = (int(known.get(name, ones)[axis]) for name in ("strides", "dilations"))  # type: ignore[index]
        pads = known.get("pads", (0, 0) * len(kernel))
        before, after = int(pads[axis]), int(pads[len(kernel) + axis])  # type: ignore[index]
        span, same = (count - 1) * dilation + 1, str(known.get("auto_pad", b"NOTSET"), "ascii")
        if same.startswith("SAME"):
            positions = -(-size // stride)
            padding = max(0, (positions - 1) * stride + span - size)
            before = padding // 2 if same == "SAME_UPPER" else padding - padding // 2
        else:
            rest = size + before + after - span
            if rest < 0 and (known.get("count_include_pad") or rest <= -stride):
                raise ValueError("a window larger than the image")
            positions = (-(-rest // stride) if known.get("ceil_mode") else int(rest / stride)) + 1
            positions -= (positions - 1) * stride >= size + before
        starts = [position * stride - before for position in range(positions)]
        taps = [[start + k * dilation for k in range(count)] for start in starts]
        inside.append([[at for at in window if 0 <= at < size] for window in taps])
    result = np.zeros((*x.shape[:2], *(len(found) for found in inside)), x.dtype)
    for place in np.ndindex(*result.shape[2:]):
        window = x[:, :, *np.ix_(*(inside[axis][p] for axis, p in enumerate(place)))]
        axes = tuple(range(2, x.ndim))
        if node.op_type == "MaxPool":
            result[:, :, *place] = window.max(axes, initial=np.finfo(x.dtype).min)
        else:
            count = np.prod(kernel) if known.get("count_include_pad") else window[0, 0].size
            with np.errstate(all="ignore"):
                result[:, :, *place] = window.astype(np.float64).sum(axes) / count
    return result


def _pooled_blocks(node: NodeProto, x: Array | None) -> Array:
    """Of the blocked layout, where onnxruntime divides by zero at windows of nothing."""
    assert x is not None
    block, (n, channels, h, w) = block_size(), x.shape
    plain = x.reshape(n, channels // block, h, w, block).transpose(0, 1, 4, 2, 3).reshape(n, channels, h, w)
    result = _pooled(node, plain)
    h, w = result.shape[2:]
    blocks = result.reshape(n, channels // block, block, h, w).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(blocks).reshape(result.shape)


def _mean_variance(node: NodeProto, x: Array) -> Array:
    wide = x.astype(np.float64)
    centred = wide - wide.mean((0, 2, 3), keepdims=True)
    return np.asarray(centred / (np.sqrt((centred**2).mean((0, 2, 3), keepdims=True)) + 1e-9)).astype(x.dtype)


NUMPY: dict[str, Callable[..., Array | None]] = {
    "Div": _divide,
    "Mod": _modulo,
    "Pow": _power,
    "BitShift": _shifted,
    "Clip": _clip,
    "GroupNormalization": _group_normalization,
    "LRN": _local_response,
    "AveragePool": _pooled,
    "MaxPool": lambda node, x: _pooled(node, x) if len(node.output) == 1 else None,
    "LpNormalization": _lp_normalization,
    "MeanVarianceNormalization": _mean_variance,
    "SimplifiedLayerNormalization": _rms_normalization,
    "Pad": _pad,
    "Flatten": _flatten,
    "Cast": _cast,
    "CastLike": _cast,
    "GlobalMaxPool": lambda node, x: x.max(tuple(range(2, x.ndim)), keepdims=True),
    "Sum": lambda node, *x: _total(x),
    "Mean": lambda node, *x: _mean(x),
    "HardSwish": _wide(lambda known, x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Erf": _wide(lambda known, x: np.asarray(erf(x))),
    "LogSoftmax": _wide(lambda known, x: np.asarray(log_softmax(x, axis=int(known.get("axis", -1))))),  # type: ignore[arg-type]
    "Gelu": _wide(_gelu),
    "Swish": _wide(_swish),
    "QuickGelu": _wide(lambda known, x: _swish(known, x, float(np.float32(1.702)))),
}
"""Operators that the reference evaluator (or onnxruntime) does not know, or computes with less accuracy."""


# ------------------------------------------------------------------ kernels


class KernelLibrary:
    """The kernels of many cases in one library, each in a session of its own."""

    def __init__(self, cases: Sequence[Case], folder: Path) -> None:
        self.cases = {case.name: case for case in cases}
        assert len(self.cases) == len(cases), "two cases of one name"
        for case in cases:
            reason = lowerable(case.body())
            assert reason is None, f"{case.name}: {reason}"
        # a session registers every kernel of its library, so libraries stay small
        self.paths: dict[str, Path] = {}
        for start in range(0, len(cases), CHUNK):
            chunk = cases[start : start + CHUNK]
            path = build_library([case.fused() for case in chunk], folder, f"checks{start}")
            self.paths.update((case.name, path) for case in chunk)
        self._sessions: dict[tuple[str, int], onnxruntime.InferenceSession] = {}

    def session(self, name: str, threads: int = 1) -> onnxruntime.InferenceSession:
        """A session that is one call of the kernel."""
        key = (name, threads)
        if key not in self._sessions:
            case = self.cases[name]
            values = case.expected(case.feeds)
            outputs = [helper.make_tensor_value_info(o, element_type(str(values[o].dtype)), None) for o in case.outputs]
            node = helper.make_node(name, list(case.feeds), list(case.outputs), domain=FUSED)
            inputs = [(x, str(value.dtype)) for x, value in case.feeds.items()]
            self._sessions[key] = session([node], inputs, outputs, {"": OPSET, FUSED: 1}, self.paths[name], threads)
        return self._sessions[key]

    def run(self, name: str, feeds: Feeds, threads: int = 1) -> list[Array]:
        """The kernel's outputs."""
        return list(self.session(name, threads).run(None, dict(feeds)))

    def run_with_constants(self, name: str, feeds: Feeds, threads: int = 1) -> list[Array]:
        """The kernel's outputs in a session of its own that holds the case's constant inputs."""
        case = self.cases[name]
        held = {x: np.asarray(value) for x, value in feeds.items() if x in case.constant_inputs}
        rest = {x: np.asarray(value) for x, value in feeds.items() if x not in held}
        node = helper.make_node(name, list(case.feeds), list(case.outputs), domain=FUSED)
        values = case.expected(case.feeds)
        outputs = [helper.make_tensor_value_info(o, element_type(str(values[o].dtype)), None) for o in case.outputs]
        inputs = [helper.make_tensor_value_info(x, element_type(str(v.dtype)), None) for x, v in rest.items()]
        constants = [numpy_helper.from_array(value, x) for x, value in held.items()]
        graph = helper.make_graph([node], "check", inputs, outputs, constants)
        imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(FUSED, 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
        return list(open_session(model.SerializeToString(), self.paths[name], threads).run(None, rest))

    def check(
        self, name: str, feeds: Feeds | None = None, *, relative: float = 0.0, absolute: float = 0.0, threads: int = 1
    ) -> None:
        """The kernel's outputs are what the body's operators compute."""
        case = self.cases[name]
        feeds = {x: np.asarray(value) for x, value in (case.feeds if feeds is None else feeds).items()}
        expected = case.expected(feeds)
        found = self.run(name, feeds, threads)
        for output, value in zip(case.outputs, found, strict=True):
            message = f"{name}, {output}, inputs { ({key: v.shape for key, v in feeds.items()}) }"
            assert_same(value, expected[output], relative, absolute, message)


def assert_same(found: Array, expected: Array, relative: float = 0.0, absolute: float = 0.0, message: str = "") -> None:
    """Equal shape, dtype and numbers; NaN equals NaN, and without tolerances zeros have equal signs."""
    assert found.dtype == expected.dtype, f"{message}: {found.dtype} for {expected.dtype}"
    assert found.shape == expected.shape, f"{message}: {found.shape} for {expected.shape}"
    if relative == absolute == 0.0 or found.dtype.kind not in "f":
        np.testing.assert_array_equal(found, expected, err_msg=message)
        return
    wide, right = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_allclose(wide, right, rtol=relative, atol=absolute, err_msg=message, equal_nan=True)


# ------------------------------------------------------------------ values

DTYPES = {
    "real": ("float32", "float64", "float16"),
    "signed": ("int8", "int16", "int32", "int64"),
    "unsigned": ("uint8", "uint16", "uint32", "uint64"),
    "bool": ("bool",),
}
ALL_DTYPES = tuple(dtype for kind in DTYPES.values() for dtype in kind)


def random_values(shape: Sequence[int], dtype: str, seed: int) -> Array:
    """Random values that suit the dtype: reals about one, integers of their whole range and small ones."""
    generator = np.random.default_rng(seed)
    kind = np.dtype(dtype).kind
    if kind == "f":
        return np.asarray(generator.standard_normal(shape) * 3, dtype)
    if kind == "b":
        return np.asarray(generator.integers(0, 2, shape), bool)
    info = np.iinfo(dtype)
    wide = generator.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    small = generator.integers(0 if kind == "u" else -9, 10, shape).astype(dtype)
    return np.asarray(np.where(generator.integers(0, 2, shape) == 1, wide, small), dtype=dtype)


def special_values(dtype: str) -> Array:
    """The values where implementations go wrong."""
    kind = np.dtype(dtype).kind
    if kind == "b":
        return np.array([False, True])
    if kind == "f":
        real = np.finfo(dtype)
        least = float(real.smallest_subnormal)
        reals = [0.0, least, 5 * least, float(real.tiny), 1e-3, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 7.9, 20.0, 88.5, 104.0]
        reals += [float(real.max), float(real.max) / 3, np.inf]
        with np.errstate(all="ignore"):
            return np.array([*reals, *(-x for x in reals), np.nan]).astype(dtype)
    info = np.iinfo(dtype)
    numbers = [0, 1, 2, 3, 7, info.max, info.max - 1, info.min, info.min + 1]
    numbers += [] if kind == "u" else [-1, -2, -3, -7]
    return np.array(numbers, dtype)
