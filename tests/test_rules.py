"""Each fusion rule stops what it names, and nothing else."""

import pytest

from graphopt.kernels import lowerable
from graphopt.mining.rules import (
    MOST_OPERANDS,
    MOST_RESULTS,
    OPERATOR_RULES,
    PATTERN_RULES,
    RULES,
    stopped_operator,
    stopped_pattern,
)
from tests.mining_captures import capture

X = "(float[2,3,4] x)"


def graph(text: str):
    return capture(text).graph


def test_rules_are_named_once() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.reason and not rule.reason.endswith(".") for rule in RULES)


OPERATORS = {
    "control-flow": """
        g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <
                then_branch = a () => (float[2] p) { p = Identity(x) },
                else_branch = b () => (float[2] q) { q = Neg(x) }
            >
        }""",
    "sorting": "g (float[5] x) => (float[2] v, int64[2] i) <int64[1] k = {2}> { v, i = TopK(x, k) }",
    "data-dependent-size": "g (float[5] x) => (int64[1,N] y) { y = NonZero(x) }",
    "random-numbers": "g (float[5] x) => (float[5] y) { y = RandomNormalLike(x) }",
    "opaque": "g (float[5,5] x) => (float y) { y = Det(x) }",
    "sequential": "g (float[5] x) => (float[5] y) <int64 a = {0}> { y = CumSum(x, a) }",
    "metadata": "g (float[5] x) => (int64[1] y) { y = Shape(x) }",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str) -> None:
    found = graph(OPERATORS[name])
    rule = stopped_operator(found, 0)
    assert rule is not None
    assert rule.name == name


def test_unknown_operators_and_types() -> None:
    known = graph("g (float[5] x) => (float[5] y) { y = Relu(x) }")
    assert stopped_operator(known, 0) is None
    strange = type(known)(
        known.name,
        tuple(type(n)(n.name, "strange", "Thing", 1, n.inputs, n.outputs, {}) for n in known.nodes),
        known.tensors,
        known.inputs,
        known.outputs,
    )
    assert stopped_operator(strange, 0).name == "unknown-operator"
    tensor = known.tensors["y"]
    blind = type(known)(
        known.name, known.nodes, {**known.tensors, "y": type(tensor)("y", tensor.dtype)}, known.inputs, known.outputs
    )
    assert stopped_operator(blind, 0).name == "unknown-type"


PATTERNS = {
    "computed-plan": (
        "g (int64[2] s, float[6] x) => (float[M,N] y) { t = Add(s, s)  y = Reshape(x, t) }",
        "g (int64[2] s, float[6] x) => (float[M,N] y) { t = Add(x, x)  y = Reshape(t, s) }",
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name: str) -> None:
    stopped, allowed = (graph(text) for text in PATTERNS[name])
    rule = stopped_pattern(stopped, range(len(stopped.nodes)))
    assert rule is not None
    assert rule.name == name
    assert name not in {r.name for r in PATTERN_RULES if r.stops(allowed, range(len(allowed.nodes)))}
    for node in range(len(stopped.nodes)):
        assert stopped_pattern(stopped, (node,)) is None


@pytest.mark.parametrize(
    "text",
    [
        "g (float[4,4] x) => (float[4,4] y) { a = MatMul(x, x)  b = Relu(a)  y = MatMul(b, x) }",
        f"g {X} => (float[2,3,4] y) {{ a = ReduceMax<axes=[1]>(x)  b = Sub(x, a)  y = Softmax<axis=-1>(b) }}",
        "g (float[4,4] x, int64[3] i) => (float[3,4] y) { a = MatMul(x, x)  b = Relu(a)  y = Gather(b, i) }",
    ],
)
def test_what_a_kernel_does_in_several_steps_is_allowed(text: str) -> None:
    found = graph(text)
    assert stopped_pattern(found, range(len(found.nodes))) is None
    assert lowerable(found) is None


def test_too_many_operands() -> None:
    names = [f"x{i}" for i in range(MOST_OPERANDS + 1)]
    inputs = ", ".join(f"float[2] {name}" for name in names)
    found = graph(f"g ({inputs}) => (float[N] y) {{ a = Concat<axis=0>({', '.join(names)})  y = Relu(a) }}")
    assert stopped_pattern(found, (0, 1)).name == "too-many-operands"
    found = graph(f"g ({inputs}) => (float[N] y) {{ a = Concat<axis=0>({', '.join(names[1:])})  y = Relu(a) }}")
    assert stopped_pattern(found, (0, 1)) is None


def test_too_many_results() -> None:
    def split(count: int):
        results = ", ".join(f"y{i}" for i in range(count))
        declared = ", ".join(f"float[1] y{i}" for i in range(count))
        return graph(f"g (float[{count}] x) => ({declared}) {{ a = Relu(x)  {results} = Split<axis=0>(a) }}")

    assert stopped_pattern(split(MOST_RESULTS), (0, 1)) is None
    assert stopped_pattern(split(MOST_RESULTS + 1), (0, 1)).name == "too-many-results"


def test_levels_are_split() -> None:
    assert {rule.name for rule in OPERATOR_RULES} | {rule.name for rule in PATTERN_RULES} == {r.name for r in RULES}
