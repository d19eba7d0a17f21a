"""Scalar primitives: what expressions are made of, and their C text for each element type.

Values of float16 and bfloat16 are held in float32 and rounded only where they are stored or cast. Integers wrap.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from graphopt.operators.lowering import Call, Expression, IntegerSums, Literal, Moved, Reduced, SquaresAround

STORAGE = {
    "float32": "float",
    "float64": "double",
    "float16": "uint16_t",
    "bfloat16": "uint16_t",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
    "uint64": "uint64_t",
    "bool": "uint8_t",
}
"""C type of an element in memory."""

ELEMENT_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
}
"""ONNX's number of an element type."""

HALVES = {"float16": "half", "bfloat16": "bfloat"}
FLOATS = {"float32", "float64", "float16", "bfloat16"}
SUFFIX = {
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "bool": "u8",
    "float32": "f32",
    "float64": "f64",
    "float16": "f32",
    "bfloat16": "f32",
}
"""Ending of the C functions of scalar.h for values of an element type."""


def held(dtype: str) -> str:
    """C type of a value in a register."""
    return "float" if dtype in HALVES else STORAGE[dtype]


def loaded(text: str, dtype: str) -> str:
    """C text of an element read from memory."""
    return f"{HALVES[dtype]}_to_float({text})" if dtype in HALVES else text


def stored(text: str, dtype: str) -> str:
    """C text of an element as it goes to memory."""
    return f"float_to_{HALVES[dtype]}({text})" if dtype in HALVES else text


def number(literal: Literal) -> str:
    """C text of a literal."""
    if literal.dtype not in FLOATS:
        whole = int(literal.value)
        text = "INT64_MIN" if whole == -(2**63) else f"INT64_C({whole})" if whole < 2**63 else f"UINT64_C({whole})"
        return f"(({STORAGE[literal.dtype]}){text})"
    value = float(literal.value)
    if value != value:
        return "NAN"
    if value in (float("inf"), float("-inf")):
        return "INFINITY" if value > 0 else "(-INFINITY)"
    text = repr(value)
    if "e" not in text and "." not in text:
        text += ".0"
    text = f"({text})" if text.startswith("-") else text
    return f"(double){text}" if literal.dtype == "float64" else f"(float){text}"


def _infix(operator: str) -> Callable[[Sequence[str], str], str]:
    def text(x: Sequence[str], dtype: str) -> str:
        if dtype in FLOATS:
            return f"{x[0]} {operator} {x[1]}"
        return f"({held(dtype)})((uint64_t){x[0]} {operator} (uint64_t){x[1]})"

    return text


def _comparison(operator: str) -> Callable[[Sequence[str], str], str]:
    return lambda x, dtype: f"{x[0]} {operator} {x[1]}"


def _function(name: str) -> Callable[[Sequence[str], str], str]:
    """A libm function of one argument, in both precisions."""
    return lambda x, dtype: f"{name}({x[0]})" if dtype == "float64" else f"{name}f({x[0]})"


def _polynomial(name: str, double: str) -> Callable[[Sequence[str], str], str]:
    """A function of scalar.h in float32; a libm expression in float64."""
    return lambda x, dtype: double.format(x[0]) if dtype == "float64" else f"{name}_f32({x[0]})"


def _integer_function(name: str, floating: str) -> Callable[[Sequence[str], str], str]:
    def text(x: Sequence[str], dtype: str) -> str:
        if dtype in FLOATS:
            return floating.format(*x, f="" if dtype == "float64" else "f")
        return f"{name}_{SUFFIX[dtype]}({', '.join(x)})"

    return text


def _divide(x: Sequence[str], dtype: str) -> str:
    return f"{x[0]} / {x[1]}" if dtype in FLOATS else f"divide_{SUFFIX[dtype]}({x[0]}, {x[1]})"


def _logical(operator: str) -> Callable[[Sequence[str], str], str]:
    return lambda x, dtype: f"({held(dtype)})({x[0]} {operator} {x[1]})"


