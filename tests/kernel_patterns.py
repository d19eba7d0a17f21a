"""Random patterns of element-wise and layout operators, each valid for inputs of many shapes.

A pattern is a fixed graph. What depends on shapes (a Reshape's target, the bounds of a Slice, …) is an input of its
own, and every input has a recipe that makes it fit the tensors that are there when the graph is walked. So one
pattern, and one kernel, can be run at any number of shapes. All operators are exact: results are equal in every bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from graphopt.operators.blocked import block_size
from tests.kernel_checks import BLOCKED, Array, Case, compute, random_values

LARGEST = 150_000
"""Elements of the largest tensor of a walk."""

Values = dict[str, Array]
Recipe = Callable[[Values, np.random.Generator, bool], Array]
"""(tensors so far, randomness, whether sizes are large) to an input."""


class TooLargeWalkError(Exception):
    """The sizes that were drawn make tensors too large for a test."""


@dataclass(frozen=True)
class Known:
    """A tensor of the pattern: its rank, and a token that is equal for tensors that always have equal shapes."""

    name: str
    rank: int
    form: object
    dtype: str


@dataclass(frozen=True)
class Pattern:
    """A graph with recipes for its inputs.

    Attributes:
        name: of the kernel.
        steps: inputs to make (name, recipe), then the node that reads them.
        outputs: tensors that leave the pattern.
        constants: tensors inside of it.
        constant_inputs: inputs that are constants of the model.
    """

    name: str
    steps: tuple[tuple[tuple[tuple[str, Recipe], ...], NodeProto], ...]
    outputs: tuple[str, ...]
    constants: Values
    constant_inputs: frozenset[str]

    def walk(self, seed: int, large: bool = False) -> tuple[Values, Values]:
        """Inputs of random shapes, and every tensor that follows from them."""
        for attempt in range(100):
            random = np.random.default_rng([seed, attempt])
            try:
                return self._walk(random, large and attempt < 50)
            except TooLargeWalkError:
                continue
        raise AssertionError(f"{self.name}: no sizes fit")

    def _walk(self, random: np.random.Generator, large: bool) -> tuple[Values, Values]:
        values: Values = dict(self.constants)
        feeds: Values = {}
        for inputs, node in self.steps:
            for name, recipe in inputs:
                feeds[name] = values[name] = recipe(values, random, large)
            results = compute(node, [values[x] for x in node.input], 21)
            if any(result.size > LARGEST for result in results):
                raise TooLargeWalkError
            values.update(zip(node.output, results, strict=True))
        return feeds, values

    def case(self, seed: int, shaped: bool) -> Case:
        """The case whose kernel is generated from the shapes of one walk."""
        feeds, _ = self.walk(seed)
        nodes = tuple(node for _, node in self.steps)
        return Case(self.name, nodes, feeds, self.outputs, self.constants, self.constant_inputs, shaped=shaped)


def _size(random: np.random.Generator, large: bool) -> int:
    kind = random.random()
    if kind < 0.04:
        return 0
    if kind < 0.2:
        return 1
    if large:
        return int(random.integers(6, 70))
    return int(random.integers(2, 8)) if kind < 0.9 else int(random.integers(8, 40))


def _base(rank: int, dtype: str) -> Recipe:
    def recipe(values: Values, random: np.random.Generator, large: bool) -> Array:
        shape = [_size(random, large and axis >= rank - 3) for axis in range(rank)]
        return random_values(shape, dtype, int(random.integers(1 << 30)))

    return recipe


def _blocked(channels: int, dtype: str) -> Recipe:
    def recipe(values: Values, random: np.random.Generator, large: bool) -> Array:
        padded = -(-channels // block_size()) * block_size()
        shape = (int(random.integers(1, 3)), padded, _size(random, large), _size(random, large))
        return random_values(shape, dtype, int(random.integers(1 << 30)))

    return recipe


def _beside(of: str, dtype: str, ones: Sequence[bool], dropped: int) -> Recipe:
    """An operand that broadcasts to a tensor."""

    def recipe(values: Values, random: np.random.Generator, large: bool) -> Array:
        shape = [1 if one else size for size, one in zip(values[of].shape, ones, strict=True)][dropped:]
        return random_values(shape, dtype, int(random.integers(1 << 30)))

    return recipe


def _above(of: str, dtype: str, more: int) -> Recipe:
    """An operand that a tensor broadcasts to: more dimensions in front, and sizes where it has one."""

    def recipe(values: Values, random: np.random.Generator, large: bool) -> Array:
        front = [int(random.integers(1, 4)) for _ in range(more)]
        shape = [int(random.integers(1, 4)) if size == 1 else size for size in values[of].shape]
        return random_values([*front, *shape], dtype, int(random.integers(1 << 30)))

    return recipe


def _longer(of: str, dtype: str, axis: int) -> Recipe:
    """A tensor of another size along one axis."""

    def recipe(values: Values, random: np.random.Generator, large: bool) -> Array:
        shape = list(values[of].shape)
        shape[axis] = int(random.integers(0, 5))
        return random_values(shape, dtype, int(random.integers(1 << 30)))

    return recipe


def _target(of: str, rank: int) -> Recipe:
    """A Reshape's target of some rank for the elements that there are."""

    def recipe(values: Values, random: np.random.Generator, large: bool) -> Array:
        left = values[of].size
        if left == 0:
            sizes = [int(random.integers(0, 4)) for _ in range(rank)]
            sizes[int(random.integers(rank))] = 0
            return np.array(sizes, np.int64)
        sizes = [1] * rank
        factor = 2
        while left > 1:
            if left % factor == 0:
                sizes[int(random.integers(rank))] *= factor
                left //= factor
            else:
                factor += 1
        if random.random() < 0.3:
            sizes[int(random.integers(rank))] = -1
        return np.array(sizes, np.int64)

    return recipe


