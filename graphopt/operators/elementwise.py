"""Element-wise operators: arithmetic, comparisons, logic, selections, casts and activations."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from graphopt.graph import Node
from graphopt.operators.base import Cost, CostFormula, FusionClass, Operator, elementwise_cost, no_cost
from graphopt.operators.base import Operands as CostOperands
from graphopt.operators.lowering import (
    CannotLowerError,
    Elementwise,
    Expression,
    call,
    cast,
    literal,
)

Operands = Sequence[Expression | None]
MICROSOFT = "com.microsoft"

DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
"""Element types of onnx.TensorProto that kernels know."""

REAL = ("float32", "float64", "float16", "bfloat16")
GREATEST = float(np.finfo(np.float32).max)


def _need(operand: Expression | None) -> Expression:
    if operand is None:
        raise CannotLowerError("a required operand is absent")
    return operand


def _number(node: Node, name: str, default: float) -> float:
    value = node.attributes.get(name, default)
    # attributes are float32, defaults too: 0.01 stands for the nearest of them
    return float(np.float32(value if isinstance(value, (int, float)) else default))


def _unary(primitive: str) -> Callable[[Node, Operands], Expression]:
    return lambda node, x: call(primitive, _need(x[0]))


def _binary(primitive: str) -> Callable[[Node, Operands], Expression]:
    return lambda node, x: call(primitive, _need(x[0]), _need(x[1]))


def _swapped(primitive: str) -> Callable[[Node, Operands], Expression]:
    return lambda node, x: call(primitive, _need(x[1]), _need(x[0]))


def _variadic(primitive: str) -> Callable[[Node, Operands], Expression]:
    def expression(node: Node, x: Operands) -> Expression:
        total = _need(x[0])
        for operand in x[1:]:
            total = call(primitive, total, _need(operand))
        return total

    return expression


def _mean(node: Node, x: Operands) -> Expression:
    total = _variadic("add")(node, x)
    return call("divide", total, literal(len(x), total))


def _identity(node: Node, x: Operands) -> Expression:
    return _need(x[0])


def _clip(node: Node, x: Operands) -> Expression:
    y = _need(x[0])
    low = x[1] if len(x) > 1 else None
    high = x[2] if len(x) > 2 else None
    if node.version < 11:  # bounds were attributes, by default the greatest finite numbers
        low = literal(_number(node, "min", -GREATEST), y)
        high = literal(_number(node, "max", GREATEST), y)
    # the upper bound is applied last, so that it wins where the bounds cross, as numpy and onnxruntime have it
    if low is not None:
        y = call("maximum", y, low)
    return y if high is None else call("minimum", y, high)


def _cast(node: Node, x: Operands) -> Expression:
    to = node.attributes.get("to")
    if not isinstance(to, int) or to not in DTYPES:
        raise CannotLowerError("cast to a type without kernels")
    return cast(_need(x[0]), DTYPES[to])


def _cast_like(node: Node, x: Operands) -> Expression:
    return cast(_need(x[0]), _need(x[1]).dtype)


def _where(node: Node, x: Operands) -> Expression:
    return call("select", _need(x[0]), _need(x[1]), _need(x[2]))


def _modulo(node: Node, x: Operands) -> Expression:
    a, b = _need(x[0]), _need(x[1])
    if a.dtype in REAL:
        if node.attributes.get("fmod", 0) != 1:
            raise CannotLowerError("Mod of floats needs fmod=1")
        return call("remainder", a, b)
    return call("remainder" if node.attributes.get("fmod", 0) == 1 else "modulo", a, b)


def _power(node: Node, x: Operands) -> Expression:
    base, exponent = _need(x[0]), _need(x[1])
    # the result has the base's type; an exponent that the base's type would round is computed with in double precision
    if exponent.dtype in REAL and (base.dtype not in REAL or exponent.dtype == "float64" != base.dtype):
        return cast(call("power", cast(base, "float64"), cast(exponent, "float64")), base.dtype)
    return call("power", base, cast(exponent, base.dtype))


def _power_cost(node: Node, inputs: CostOperands, outputs: CostOperands) -> Cost:
    """One power per element; a constant exponent of 2 or 3 makes it one or two products, in onnxruntime as well."""
    cost = elementwise_cost()(node, inputs, outputs)
    exponent = inputs[1].tensor.value if inputs[1] is not None else None
    if exponent is not None and exponent.size == 1 and exponent.item() in (2, 3):
        return replace(cost, flops=cost.flops * (int(exponent.item()) - 1), rate_class="mul")
    return cost


def _folded_cost(last: int) -> CostFormula:
    """Formula of a fold over n operands: n - 1 operations per element, and ``last`` more (a mean's division)."""

    def cost(node: Node, inputs: CostOperands, outputs: CostOperands) -> Cost:
        steps = sum(operand is not None for operand in inputs) - 1 + last
        return elementwise_cost(steps)(node, inputs, outputs)

    return cost


def _bias_dropout_cost(node: Node, inputs: CostOperands, outputs: CostOperands) -> Cost:
    """Sum with the bias and a residual (slot 2); ratio and mode are read by the host (onnxruntime: BiasDropout)."""
    residual = len(inputs) > 2 and inputs[2] is not None
    return elementwise_cost(1 + residual)(node, inputs[:3], outputs)


def _decay_gate_cost(node: Node, inputs: CostOperands, outputs: CostOperands) -> Cost:
    """Bias, softplus and scale per decay; a sigmoid per element of the second result (LinearAttentionGate)."""
    beta = outputs[1].elements if len(outputs) > 1 and outputs[1] is not None else 0
    cost = elementwise_cost(3)(node, inputs, outputs)
    return replace(cost, flops=cost.flops + beta)


def _angle_rotation_cost(node: Node, inputs: CostOperands, outputs: CostOperands) -> Cost:
    """Sine and cosine of the angles in slot 0, then 3 operations per element of both results (GemmaRotaryEmbedding)."""
    angles = 2 * inputs[0].elements if inputs[0] is not None else 0
    cost = elementwise_cost(0)(node, inputs, outputs)
    return replace(cost, flops=angles + 3 * sum(result.elements for result in outputs if result is not None))


def _is_inf(node: Node, x: Operands) -> Expression:
    positive, negative = node.attributes.get("detect_positive", 1), node.attributes.get("detect_negative", 1)
    if positive and negative:
        return call("is_inf", _need(x[0]))
    if not positive and not negative:
        raise CannotLowerError("IsInf that detects nothing")
    return call("is_positive_inf" if positive else "is_negative_inf", _need(x[0]))


def _relu_like(negative: Callable[[Node, Expression], Expression]) -> Callable[[Node, Operands], Expression]:
    """The operand x where x >= 0 (and where x is NaN), else a function of x."""

    def expression(node: Node, x: Operands) -> Expression:
        value = _need(x[0])
        return call("select", call("less", value, literal(0, value)), negative(node, value), value)

    return expression


def _exp_minus_one(x: Expression) -> Expression:
    return call("subtract", call("exp", x), literal(1, x))


def _elu(node: Node, x: Expression) -> Expression:
    return call("multiply", literal(_number(node, "alpha", 1.0), x), _exp_minus_one(x))


def _selu(node: Node, x: Operands) -> Expression:
    value = _need(x[0])
    alpha = _number(node, "alpha", 1.6732631921768188)
    gamma = literal(_number(node, "gamma", 1.0507010221481323), value)
    negative = call("multiply", literal(alpha, value), _exp_minus_one(value))
    inner = call("select", call("less", value, literal(0, value)), negative, value)
    return call("multiply", gamma, inner)


def _celu(node: Node, x: Expression) -> Expression:
    alpha = literal(_number(node, "alpha", 1.0), x)
    return call("multiply", alpha, _exp_minus_one(call("divide", x, alpha)))


def _leaky(node: Node, x: Expression) -> Expression:
    return call("multiply", literal(_number(node, "alpha", 0.01), x), x)


def _prelu(node: Node, x: Operands) -> Expression:
    value, slope = _need(x[0]), _need(x[1])
    return call("select", call("less", value, literal(0, value)), call("multiply", slope, value), value)


def _thresholded(node: Node, x: Operands) -> Expression:
    value = _need(x[0])
    alpha = literal(_number(node, "alpha", 1.0), value)
    return call("select", call("less", alpha, value), value, literal(0, value))


def _shrink(node: Node, x: Operands) -> Expression:
    value = _need(x[0])
    if value.dtype not in REAL:
        raise CannotLowerError("Shrink of integers")
    bias, edge = literal(_number(node, "bias", 0.0), value), literal(_number(node, "lambd", 0.5), value)
    low = literal(-_number(node, "lambd", 0.5), value)
    inner = call("select", call("less", edge, value), call("subtract", value, bias), literal(0, value))
    return call("select", call("less", value, low), call("add", value, bias), inner)


def _between(x: Expression, low: float, high: float) -> Expression:
    return call("minimum", call("maximum", x, literal(low, x)), literal(high, x))


def _hard_sigmoid_of(x: Expression, alpha: float, beta: float) -> Expression:
    line = call("add", call("multiply", literal(alpha, x), x), literal(beta, x))
    return _between(line, 0.0, 1.0)


def _hard_sigmoid(node: Node, x: Operands) -> Expression:
    return _hard_sigmoid_of(_need(x[0]), _number(node, "alpha", 0.2), _number(node, "beta", 0.5))


def _hard_swish(node: Node, x: Operands) -> Expression:
    value = _need(x[0])
    return call("multiply", value, _hard_sigmoid_of(value, 1 / 6, 0.5))


def _softsign(node: Node, x: Operands) -> Expression:
    value = _need(x[0])
    return call("divide", value, call("add", literal(1, value), call("absolute", value)))


def _mish(node: Node, x: Operands) -> Expression:
    value = _need(x[0])
    return call("multiply", value, call("tanh", call("softplus", value)))


def _swish(node: Node, x: Operands) -> Expression:
    value = _need(x[0])
    alpha = _number(node, "alpha", 1.0)
    scaled = value if alpha == 1.0 else call("multiply", literal(alpha, value), value)
    return call("multiply", value, call("sigmoid", scaled))


def _quick_gelu(node: Node, x: Operands) -> Expression:
    value = _need(x[0])
    scaled = call("multiply", literal(_number(node, "alpha", 1.702), value), value)
    return call("multiply", value, call("sigmoid", scaled))


def _gelu_exact(x: Expression) -> Expression:
    inner = call("erf", call("multiply", x, literal(math.sqrt(0.5), x)))
    return call("multiply", call("multiply", literal(0.5, x), x), call("add", literal(1, x), inner))


def _gelu_tanh(x: Expression) -> Expression:
    cube = call("multiply", call("multiply", x, x), x)
    inner = call("add", x, call("multiply", literal(0.044715, x), cube))
    bent = call("tanh", call("multiply", literal(math.sqrt(2 / math.pi), x), inner))
    return call("multiply", call("multiply", literal(0.5, x), x), call("add", literal(1, x), bent))


def _gelu(node: Node, x: Operands) -> Expression:
    approximate = node.attributes.get("approximate", "none")
    tanh = approximate in ("tanh", b"tanh")
    return _gelu_tanh(_need(x[0])) if tanh else _gelu_exact(_need(x[0]))


def _bias_gelu(node: Node, x: Operands) -> Expression:
    return _gelu_exact(call("add", _need(x[0]), _need(x[1])))


def _fast_gelu(node: Node, x: Operands) -> Expression:
    value = _need(x[0])
    if len(x) > 1 and x[1] is not None:
        value = call("add", value, x[1])
    return _gelu_tanh(value)


def _reciprocal(node: Node, x: Operands) -> Expression:
    value = _need(x[0])
    return call("divide", literal(1, value), value)


def _bit_shift(node: Node, x: Operands) -> Expression:
    value, left = _need(x[0]), node.attributes.get("direction") in ("LEFT", b"LEFT")
    if not value.dtype.startswith("uint"):
        raise CannotLowerError("BitShift of other than unsigned integers")
    return call("shift_left" if left else "shift_right", value, _need(x[1]))


def _row(
    op_type: str,
    expression: Callable[[Node, Operands], Expression] | None,
    *,
    rate: str = "add",
    flops: int = 1,
    cost: int = 1,
    attributes: tuple[str, ...] = (),
    commutative: bool = False,
    domain: str = "",
    structural: tuple[int, ...] = (),
) -> Operator:
    return Operator(
        op_type,
        FusionClass.ELEMENTWISE,
        elementwise_cost(flops),
        domain=domain,
        rate_class=rate,
        attributes=attributes,
        commutative=commutative,
        structural=structural,
        labelled=structural,
        lowering=None if expression is None else Elementwise(expression, cost),
    )


OPERATORS: tuple[Operator, ...] = (
    # arithmetic
    _row("Add", _binary("add"), commutative=True),
    _row("Sub", _binary("subtract")),
    _row("Mul", _binary("multiply"), rate="mul", commutative=True),
    _row("Div", _binary("divide"), rate="div", cost=4),
    _row("Mod", _modulo, rate="div", cost=8, attributes=("fmod",)),
    # a constant exponent belongs to the label: a square is a product, not a power
    replace(_row("Pow", _power, rate="pow", cost=16, structural=(1,)), cost=_power_cost),
    _row("Neg", _unary("negate")),
    _row("Abs", _unary("absolute")),
    _row("Reciprocal", _reciprocal, rate="div", cost=4),
    _row("Sqrt", _unary("sqrt"), rate="sqrt", cost=4),
    _row("Sign", _unary("sign")),
    _row("Floor", _unary("floor")),
    _row("Ceil", _unary("ceil")),
    _row("Round", _unary("round")),
    replace(_row("Sum", _variadic("add"), commutative=True), cost=_folded_cost(0)),
    replace(_row("Mean", _mean, commutative=True), cost=_folded_cost(1)),
    replace(_row("Max", _variadic("maximum"), commutative=True), cost=_folded_cost(0)),
    replace(_row("Min", _variadic("minimum"), commutative=True), cost=_folded_cost(0)),
    _row("Clip", _clip, attributes=("min", "max")),
    # transcendental
    _row("Exp", _unary("exp"), rate="exp", flops=1, cost=8),
    _row("Log", _unary("log"), rate="log", cost=8),
    _row("Erf", _unary("erf"), rate="erf", cost=12),
    _row("Tanh", _unary("tanh"), rate="tanh", cost=10),
    _row("Sigmoid", _unary("sigmoid"), rate="sigmoid", cost=10),
    _row("Softplus", _unary("softplus"), rate="exp", cost=16),
    _row("Sin", _unary("sin"), rate="sin", cost=20),
    _row("Cos", _unary("cos"), rate="sin", cost=20),
    _row("Tan", _unary("tan"), rate="sin", cost=20),
    _row("Asin", _unary("asin"), rate="sin", cost=20),
    _row("Acos", _unary("acos"), rate="sin", cost=20),
    _row("Atan", _unary("atan"), rate="sin", cost=20),
    _row("Sinh", _unary("sinh"), rate="exp", cost=20),
    _row("Cosh", _unary("cosh"), rate="exp", cost=20),
    _row("Asinh", _unary("asinh"), rate="log", cost=20),
    _row("Acosh", _unary("acosh"), rate="log", cost=20),
    _row("Atanh", _unary("atanh"), rate="log", cost=20),
    # comparisons, logic, selection
    _row("Equal", _binary("equal"), commutative=True),
    _row("Less", _binary("less")),
    _row("LessOrEqual", _binary("less_equal")),
    _row("Greater", _swapped("less")),
    _row("GreaterOrEqual", _swapped("less_equal")),
    _row("And", _binary("and"), commutative=True),
    _row("Or", _binary("or"), commutative=True),
    _row("Xor", _binary("xor"), commutative=True),
    _row("Not", _unary("not")),
    _row("BitwiseAnd", _binary("and"), commutative=True),
    _row("BitwiseOr", _binary("or"), commutative=True),
    _row("BitwiseXor", _binary("xor"), commutative=True),
    _row("BitwiseNot", _unary("bitwise_not")),
    _row("BitShift", _bit_shift, attributes=("direction",)),
    _row("IsNaN", _unary("is_nan")),
    _row("IsInf", _is_inf, attributes=("detect_positive", "detect_negative")),
    _row("Where", _where),
    _row("Cast", _cast, attributes=("to",), rate="cast"),
    _row("CastLike", _cast_like, rate="cast"),
    # hands its storage on, as onnxruntime does
    replace(_row("Identity", _identity, flops=0, rate="view"), cost=no_cost),
    # activations
    _row("Relu", _relu_like(lambda node, x: literal(0, x))),
    _row("LeakyRelu", _relu_like(_leaky), attributes=("alpha",)),
    _row("PRelu", _prelu),
    _row("Elu", _relu_like(_elu), rate="exp", cost=10, attributes=("alpha",)),
    _row("Celu", _relu_like(_celu), rate="exp", cost=12, attributes=("alpha",)),
    _row("Selu", _selu, rate="exp", cost=10, attributes=("alpha", "gamma")),
    _row("ThresholdedRelu", _thresholded, attributes=("alpha",)),
    _row("Shrink", _shrink, attributes=("bias", "lambd")),
    _row("HardSigmoid", _hard_sigmoid, flops=4, attributes=("alpha", "beta")),
    _row("HardSwish", _hard_swish, flops=5, cost=2),
    _row("Softsign", _softsign, flops=3, rate="div", cost=5),
    _row("Mish", _mish, flops=3, rate="tanh", cost=24),
    _row("Swish", _swish, flops=2, rate="sigmoid", cost=10, attributes=("alpha",)),
    _row("Gelu", _gelu, flops=5, rate="erf", cost=14, attributes=("approximate",)),
    _row("Gelu", _gelu, flops=5, rate="erf", cost=14, domain=MICROSOFT),
    _row("BiasGelu", _bias_gelu, flops=6, rate="erf", cost=15, domain=MICROSOFT),
    _row("FastGelu", _fast_gelu, flops=8, rate="tanh", cost=14, domain=MICROSOFT),
    _row("QuickGelu", _quick_gelu, flops=3, rate="sigmoid", cost=12, domain=MICROSOFT, attributes=("alpha",)),
    # Swish of the gate (a sigmoid and a product), times the value
    _row("SwiGLU", None, flops=3, rate="sigmoid", attributes=("alpha",)),
    # scale, sigmoid, product
    _row("ScaledSiLU", None, flops=3, rate="sigmoid", domain=MICROSOFT, attributes=("alpha",)),
    _row("GatedAdd", None, flops=2, domain=MICROSOFT),
    _row("BiasAdd", None, flops=2, domain=MICROSOFT),
    # per result: a bias for each half, Gelu (5), the product
    _row("BiasSplitGelu", None, flops=8, rate="erf", domain=MICROSOFT),
    # a product of complex numbers takes 4 products and 2 sums, and has two elements
    _row("ComplexMul", None, flops=3, rate="mul", domain=MICROSOFT),
    _row("ComplexMulConj", None, flops=3, rate="mul", domain=MICROSOFT),
    # both zero points are subtracted first
    _row("MulInteger", None, flops=3, rate="mul", domain=MICROSOFT),
    # at inference: the bias, and a residual when there is one
    *(
        replace(_row(name, None, domain=MICROSOFT), cost=_bias_dropout_cost, structural=(3, 4))
        for name in ("BiasDropout", "BitmaskBiasDropout")
    ),
    # decay = scale * softplus(a + bias)
    replace(_row("LinearAttentionGate", None, rate="exp", domain=MICROSOFT), cost=_decay_gate_cost),
    # a sine and a cosine per angle, shared by the heads; query and key: two products and a sum per element
    replace(_row("GemmaRotaryEmbedding", None, rate="sin", domain=MICROSOFT), cost=_angle_rotation_cost),
)