def _absolute(x: Sequence[str], dtype: str) -> str:
    if dtype in FLOATS:
        return f"fabs({x[0]})" if dtype == "float64" else f"fabsf({x[0]})"
    return x[0] if dtype.startswith("u") else f"{x[0]} < 0 ? ({held(dtype)})(0 - (uint64_t){x[0]}) : {x[0]}"


def _negate(x: Sequence[str], dtype: str) -> str:
    return f"-{x[0]}" if dtype in FLOATS else f"({held(dtype)})(0 - (uint64_t){x[0]})"


def _sign(x: Sequence[str], dtype: str) -> str:
    if dtype.startswith("u"):
        return f"{x[0]} > 0"
    sign = f"({held(dtype)})(({x[0]} > 0) - ({x[0]} < 0))"
    return f"{x[0]} != {x[0]} ? {x[0]} : {sign}" if dtype in FLOATS else sign


def _rounding(name: str) -> Callable[[Sequence[str], str], str]:
    function = _function(name)
    return lambda x, dtype: function(x, dtype) if dtype in FLOATS else x[0]


def _shift(operator: str) -> Callable[[Sequence[str], str], str]:
    def text(x: Sequence[str], dtype: str) -> str:
        return f"{x[1]} < 8 * sizeof({held(dtype)}) ? ({held(dtype)})((uint64_t){x[0]} {operator} {x[1]}) : 0"

    return text


PRIMITIVES: dict[str, Callable[[Sequence[str], str], str]] = {
    "add": _infix("+"),
    "subtract": _infix("-"),
    "multiply": _infix("*"),
    "divide": _divide,
    "modulo": _integer_function("modulo", "fmod{f}({0}, {1})"),
    "remainder": _integer_function("remainder", "fmod{f}({0}, {1})"),
    "power": _integer_function("power", "pow{f}({0}, {1})"),
    "maximum": lambda x, dtype: f"maximum_{SUFFIX[dtype]}({x[0]}, {x[1]})",
    "minimum": lambda x, dtype: f"minimum_{SUFFIX[dtype]}({x[0]}, {x[1]})",
    # bounds by a literal that is no NaN
    "at_least": lambda x, dtype: f"at_least_f32({x[0]}, UNKNOWN({x[1]}))",
    "at_most": lambda x, dtype: f"at_most_f32({x[0]}, UNKNOWN({x[1]}))",
    # the bound for a NaN
    "at_least_number": lambda x, dtype: f"at_least_number_f32({x[0]}, UNKNOWN({x[1]}))",
    # of floats within the range of int32
    "truncate": lambda x, dtype: f"(int32_t){x[0]}",
    "negate": _negate,
    "absolute": _absolute,
    "sign": _sign,
    "sqrt": _function("sqrt"),
    "floor": _rounding("floor"),
    "ceil": _rounding("ceil"),
    "round": _rounding("rint"),
    "exp": _polynomial("exp", "exp({0})"),
    # of operands that are not positive
    "exp_down": _polynomial("exp_down", "exp({0})"),
    # of operands that are not positive, 2^64 times as large
    "exp_scaled": _polynomial("exp_scaled", "exp({0}) * 0x1p64"),
    "log": _polynomial("log", "log({0})"),
    "erf": _polynomial("erf", "erf({0})"),
    "tanh": _polynomial("tanh", "tanh({0})"),
    "sigmoid": _polynomial("sigmoid", "1.0 / (1.0 + exp(-{0}))"),
    "softplus": _polynomial("softplus", "fmax({0}, 0.0) + log1p(exp(-fabs({0})))"),
    # x^(-3/4)
    "inverse_three_quarters": _polynomial("inverse_three_quarters", "1.0 / (sqrt({0}) * sqrt(sqrt({0})))"),
    "sin": _polynomial("sin", "sin({0})"),
    "cos": _polynomial("cos", "cos({0})"),
    "tan": _function("tan"),
    "asin": _function("asin"),
    "acos": _function("acos"),
    "atan": _function("atan"),
    "sinh": _function("sinh"),
    "cosh": _function("cosh"),
    "asinh": _function("asinh"),
    "acosh": _function("acosh"),
    "atanh": _function("atanh"),
    "equal": _comparison("=="),
    "less": _comparison("<"),
    "less_equal": _comparison("<="),
    "is_nan": lambda x, dtype: f"{x[0]} != {x[0]}",
    "is_inf": lambda x, dtype: f"{x[0]} == INFINITY || {x[0]} == -INFINITY",
    "is_positive_inf": lambda x, dtype: f"{x[0]} == INFINITY",
    "is_negative_inf": lambda x, dtype: f"{x[0]} == -INFINITY",
    "and": _logical("&"),
    "or": _logical("|"),
    "xor": _logical("^"),
    "not": lambda x, dtype: f"!{x[0]}",
    "bitwise_not": lambda x, dtype: f"({held(dtype)})~{x[0]}",
    "shift_left": _shift("<<"),
    "shift_right": _shift(">>"),
    "select": lambda x, dtype: f"{x[0]} ? {x[1]} : {x[2]}",
}
"""Primitive to C text, given the C text of its arguments and the dtype of the last one."""


