"""Convolution kernels against direct sums in float64: both layouts, groups, strides, dilations, pads, odd sizes."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from graphopt.kernels.compile import uses_matrix_unit
from graphopt.operators.blocked import block_size
from tests.kernel_checks import BLOCKED, Array, Case, KernelLibrary

TOLERANCE = 2e-6
"""Relative to the sum of the products' sizes: a few units in the last place of a pairwise sum."""


@dataclass(frozen=True)
class Example:
    """A convolution and what it is fed; channels of blocked tensors fill whole blocks."""

    name: str
    blocked: bool
    x: tuple[int, ...]
    w: tuple[int, ...]
    groups: int = 1
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    bias: bool = True
    added: bool = False
    activation: str = ""
    parameters: tuple[float, ...] = ()

    @property
    def node(self) -> NodeProto:
        """The operator."""
        flat = len(self.x) == 3
        attributes: dict[str, Any] = {
            "group": self.groups,
            "strides": self.strides[1:] if flat else self.strides,
            "dilations": self.dilations[1:] if flat else self.dilations,
            "pads": (self.pads[1], self.pads[3]) if flat else self.pads,
            "kernel_shape": self.w[2:],
        }
        if self.activation:
            attributes["activation"] = self.activation
        if self.parameters:
            attributes["activation_params"] = self.parameters
        names = ["x", "w", "b" if self.bias else "", "z" if self.added else ""]
        while not names[-1]:
            names.pop()
        fused = bool(self.activation or self.added)
        domain = BLOCKED if self.blocked else "com.microsoft" if fused else ""
        return helper.make_node(
            "FusedConv" if fused and not self.blocked else "Conv", names, ["y"], domain=domain, **attributes
        )

    def feeds(self, seed: int = 0, batch: int = 0, larger: int = 0) -> dict[str, Array]:
        """Random operands; another batch, and an image larger by some rows and columns."""
        random = np.random.default_rng(seed)
        shape = (batch or self.x[0], self.x[1], *(size + larger for size in self.x[2:]))
        found = {"x": random.standard_normal(shape), "w": random.standard_normal(self.w)}
        if self.bias:
            found["b"] = random.standard_normal(self.w[0])
        if self.added:
            found["z"] = random.standard_normal(self.sums(found)[0].shape)
        return {name: value.astype(np.float32) for name, value in found.items()}

    def sums(self, feeds: dict[str, Array]) -> tuple[Array, Array]:
        """The plain sums in float64, and the sums of the products' sizes."""
        x, w = (feeds[name].astype(np.float64) for name in "xw")
        if self.blocked:
            x, w = self._plain(x), self._plain_weights(w)
        if x.ndim == 3:
            x, w = x[:, :, None], w[:, :, None]
        top, left, bottom, right = self.pads if len(self.x) == 4 else (0, self.pads[1], 0, self.pads[3])
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        (sy, sx), (dy, dx) = self.strides, self.dilations
        if len(self.x) == 3:
            sy = dy = 1
        height = (x.shape[2] - (w.shape[2] - 1) * dy - 1) // sy + 1
        width = (x.shape[3] - (w.shape[3] - 1) * dx - 1) // sx + 1
        total = np.zeros((2, x.shape[0], w.shape[0], height, width))
        per = w.shape[0] // self.groups
        for g in range(self.groups):
            part = x[:, g * w.shape[1] : (g + 1) * w.shape[1]]
            weights = w[g * per : (g + 1) * per]
            for y in range(w.shape[2]):
                for k in range(w.shape[3]):
                    seen = part[
                        :, :, y * dy : y * dy + (height - 1) * sy + 1 : sy, k * dx : k * dx + (width - 1) * sx + 1 : sx
                    ]
                    total[0, :, g * per : (g + 1) * per] += np.einsum("nchw,oc->nohw", seen, weights[:, :, y, k])
                    total[1, :, g * per : (g + 1) * per] += np.einsum(
                        "nchw,oc->nohw", abs(seen), abs(weights[:, :, y, k])
                    )
        if self.bias:
            total[0] += feeds["b"].astype(np.float64)[:, None, None]
        if self.blocked:
            total = np.stack([self._blocked(part) for part in total])
        if "z" in feeds:
            total[0] += feeds["z"].reshape(total[0].shape)
        if len(self.x) == 3:
            total = total[:, :, :, 0]
        return total[0], total[1]

    def _plain(self, x: Array) -> Array:
        block = block_size()
        if self.groups == 1 and self.w[1] < block:
            return x
        n, c, h, w = x.shape
        return x.reshape(n, c // block, h, w, block).transpose(0, 1, 4, 2, 3).reshape(n, c, h, w)

    def _blocked(self, x: Array) -> Array:
        block = block_size()
        n, c, h, w = x.shape
        return x.reshape(n, c // block, block, h, w).transpose(0, 1, 3, 4, 2).reshape(n, c, h, w)

    def _plain_weights(self, w: Array) -> Array:
        block, (o, i, *kernel) = block_size(), w.shape
        if i < block:  # [O / block, I, kernel, block]
            return w.reshape(o // block, i, *kernel, block).transpose(0, 4, 1, 2, 3).reshape(w.shape)
        blocks = w.reshape(o // block, i // block, *kernel, block, block)  # input channels, then output channels
        return blocks.transpose(0, 5, 1, 4, 2, 3).reshape(w.shape)

    def check(self, found: Array, feeds: dict[str, Array]) -> None:
        """Within the tolerance of the sums in float64."""
        expected, scale = self.sums(feeds)
        if self.activation:
            expected = ACTIVATIONS[self.activation](expected, *self.parameters)
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        error = np.abs(found - expected)
        assert (error <= TOLERANCE * (scale + np.abs(expected) + 1e-6)).all(), f"{self}: {error.max()}"


ACTIVATIONS = {
    "Relu": lambda x: np.maximum(x, 0),
    "Clip": lambda x, low, high: np.clip(x, low, high),
    "LeakyRelu": lambda x, alpha: np.where(x < 0, alpha * x, x),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "HardSigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
}
PARAMETERS = {"Clip": (-0.5, 1.5), "LeakyRelu": (0.1,), "HardSigmoid": (0.2, 0.5)}


def random_example(seed: int) -> Example:
    """A small convolution of any kind."""
    random = np.random.default_rng(seed)
    block = block_size() or 16

    def number(low: int, high: int) -> int:
        return int(random.integers(low, high + 1))

    kernel, strides, dilations = (
        (number(1, 4), number(1, 4)),
        (number(1, 3), number(1, 3)),
        (number(1, 2), number(1, 2)),
    )
    pads = tuple(number(0, 3) for _ in range(4)) if number(0, 2) else (0, 0, 0, 0)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    image = [number(1, 30) if number(0, 3) else 1 for _ in range(2)]
    image = [
        max(size, span - low - high, 1) for size, span, low, high in zip(image, spans, pads[:2], pads[2:], strict=True)
    ]
    kind = number(0, 5) if block_size() else 5
    groups = 1
    if kind == 0:
        channels, weights = block * number(1, 4), (block * number(1, 6), 0)
        weights = (weights[0], channels)
    elif kind == 1:
        channels = number(1, block - 1)
        weights = (block * number(1, 6), channels)
    elif kind == 2:
        channels = groups = block * number(1, 4)
        weights = (channels, 1)
        groups = groups if groups > 1 else 1
    elif kind == 3:
        groups = number(2, 3)
        weights = (groups * block * number(1, 3), block * number(1, 2))
        channels = weights[1] * groups
    else:
        groups = number(1, 3) if number(0, 1) else 1
        weights = (groups * number(1, 40), number(1, 40))
        channels = weights[1] * groups
    activation = ["", "", "Relu", *sorted(ACTIVATIONS)][number(0, 2 + len(ACTIVATIONS))]
    blocked = kind < 4
    flat = not blocked and number(0, 2) == 0
    x = (number(1, 3), channels, *image)
    w = (*weights, *kernel)
    if flat:
        x, w = (*x[:2], x[3]), (*w[:2], w[3])
    return Example(
        f"convolution{seed}",
        blocked,
        x,
        w,
        groups,
        strides,
        dilations,
        pads,
        bool(number(0, 3)),  # type: ignore[arg-type]
        number(0, 3) == 0 and bool(activation or blocked),
        activation,
        PARAMETERS.get(activation, ()),
    )


def depthwise_examples() -> list[Example]:
    """Depthwise convolutions of windows that have tile functions of their own, in wide and narrow images."""
    channels = 2 * (block_size() or 16)
    sizes = [
        ((20, 30), (3, 3)),
        ((17, 41), (7, 7)),
        ((30, 13), (5, 5)),
        ((9, 70), (3, 7)),
        ((33, 1), (5, 1)),
        ((80, 90), (7, 7)),
    ]
    return [
        Example(
            f"depthwise{number}",
            True,
            (1, channels, *image),
            (channels, 1, *kernel),
            channels,
            pads=(kernel[0] // 2, kernel[1] // 2, kernel[0] // 2, kernel[1] // 2 - number % 2 * (kernel[1] > 1)),
            activation="Relu" if number % 2 else "",
        )
        for number, (image, kernel) in enumerate(sizes)
    ]


EXAMPLES = {example.name: example for example in (random_example(seed) for seed in range(96))}
if block_size():
    EXAMPLES |= {example.name: example for example in depthwise_examples()}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    cases = [
        Case(name, (example.node,), example.feeds(), ("y",), constant_inputs=frozenset("wb"), shaped=seed % 3 > 0)
        for seed, (name, example) in enumerate(EXAMPLES.items())
    ]
    return KernelLibrary(cases, tmp_path_factory.mktemp("convolutions"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_sums(library: KernelLibrary, name: str) -> None:
    example = EXAMPLES[name]
    for seed, (batch, larger) in enumerate([(0, 0), (2, 3)]):
        feeds = example.feeds(seed, batch, larger)
        for run in (library.run, library.run_with_constants):
            (found,) = run(name, feeds)
            example.check(found, feeds)


def hard_swish_behind(example: Example) -> Case:
    """A blocked convolution, and a hard-swish that leaves the blocked layout and comes back."""
    steps = [
        helper.make_node("ReorderOutput", ["y"], ["p"], domain=BLOCKED, channels=example.w[0]),
        helper.make_node("Add", ["p", "three"], ["a"]),
        helper.make_node("Clip", ["a", "zero", "six"], ["s"]),
        helper.make_node("Mul", ["p", "s"], ["m"]),
        helper.make_node("Div", ["m", "six"], ["d"]),
        helper.make_node("ReorderInput", ["d"], ["r"], domain=BLOCKED),
    ]
    numbers = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}
    feeds = example.feeds() | {name: np.asarray(value) for name, value in numbers.items()}
    return Case("hard_swish", (example.node, *steps), feeds, ("r",), constant_inputs=frozenset({"w", "b", *numbers}))


@pytest.mark.skipif(not block_size(), reason="no blocked layout")
def test_an_epilogue_and_threads(tmp_path: Path) -> None:
    block = block_size()
    example = Example("swished", True, (2, 2 * block, 40, 41), (5 * block, 2 * block, 3, 3), pads=(1, 1, 1, 1))
    kernels = KernelLibrary([hard_swish_behind(example)], tmp_path)
    for larger in (0, 7):
        feeds = {**kernels.cases["hard_swish"].feeds, **example.feeds(1, 3, larger)}
        (found,) = kernels.run("hard_swish", feeds)
        sums, scale = example.sums(feeds)
        expected = sums * np.clip(sums + 3, 0, 6) / 6
        assert (np.abs(found - expected) <= 8 * TOLERANCE * (scale + np.abs(expected))).all()
        (again,) = kernels.run("hard_swish", feeds, threads=2)
        np.testing.assert_array_equal(found, again)


def squeeze(size: int, channels: int, inner: int) -> Case:
    """A squeeze and excitation of a blocked tensor; its inner channels fill no block."""
    steps = [
        helper.make_node("ReorderOutput", ["x"], ["p"], domain=BLOCKED, channels=channels),
        helper.make_node("ReduceMean", ["p", "axes"], ["m"], keepdims=1),
        helper.make_node("ReorderInput", ["m"], ["q"], domain=BLOCKED),
        helper.make_node("Conv", ["q", "v", "a"], ["s"], domain=BLOCKED, kernel_shape=[1, 1], activation="Relu"),
        helper.make_node("ReorderOutput", ["s"], ["t"], domain=BLOCKED, channels=inner),
        helper.make_node("Conv", ["t", "w", "b"], ["e"], domain=BLOCKED, kernel_shape=[1, 1], activation="Sigmoid"),
        helper.make_node("ReorderOutput", ["e"], ["g"], domain=BLOCKED, channels=channels),
        helper.make_node("Mul", ["p", "g"], ["h"]),
        helper.make_node("ReorderInput", ["h"], ["y"], domain=BLOCKED),
    ]
    block = block_size()
    padded = -(-channels // block) * block
    shapes = {"x": (2, padded, size, size + 3), "v": (block, padded, 1, 1), "w": (padded, inner, 1, 1), "a": (block,)}
    random = np.random.default_rng(0)
    feeds = {
        name: random.standard_normal(shape).astype(np.float32) for name, shape in (shapes | {"b": (padded,)}).items()
    }
    constants = {"axes": np.array([2, 3])}
    return Case("squeeze", tuple(steps), feeds, ("y",), constants, frozenset("vwab"), opset=18)


@pytest.mark.skipif(not block_size(), reason="no blocked layout")
def test_a_squeeze_and_excitation(tmp_path: Path) -> None:
    case = squeeze(9, 3 * block_size() - 4, block_size() // 4)
    kernels = KernelLibrary([case], tmp_path)
    random = np.random.default_rng(1)
    for size in ((9, 12), (1, 1), (17, 30)):
        x = random.standard_normal((2, 3 * block_size(), *size)).astype(np.float32)
        feeds = case.feeds | {"x": x}
        expected = case.expected(feeds)["y"]
        for run in (kernels.run, kernels.run_with_constants):
            (found,) = run("squeeze", feeds)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        (again,) = kernels.run("squeeze", feeds, threads=2)
        np.testing.assert_array_equal(found, again)


def tiled_examples() -> list[Example]:
    """Blocked convolutions of windows that are summed with fewer multiplications, tiles cut off at borders."""
    block = block_size() or 16
    sizes = [
        ((14, 14), (2, 4), (3, 3), (1, 1, 1, 1)),
        ((9, 11), (1, 1), (3, 3), (1, 2, 1, 0)),
        ((30, 31), (3, 5), (3, 3), (0, 0, 0, 0)),
        ((20, 21), (1, 2), (5, 5), (2, 2, 2, 2)),
        ((20, 21), (2, 2), (1, 3), (0, 1, 0, 1)),
        ((64, 20), (2, 2), (5, 1), (0, 0, 0, 0)),
        ((33, 1), (2, 3), (3, 1), (1, 0, 1, 0)),
    ]
    return [
        Example(
            f"tiled{number}",
            True,
            (1 + number % 2, inputs * block, *image),
            (outputs * block, inputs * block, *kernel),
            pads=pads,  # type: ignore[arg-type]
            bias=number % 3 > 0,
            added=number % 2 > 0,
            activation="Relu" if number % 2 else "",
        )
        for number, (image, (inputs, outputs), kernel, pads) in enumerate(sizes)
    ]


@pytest.mark.skipif(not block_size(), reason="no blocked layout")
def test_infinities_reach_only_the_results_that_they_belong_to(tmp_path: Path) -> None:
    examples = [*tiled_examples(), *unit_examples()]
    cases = [Case(e.name, (e.node,), e.feeds(), ("y",), constant_inputs=frozenset("wb")) for e in examples]
    kernels = KernelLibrary(cases, tmp_path)
    for example in examples:
        for batch, larger in ((0, 0), (2, 3)):
            feeds = example.feeds(1, batch, larger)
            (found,) = kernels.run_with_constants(example.name, feeds)
            example.check(found, feeds)
            (again,) = kernels.run_with_constants(example.name, feeds, threads=2)
            np.testing.assert_array_equal(found, again)
        feeds["x"][0, 1, 2, 0] = np.inf
        feeds["x"][-1, 0, 4, -1] = np.nan
        feeds["x"][-1, 0, 5, 0] = 3e38
        (found,) = kernels.run_with_constants(example.name, feeds)
        with np.errstate(invalid="ignore"):
            expected = example.sums(feeds)[0]
        if example.activation:
            expected = ACTIVATIONS[example.activation](expected)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        small = np.isfinite(expected) & (np.abs(expected) < 1e30)
        assert np.isfinite(found[small]).all()
        assert not np.isfinite(found[np.isinf(expected)]).any()


def unit_examples() -> list[Example]:
    """Blocked convolutions that the matrix unit takes where there is one: all kinds of steps and odd sizes."""
    block = block_size() or 16
    sizes: list[tuple[tuple[int, int], tuple[int, int, int], tuple[int, int], tuple[int, ...], int, int]] = [
        ((33, 31), (4, 6, 1), (1, 1), (0, 0, 0, 0), 1, 1),
        ((40, 37), (4, 7, 1), (3, 3), (1, 1, 1, 1), 2, 1),
        ((40, 37), (4, 5, 1), (3, 3), (0, 2, 1, 0), 1, 2),
        ((60, 80), (4, 4, 2), (3, 2), (1, 0, 1, 2), 3, 1),
        ((400, 1), (5, 8, 1), (2, 1), (1, 0, 1, 0), 2, 2),
        ((50, 50), (6, 5, 1), (1, 1), (0, 0, 0, 0), 2, 1),
        ((14, 14), (40, 8, 1), (1, 1), (0, 0, 0, 0), 1, 1),
        ((110, 112), (8, 2, 1), (1, 1), (0, 0, 0, 0), 1, 1),
    ]
    return [
        Example(
            f"unit{number}",
            True,
            (1 + number % 2, groups * inputs * block, *image),
            (groups * outputs * block, inputs * block, *kernel),
            groups=groups,
            strides=(stride, stride),
            dilations=(dilation, dilation),
            pads=pads,  # type: ignore[arg-type]
            bias=number % 3 > 0,
            added=number % 2 > 0,
            activation="Relu" if number % 2 else "",
        )
        for number, (image, (inputs, outputs, groups), kernel, pads, stride, dilation) in enumerate(sizes)
    ]


@pytest.mark.skipif(not uses_matrix_unit() or not block_size(), reason="no matrix unit, or left alone in all tests")
def test_the_matrix_unit_is_used_and_can_be_left_alone(tmp_path: Path) -> None:
    """With the unit sums are made in another order, so they differ in their last bits."""
    example = unit_examples()[1]
    case = Case("one", (example.node,), example.feeds(), ("y",), constant_inputs=frozenset("wb"))
    kernels = KernelLibrary([case], tmp_path)
    program = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from tests.test_kernels_convolution import *\n"
        "e = unit_examples()[1]\n"
        "library = KernelLibrary.__new__(KernelLibrary)\n"
        "library.cases = {'one': Case('one', (e.node,), e.feeds(), ('y',), constant_inputs=frozenset('wb'))}\n"
        "library.paths = {'one': Path(sys.argv[1])}\n"
        "np.save(sys.argv[2], library.run_with_constants('one', e.feeds())[0])"
    )
    found = []
    for setting in ("on", "off"):
        file = tmp_path / f"{setting}.npy"
        subprocess.run(
            [sys.executable, "-c", program, str(kernels.paths["one"]), str(file)],
            check=True,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "GRAPHOPT_MATRIX_UNIT": setting},
        )
        found.append(np.load(file))
        example.check(found[-1], example.feeds())
    assert np.any(found[0] != found[1])
