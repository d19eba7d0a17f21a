"""Recurrent layers: each step needs the state of the step before.

Convention: weights are read once per execution, as every constant, although each step uses them again; the machine's
``recurrent`` rate is measured with that in it.
"""

from graphopt.graph import Node, OperatorGraph
from graphopt.operators.base import Cost, FusionClass, Operands, Operator
from graphopt.operators.formulas import elements, integer, present, text, traffic
from graphopt.operators.lowering import CannotLowerError, Layer, Recurring

_POINTWISE = {"RNN": 3, "GRU": 14, "LSTM": 17, "DynamicQuantizeLSTM": 17}
"""Operations per hidden element and step apart from the matrix products, counted from the equations of the ONNX
operators: RNN: sum, bias, activation. GRU: three sums, three biases, three activations, reset * state, and
(1 - z) * new + z * state (4). LSTM: four sums, four biases, three gates' and one candidate's activation, forget * cell
+ input * candidate (3), activation of the cell, output * it (1)."""


def recurrent_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """2 * gates * hidden * (input + hidden) operations per step, sample and direction, plus the pointwise part.

    Source: ONNX operators RNN, GRU, LSTM. X is [steps, batch, input] (or batch first), W [directions, gates * hidden,
    input], R [directions, gates * hidden, hidden]; onnxruntime's quantized form stores W and R transposed.
    """
    source, weights, state = (present(inputs, slot) for slot in (0, 1, 2))
    if source is None or weights is None or state is None or len(source.shape) != 3:
        return Cost(0, 0, 0, 0)
    hidden = state.shape[1 if node.domain else 2]
    samples = source.shape[0] * source.shape[1]
    products = 2 * (weights.elements + state.elements)
    return traffic(inputs, outputs, samples * (products + _POINTWISE[node.op_type] * hidden * state.shape[0]))


def attention_lstm_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """As LSTM; the attention over the memory is left out, so this is a lower bound (onnxruntime: AttnLSTM)."""
    source = present(inputs, 0)
    samples = source.elements // max(1, source.shape[-1]) if source is not None and source.shape else 0
    return traffic(inputs, outputs, 2 * samples * (elements(inputs, 1) + elements(inputs, 2)))


_UPDATE = {"linear": 2, "gated": 3, "delta": 4, "gated_delta": 5}
"""Operations per element of the state and step: the product of key and value is added (2), the state decays (1), the
value that the state holds for the key is read first (2)."""


def linear_attention_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """An update of a [size, value size] state per step and key head, and a product with it per query head.

    Source: the recurrences of ONNX operator LinearAttention: query [batch, steps, heads * size], state [batch, key
    heads, size, value size]; 2 per element of the state and a scale for each query head; 2 per value (difference,
    update rate) with the delta rules; an ``exp`` per decay.
    """
    query, state, decay = present(inputs, 0), present(outputs, 1) or present(inputs, 3), present(inputs, 4)
    if query is None or state is None or len(state.shape) != 4:
        return Cost(0, 0, 0, 0)
    batch, heads, size, value = state.shape
    queries = max(1, integer(node, "q_num_heads", heads))
    steps = query.elements // max(1, batch * queries * size)
    rule = text(node, "update_rule", "gated_delta")
    update = _UPDATE.get(rule, 5) * size * value + (2 * value if "delta" in rule else 0)
    read = 2 * size * value + value
    flops = batch * steps * (heads * update + queries * read) + (decay.elements if decay is not None else 0)
    return traffic(inputs, outputs, flops)


# ------------------------------------------------------------------ lowering

_GATES = {"GRU": 3, "LSTM": 4}
_ACTIVATIONS = {"GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
_REVERSED = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def _layer(graph: OperatorGraph, node: Node) -> Layer:
    """The layer of a GRU or LSTM in its usual form: all steps of all samples, without bounds and other activations."""
    reversed_ = _REVERSED[text(node, "direction", "forward")]
    given = node.attributes.get("activations")
    names = tuple(str(name) for name in given) if isinstance(given, tuple) else ()
    if names and names != _ACTIVATIONS[node.op_type] * len(reversed_):
        raise CannotLowerError(f"{node.op_type} with activations {', '.join(names)}")
    if any(node.attributes.get(name) for name in ("clip", "layout", "input_forget")):
        raise CannotLowerError(f"{node.op_type} with bounds, with the batch first or with coupled gates")
    if any(slot < len(node.inputs) and node.inputs[slot] for slot in (4, 7)):
        raise CannotLowerError(f"{node.op_type} with lengths of sequences or peepholes")
    hidden = integer(node, "hidden_size", 0)
    if hidden < 1:
        raise CannotLowerError(f"{node.op_type} without its hidden size")
    return Layer(_GATES[node.op_type], hidden, reversed_, bool(integer(node, "linear_before_reset", 0)))


_STEPS = FusionClass.SEQUENTIAL
_ATTRIBUTES = (
    "activation_alpha",
    "activation_beta",
    "activations",
    "clip",
    "direction",
    "hidden_size",
)

OPERATORS: tuple[Operator, ...] = (
    Operator("RNN", _STEPS, recurrent_cost, "", "recurrent", (*_ATTRIBUTES, "layout")),
    Operator(
        "GRU",
        _STEPS,
        recurrent_cost,
        "",
        "recurrent",
        (*_ATTRIBUTES, "layout", "linear_before_reset"),
        lowering=Recurring(_layer),
    ),
    Operator(
        "LSTM",
        _STEPS,
        recurrent_cost,
        "",
        "recurrent",
        (*_ATTRIBUTES, "layout", "input_forget"),
        lowering=Recurring(_layer),
    ),
    Operator(
        "DynamicQuantizeLSTM", _STEPS, recurrent_cost, "com.microsoft", "recurrent_int8", (*_ATTRIBUTES, "input_forget")
    ),
    Operator("AttnLSTM", _STEPS, attention_lstm_cost, "com.microsoft", "recurrent", (*_ATTRIBUTES, "input_forget")),
    Operator(
        "LinearAttention",
        _STEPS,
        linear_attention_cost,
        rate_class="gemm",
        attributes=("chunk_size", "kv_num_heads", "q_num_heads", "scale", "update_rule"),
    ),
    Operator(
        "LinearAttention",
        _STEPS,
        linear_attention_cost,
        "com.microsoft",
        "gemm",
        ("chunk_size", "kv_num_heads", "q_num_heads", "scale", "state_window", "update_rule"),
    ),
)