def converted(text: str, source: str, to: str) -> str:
    """C text of a cast between element types."""
    if to == "bool":
        return f"{text} != 0"
    if to in HALVES:
        real = text if held(source) == "float" else f"(float){text}"
        return f"{HALVES[to]}_to_float(float_to_{HALVES[to]}({real}))"
    if to in FLOATS or source not in FLOATS:
        return f"({held(to)}){text}"
    if to == "int32" and held(source) == "float":
        return f"float_to_i32({text})"
    through = {"int8": "to_i32", "int16": "to_i32", "int32": "to_i32", "uint64": "to_u64"}.get(to, "to_i64")
    return f"({held(to)}){through}({text})"


def simplified(expression: Expression) -> Expression:
    """The same value by cheaper primitives where it is equal for every operand.

    Powers with a known exponent, and bounds that are known to be no NaN.
    """
    if isinstance(expression, Reduced | Moved | SquaresAround):
        return replace(expression, argument=simplified(expression.argument))
    if isinstance(expression, IntegerSums):
        return replace(expression, left=simplified(expression.left), right=simplified(expression.right))
    if not isinstance(expression, Call):
        return expression
    arguments = tuple(simplified(argument) for argument in expression.arguments)
    whole = Call(expression.primitive, arguments, expression.dtype)
    if whole.primitive == "cast" and isinstance(arguments[0], Literal) and whole.dtype in ("float32", "float64"):
        return Literal(float(arguments[0].value), whole.dtype)
    if whole.primitive in ("maximum", "minimum") and held(whole.dtype) == "float":
        return _bounded(whole)
    if whole.primitive != "power" or not isinstance(arguments[1], Literal) or whole.dtype not in FLOATS:
        return whole
    x, exponent = arguments[0], float(arguments[1].value)
    square = Call("multiply", (x, x), x.dtype)
    one = Literal(1, x.dtype)
    # sqrt differs from the power 1/2 at minus zero and minus infinity only
    root = Call("sqrt", (Call("add", (x, Literal(0, x.dtype)), x.dtype),), x.dtype)
    infinite = Call("is_negative_inf", (x,), "bool")
    rooted = Call("select", (infinite, Literal(float("inf"), x.dtype), root), x.dtype)
    known: dict[float, Expression] = {
        1.0: x,
        2.0: square,
        3.0: Call("multiply", (square, x), x.dtype),
        4.0: Call("multiply", (square, square), x.dtype),
        -1.0: Call("divide", (one, x), x.dtype),
        0.5: rooted,
        -0.5: Call("divide", (one, rooted), x.dtype),
    }
    return known.get(exponent, whole)


def _bounded(whole: Call) -> Call:
    """A maximum or minimum in float32, with a literal bound where it has one."""
    x, bound = whole.arguments
    if isinstance(x, Literal):
        x, bound = bound, x
    if not isinstance(bound, Literal) or isinstance(x, Literal) or float(bound.value) != float(bound.value):
        return whole
    return Call("at_least" if whole.primitive == "maximum" else "at_most", (x, bound), whole.dtype)