def _bounds(of: str, axes: Sequence[int], step: Sequence[int], which: str) -> Recipe:
    def recipe(values: Values, random: np.random.Generator, large: bool) -> Array:
        sizes = [values[of].shape[axis] for axis in axes]
        found = []
        for size, by in zip(sizes, step, strict=True):
            early = int(random.integers(-1, size // 2 + 1))
            late = int(random.integers(size // 2, size + 3))
            start, end = (early, late) if by > 0 else (late, early)
            value = start if which == "starts" else end
            if random.random() < 0.2:
                value -= size
            if random.random() < 0.1 and which == "ends":
                value = 2**63 - 1 if by > 0 else -(2**63)
            found.append(value)
        return np.array(found, np.int64)

    return recipe


def _parts(of: str, axis: int, parts: int) -> Recipe:
    def recipe(values: Values, random: np.random.Generator, large: bool) -> Array:
        cuts = sorted(int(random.integers(0, values[of].shape[axis] + 1)) for _ in range(parts - 1))
        return np.diff([0, *cuts, values[of].shape[axis]]).astype(np.int64)

    return recipe


def _wider(of: str, rank: int) -> Recipe:
    def recipe(values: Values, random: np.random.Generator, large: bool) -> Array:
        shape = [int(random.integers(1, 4)) if size == 1 else size for size in values[of].shape]
        front = [int(random.integers(1, 4)) for _ in range(rank - len(shape))]
        return np.array([*front, *shape], np.int64)

    return recipe


def _counts(rank: int, low: int, high: int) -> Recipe:
    def recipe(values: Values, random: np.random.Generator, large: bool) -> Array:
        return np.array([random.integers(low, high) if random.random() < 0.4 else low for _ in range(rank)], np.int64)

    return recipe


def _indices(of: str, axis: int, rank: int) -> Recipe:
    def recipe(values: Values, random: np.random.Generator, large: bool) -> Array:
        size = values[of].shape[axis]
        if size == 0:
            return np.zeros((0,) * rank, np.int64)
        shape = [int(random.integers(1, 4)) for _ in range(rank)]
        if random.random() < 0.3:
            start = int(random.integers(size))
            return np.asarray((np.arange(int(np.prod(shape))).reshape(shape) + start) % size)
        return np.asarray(random.integers(-size, size, shape))

    return recipe


class _Builder:
    """A pattern as it grows."""

    def __init__(self, name: str, seed: int) -> None:
        self.random = np.random.default_rng([seed, 99])
        self.name = name
        self.dtype = str(self.random.choice(["float32"] * 5 + ["float16", "float64", "int32", "uint8", "int64"]))
        self.steps: list[tuple[tuple[tuple[str, Recipe], ...], NodeProto]] = []
        self.inputs: list[tuple[str, Recipe]] = []
        self.pool: list[Known] = []
        self.constants: Values = {}
        self.constant_inputs: set[str] = set()
        self.used: set[str] = set()
        self.count = 0

    def fresh(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def take(self, recipe: Recipe) -> str:
        name = self.fresh("x")
        self.inputs.append((name, recipe))
        return name

    def inner(self, *values: int) -> str:
        name = self.fresh("c")
        self.constants[name] = np.array(values, np.int64)
        return name

    def add(
        self,
        op_type: str,
        operands: Sequence[str],
        results: Sequence[tuple[int, object]],
        domain: str = "",
        **attributes: Any,
    ) -> list[Known]:
        outputs = [self.fresh("t") for _ in results]
        node = helper.make_node(op_type, list(operands), outputs, domain=domain, **attributes)
        self.steps.append((tuple(self.inputs), node))
        self.inputs = []
        self.used.update(operands)
        made = [Known(n, rank, form, self.dtype) for n, (rank, form) in zip(outputs, results, strict=True)]
        self.pool += made
        return made

    def source(self) -> Known:
        """A tensor to go on from: a recent one most of the time."""
        if self.random.random() < 0.65:
            return self.pool[-1 - int(self.random.integers(min(2, len(self.pool))))]
        return self.pool[int(self.random.integers(len(self.pool)))]

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def below(self, limit: int) -> int:
        return int(self.random.integers(limit))

    # ---------------------------------------------------------------- steps

    def start(self) -> None:
        kind = self.below(10)
        if kind < 2 and self.dtype == "float32" and block_size():
            self.from_blocked()
            return
        rank = 1 + self.below(5)
        name = self.take(_base(rank, self.dtype))
        self.pool.append(Known(name, rank, name, self.dtype))

    def from_blocked(self) -> None:
        channels = int(self.random.choice([block_size(), 2 * block_size(), 4, block_size() + 4, 3]))
        last = self.below(4) == 0
        x = self.take(_blocked(channels, self.dtype))
        attributes = {"channels": channels, **({"channels_last": 1} if last else {})}
        self.add("ReorderOutput", [x], [(4, self.fresh("form"))], BLOCKED, **attributes)

    def to_blocked(self, x: Known) -> None:
        if x.rank == 4 and x.dtype == "float32" and block_size():
            self.add("ReorderInput", [x.name], [(4, ("blocked", x.form))], BLOCKED)

    def unary(self, x: Known) -> None:
        ops = ["Neg", "Abs", "Relu", "Identity"] if self.dtype != "uint8" else ["Identity", "Abs"]
        self.add(str(self.random.choice(ops)), [x.name], [(x.rank, x.form)])

    def _arithmetic(self) -> str:
        exact = ["Max", "Min"] if self.dtype == "float16" else ["Add", "Sub", "Mul", "Max", "Min"]
        return str(self.random.choice(exact))

    def beside(self, x: Known) -> None:
        kind = self.below(4)
        ones = [kind == 0 or (kind == 1 and self.chance(0.5)) for _ in range(x.rank)]
        dropped = self.below(x.rank + 1) if kind == 2 or (kind == 0 and self.chance(0.5)) else 0
        y = self.take(_beside(x.name, self.dtype, ones, dropped))
        if kind == 0 and self.chance(0.7):
            self.constant_inputs.add(y)
        pair = [x.name, y] if self.chance(0.6) else [y, x.name]
        self.add(self._arithmetic(), pair, [(x.rank, x.form)])

    def above(self, x: Known) -> None:
        more = self.below(2) if x.rank < 5 else 0
        y = self.take(_above(x.name, self.dtype, more))
        self.add(self._arithmetic(), [x.name, y], [(x.rank + more, y)])

    def pair(self, x: Known) -> None:
        others = [known for known in self.pool if known.form == x.form and known.rank == x.rank]
        y = others[self.below(len(others))]
        if self.chance(0.3):
            condition = self.fresh("t")
            self.steps.append((tuple(self.inputs), helper.make_node("Less", [x.name, y.name], [condition])))
            self.inputs = []
            self.used.update((x.name, y.name))
            z = others[self.below(len(others))]
            self.add("Where", [condition, y.name, z.name], [(x.rank, x.form)])
        else:
            self.add(self._arithmetic(), [x.name, y.name], [(x.rank, x.form)])

    def transpose(self, x: Known) -> None:
        permutation = [int(p) for p in self.random.permutation(x.rank)]
        self.add("Transpose", [x.name], [(x.rank, ("transposed", x.form, tuple(permutation)))], perm=permutation)

    def reshape(self, x: Known) -> None:
        rank = 1 + self.below(5)
        target = self.take(_target(x.name, rank))
        self.add("Reshape", [x.name, target], [(rank, target)], allowzero=1)

    def flatten(self, x: Known) -> None:
        axis = self.below(x.rank + 1)
        self.add("Flatten", [x.name], [(2, ("flat", x.form, axis))], axis=axis)

    def unsqueeze(self, x: Known) -> None:
        if x.rank < 5:
            axis = self.below(x.rank + 1)
            made = self.add("Unsqueeze", [x.name, self.inner(axis)], [(x.rank + 1, ("unsqueezed", x.form, axis))])
            if self.chance(0.3):
                self.add("Squeeze", [made[0].name, self.inner(axis)], [(x.rank, x.form)])

    def slice(self, x: Known) -> None:
        axes = sorted(int(a) for a in self.random.permutation(x.rank)[: 1 + self.below(2)])
        steps = [int(self.random.choice([1, 1, 1, 2, 3, -1, -2])) for _ in axes]
        starts, ends = (self.take(_bounds(x.name, axes, steps, which)) for which in ("starts", "ends"))
        operands = [x.name, starts, ends, self.inner(*axes), self.inner(*steps)]
        self.add("Slice", operands, [(x.rank, self.fresh("form"))])

    def concat(self, x: Known) -> None:
        axis = self.below(x.rank)
        others = [known.name for known in self.pool if known.form == x.form and known.rank == x.rank]
        operands = [x.name]
        for _ in range(1 + self.below(2)):
            again = self.chance(0.5)
            operands.append(others[self.below(len(others))] if again else self.take(_longer(x.name, self.dtype, axis)))
        self.random.shuffle(operands)
        self.add("Concat", operands, [(x.rank, self.fresh("form"))], axis=axis)

    def split(self, x: Known) -> None:
        axis, parts = self.below(x.rank), 2 + self.below(2)
        if self.chance(0.5):
            sizes = self.take(_parts(x.name, axis, parts))
            forms = [(x.rank, self.fresh("form")) for _ in range(parts)]
            self.add("Split", [x.name, sizes], forms, axis=axis)
        else:  # twice the tensor, so that the halves are equal
            twice = self.add("Concat", [x.name, x.name], [(x.rank, self.fresh("form"))], axis=axis)[0]
            self.add("Split", [twice.name], [(x.rank, x.form)] * 2, axis=axis, num_outputs=2)

    def expand(self, x: Known) -> None:
        rank = min(5, x.rank + self.below(2))
        target = self.take(_wider(x.name, rank))
        self.add("Expand", [x.name, target], [(rank, target)])

    def tile(self, x: Known) -> None:
        repeats = self.take(_counts(x.rank, 1, 3))
        self.add("Tile", [x.name, repeats], [(x.rank, repeats)])

    def pad(self, x: Known) -> None:
        if x.rank > 3:
            return
        pads = self.take(_counts(2 * x.rank, 0, 3))
        operands = [x.name, pads]
        if self.chance(0.5):
            operands.append(self.take(_beside(x.name, self.dtype, [True] * x.rank, x.rank)))
        self.add("Pad", operands, [(x.rank, pads)])

    def gather(self, x: Known) -> None:
        axis, rank = self.below(x.rank), self.below(3)
        if x.rank - 1 + rank > 5 or x.rank - 1 + rank < 1:
            return
        # a scalar index needs a size of at least one: the recipe cannot say so, hence never rank 0
        rank = max(1, rank)
        indices = self.take(_indices(x.name, axis, rank))
        self.constant_inputs.add(indices)
        self.add("Gather", [x.name, indices], [(x.rank - 1 + rank, self.fresh("form"))], axis=axis)

    def depth(self, x: Known) -> None:
        if x.rank > 3:
            return
        flat = self.add("Reshape", [x.name, self.inner(1, 1, 1, -1)], [(4, ("one row", x.form))])[0]
        four = self.add("Concat", [flat.name] * 4, [(4, ("four rows", x.form))], axis=1)[0]
        mode = str(self.random.choice(["DCR", "CRD"]))
        self.add("DepthToSpace", [four.name], [(4, ("deep", mode, x.form))], blocksize=2, mode=mode)

    def join(self, x: Known) -> None:
        other = self.pool[self.below(len(self.pool))]
        flat = [self.add("Reshape", [y.name, self.inner(-1)], [(1, ("flat", y.form))])[0].name for y in (x, other)]
        self.add("Concat", flat, [(1, self.fresh("form"))], axis=0)

    def fork(self, x: Known) -> None:
        self.start()


STEPS: tuple[tuple[str, int], ...] = (
    ("unary", 4),
    ("beside", 6),
    ("above", 1),
    ("pair", 4),
    ("transpose", 4),
    ("reshape", 4),
    ("flatten", 1),
    ("unsqueeze", 1),
    ("slice", 3),
    ("concat", 3),
    ("split", 2),
    ("expand", 1),
    ("tile", 1),
    ("pad", 1),
    ("gather", 2),
    ("depth", 1),
    ("join", 1),
    ("fork", 1),
    ("to_blocked", 1),
)


def random_pattern(name: str, seed: int) -> Pattern:
    """A pattern of two to ten operators."""
    builder = _Builder(name, seed)
    builder.start()
    wanted = 2 + builder.below(9)
    kinds = [kind for kind, weight in STEPS for _ in range(weight)]
    while len(builder.steps) < wanted:
        kind = kinds[builder.below(len(kinds))]
        getattr(builder, kind)(builder.source())
    made = [output for _, node in builder.steps for output in node.output]
    consumed = {x for _, node in builder.steps for x in node.input}
    leaves = [name for name in made if name not in consumed]
    escaping = [name for name in made if name in consumed and builder.chance(0.15)]
    outputs = tuple(dict.fromkeys([*leaves, *escaping]))[:6]
    unused = {name for inputs, _ in builder.steps for name, _ in inputs}
    assert unused
    return Pattern(name, tuple(builder.steps), outputs, builder.constants, frozenset(builder.constant_inputs))
