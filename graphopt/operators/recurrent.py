"""Recurrent layers: each step needs the state of the step before.

Convention: weights are read once per execution, as every constant, although each step uses them again; the machine's
``recurrent`` rate is measured with that in it.
"""

from graphopt.graph import Node
from graphopt.operators.base import Cost, FusionClass, Operands, Operator
from graphopt.operators.formulas import elements, present, traffic

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


def linear_attention_cost(node: Node, inputs: Operands, outputs: Operands) -> Cost:
    """One update of and one product with a [size, value size] state per step and head: 4 * size * value operations.

    Source: the recurrence of ONNX operator LinearAttention (query, key, value, past state [batch, heads, size, value]).
    """
    query, state = present(inputs, 0), present(outputs, 1)
    if query is None or state is None or len(state.shape) != 4:
        return Cost(0, 0, 0, 0)
    batch, heads, size, value = state.shape
    steps = query.shape[2] if len(query.shape) == 4 else query.shape[1]
    return traffic(inputs, outputs, 4 * batch * heads * steps * size * value)


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
    Operator("GRU", _STEPS, recurrent_cost, "", "recurrent", (*_ATTRIBUTES, "layout", "linear_before_reset")),
    Operator("LSTM", _STEPS, recurrent_cost, "", "recurrent", (*_ATTRIBUTES, "layout", "input_forget")),
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
