"""A small opportunities file for the tests of reports: two models, hostile names, one pattern ruled out."""

import copy
from typing import Any

from graphopt import machine
from graphopt.mining import find_opportunities
from tests.mining_captures import capture

HOSTILE = "</script><script>alert(1)</script>"
"""A model's name that is markup, if anything takes it for that."""

SWISH = """swish (float[N,64,1000] x) => (float[N,64,1000] z)
    <float three = {3.0}, float zero = {0.0}, float six = {6.0}> {
    a = Add(x, three)  b = Clip(a, zero, six)  c = Mul(x, b)  z = Div(c, six)
}"""

PRODUCTS = """products (float[64,64] x, float[64,64] v, float[64,64] w) => (float[64,64] y, float[64,64] z) {
    a = MatMul(x, v)  b = Relu(a)  c = MatMul(b, w)  y = Sigmoid(c)
    rows = Shape <start = 0, end = 1> (x)  columns = Shape <start = 1, end = 2> (x)
    sizes = Concat <axis = 0> (columns, rows)  z = Reshape(b, sizes)
}"""


def opportunities() -> dict[str, Any]:
    """JSON of kind ``opportunities``; a copy of its own for each call."""
    return copy.deepcopy(_MINED)


def _mined() -> dict[str, Any]:
    captures = [
        capture(SWISH, {"x": (1, 64, 1000)}, 700, HOSTILE),
        capture(SWISH, {"x": (8, 64, 1000)}, 20, "swish"),
        capture(PRODUCTS, {}, 50, "products"),
    ]
    return find_opportunities(captures, machine.load(machine.DEFAULT), k=20, ruled_out=True).to_dict()


_MINED = _mined()
