"""Factors: small values that many elements of larger ones repeat, such as the inverse deviations of a normalisation."""

from collections.abc import Sequence
from math import prod

from graphopt.graph import Shape
from graphopt.kernels.lower import COSTLY
from graphopt.kernels.places import has_choices
from graphopt.kernels.program import Convolution, Input, Map, Program, View, present, readers_of
from graphopt.operators.lowering import Call, Expression

MANY_TIMES = 8
"""How many times as many elements must read a factor for it to be computed apart."""

LEAST_WORK = 1 << 15
"""Simple operations that must be saved: from 2,048 divisions on, kernels were faster in spite of one step more."""

COSTLY_WORK = 16
"""Simple operations that a division, a root or a polynomial takes as long as."""

SINGLE_WORK = 160
"""The same of what is computed element by element: functions of the C library, and divisions of integers."""

TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"))
SINGLE = TRIGONOMETRIC | {"power", "modulo", "remainder"}
VECTORS = COSTLY - SINGLE | {"divide", "sqrt", "softplus"}


def repeated_factors(program: Program) -> list[int]:
    """Values, each behind those that it is computed from, that are better computed once and kept in memory.

    They are computed from inputs and convolutions by maps and views and cost more than simple operations, and in every
    example what reads them repeats each of their elements often.
    """
    if not program.examples:
        return []
    readers = readers_of(program)
    found: list[int] = []
    for number, value in enumerate(program.values):
        if not isinstance(value, Map) or number in program.outputs:
            continue
        work = _work_behind(program, number, set(found))
        if work >= COSTLY_WORK and all(
            work * _repeated(program, readers, example, number) >= LEAST_WORK for example in program.examples
        ):
            found.append(number)
    return found


def _repeated(program: Program, readers: list[list[int]], example: Sequence[Shape | None], value: int) -> int:
    """How many elements of the largest reader repeat an element of a value; 0 where that is not known, or not often."""
    shape = example[value]
    if shape is None:
        return 0
    most, pending = 0, [value]
    while pending:
        for reader in readers[pending.pop()]:
            what, larger = program.values[reader], example[reader]
            if larger is None or not isinstance(what, Map | View) or (isinstance(what, View) and has_choices(what)):
                continue
            if prod(larger) >= MANY_TIMES * prod(shape):
                most = max(most, prod(larger) - prod(shape))
            elif isinstance(what, View):  # another order of the same elements
                pending.append(reader)
    return most


def _work_behind(program: Program, value: int, ready: set[int]) -> int:
    """Work for an element of a value that is computed from what is in memory by maps and views; 0 for others.

    In memory are inputs, ready values and convolutions: each is a step of its own. Single constants are read once, and
    what is computed from them alone is, too.
    """
    work, varies, pending, seen = 0, False, [value], {value}
    while pending:
        number = pending.pop()
        what = program.values[number]
        if isinstance(what, Input | Convolution) or number in ready:
            varies |= not (isinstance(what, Input) and what.once)
            continue
        if not isinstance(what, Map | View) or (isinstance(what, View) and has_choices(what)):
            return 0
        work += _work(what.expression) if isinstance(what, Map) else 0
        fresh = set(present(what)) - seen
        seen |= fresh
        pending += fresh
    return work if varies else 0


def _work(expression: Expression) -> int:
    """Work for an element of an expression, in simple operations."""
    if not isinstance(expression, Call):
        return 0
    whole = "int" in expression.dtype
    single = expression.primitive in SINGLE or (whole and expression.primitive == "divide")
    own = SINGLE_WORK if single else COSTLY_WORK if expression.primitive in VECTORS else 1
    return own + sum(map(_work, expression.arguments))
