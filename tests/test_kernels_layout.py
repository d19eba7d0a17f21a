"""Every layout lowering against the reference evaluator: sizes 0 and 1, bounds beyond the ends, all element sizes."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import NodeProto, helper

from graphopt.operators import table
from graphopt.operators.blocked import block_size
from graphopt.operators.lowering import Layout, Picking
from tests.kernel_checks import BLOCKED, Array, Case, KernelLibrary, assert_same, element_type, random_values, session

SIZES = ("int8", "float16", "float32", "int64")
"""A dtype for each size of an element."""
OTHERS = ("bool", "uint8", "int16", "uint16", "int32", "uint32", "uint64", "float64")
LARGEST = 2**63 - 1

_count = itertools.count()


def _ints(*values: int) -> Array:
    return np.array(values, np.int64)


def _case(
    op_type: str,
    shape: Sequence[int],
    dtype: str = "float32",
    *,
    attributes: dict[str, Any] | None = None,
    operands: Sequence[Array | None] = (),
    others: Sequence[Sequence[int]] = (),
    outputs: int = 1,
    inner: Sequence[int] = (),
    constant: Sequence[int] = (),
    domain: str = "",
    opset: int = 21,
) -> Case:
    """A case of one operator.

    ``operands`` follow the data (and ``others``, more data of those shapes); those whose slot is in ``inner`` are
    constants of the body.
    """
    data = [random_values(s, dtype, seed) for seed, s in enumerate((shape, *others))]
    values: list[Array | None] = [*data, *operands]
    names = ["" if value is None else f"x{slot}" for slot, value in enumerate(values)]
    node = helper.make_node(op_type, names, [f"y{o}" for o in range(outputs)], domain=domain, **(attributes or {}))
    feeds = {n: v for s, (n, v) in enumerate(zip(names, values, strict=True)) if v is not None and s not in inner}
    return Case(
        f"{op_type}_{next(_count)}",
        (node,),
        feeds,
        tuple(node.output),
        {names[slot]: values[slot] for slot in inner},  # type: ignore[misc]
        frozenset(names[slot] for slot in constant),
        opset,
    )


def _transposes() -> Iterator[Case]:
    yield _case("Transpose", (3, 4))
    yield _case("Transpose", (3,))
    yield _case("Transpose", ())
    for permutation in itertools.permutations(range(3)):
        yield _case("Transpose", (5, 1, 7), attributes={"perm": list(permutation)})
    for shape in ((2, 3, 4, 5), (1, 64, 33, 65), (2, 0, 3, 1), (130, 70, 2, 1)):
        yield _case("Transpose", shape, attributes={"perm": [0, 2, 3, 1]})
        yield _case("Transpose", shape, attributes={"perm": [3, 1, 0, 2]})
    for dtype in (*SIZES, *OTHERS):
        yield _case("Transpose", (70, 37), dtype, attributes={"perm": [1, 0]})
    yield _case("Transpose", (2, 3, 2, 1, 2, 3, 1, 2), attributes={"perm": [7, 0, 6, 1, 5, 2, 4, 3]})


def _reshapes() -> Iterator[Case]:
    for shape, target in (
        ((6, 4), (4, 6)),
        ((6, 4), (0, -1)),
        ((2, 3, 4), (0, 0, 2, -1)),
        ((2, 3, 4), (-1,)),
        ((1, 1), ()),
        ((2, 0, 4), (0, 0, 4)),
        ((5,), (1, 5, 1, 1, 1, 1, 1, 1)),
    ):
        yield _case("Reshape", shape, operands=[_ints(*target)])
        yield _case("Reshape", shape, operands=[_ints(*target)], inner=(1,))
    yield _case("Reshape", (0, 3), operands=[_ints(3, 0)], attributes={"allowzero": 1})
    for dtype in SIZES:
        yield _case("Reshape", (6, 4), dtype, operands=[_ints(-1, 3)])
    for axis in (-3, -1, 0, 1, 2, 4):
        yield _case("Flatten", (2, 3, 1, 5), attributes={"axis": axis})
    yield _case("Flatten", (2, 0, 5))
    yield _case("Flatten", (7,))
    for axes in ((0,), (-1,), (0, 2), (2, 0, -1)):
        yield _case("Squeeze", (1, 4, 1, 1), operands=[_ints(*axes)], inner=(1,))
    yield _case("Squeeze", (1, 4, 1), attributes={"axes": [0, -1]}, opset=11)
    yield _case("Squeeze", (1, 0, 1), operands=[_ints(0)], inner=(1,))
    for axes in ((0,), (-1,), (0, 2), (3, 1), (-5, 2)):
        yield _case("Unsqueeze", (4, 2, 3), operands=[_ints(*axes)], inner=(1,))
    yield _case("Unsqueeze", (), operands=[_ints(0, 1)], inner=(1,))
    yield _case("Unsqueeze", (4, 0), attributes={"axes": [1]}, opset=11)


def _slices() -> Iterator[Case]:
    bounds: tuple[tuple[tuple[int, ...], Sequence[Array | None]], ...] = (
        ((10,), [_ints(2), _ints(7)]),
        ((10,), [_ints(-4), _ints(LARGEST)]),
        ((10,), [_ints(-100), _ints(100), _ints(0), _ints(3)]),
        ((10,), [_ints(9), _ints(-11), _ints(0), _ints(-1)]),
        ((10,), [_ints(LARGEST), _ints(-(2**63)), _ints(0), _ints(-3)]),
        ((10,), [_ints(7), _ints(2)]),
        ((10,), [_ints(4), _ints(4), _ints(-1)]),
        ((10,), [_ints(12), _ints(20)]),
        ((4, 6), [_ints(1, 1), _ints(3, 5)]),
        ((4, 6), [_ints(1, 0), _ints(LARGEST, -1), _ints(-1, 0)]),
        ((4, 6), [_ints(5, 3), _ints(0, 0), _ints(1, 0), _ints(-2, -1)]),
        ((4, 6, 5), [_ints(1), _ints(2), _ints(1), None]),
        ((4, 6, 5), [_ints(0, 1), _ints(4, 5), None, _ints(2, 3)]),
        ((0, 6), [_ints(0), _ints(3)]),
        ((0, 6), [_ints(-1), _ints(-9), _ints(0), _ints(-1)]),
        ((1, 1, 1), [_ints(0, 0), _ints(1, 1), _ints(0, 2)]),
        ((3, 40, 70), [_ints(3, 1), _ints(37, 69), _ints(1, 2), _ints(2, 1)]),
    )
    for shape, operands in bounds:
        yield _case("Slice", shape, operands=operands)
        labelled = [slot for slot, value in enumerate(operands, 1) if slot > 2 and value is not None]
        if labelled:
            yield _case("Slice", shape, operands=operands, inner=labelled)
    yield _case("Slice", (6, 4), operands=[_ints(1), _ints(5)], inner=(1, 2))
    yield _case("Slice", (6, 4), operands=[_ints(5), _ints(-(2**63)), _ints(0), _ints(-2)], inner=(1, 2, 3, 4))
    for dtype in SIZES:
        yield _case("Slice", (9, 8), dtype, operands=[_ints(1, 6), _ints(8, 0), _ints(0, 1), _ints(1, -2)])
    narrow = [value.astype(np.int32) for value in (_ints(1), _ints(-1), _ints(1), _ints(2))]
    yield _case("Slice", (5, 9), operands=narrow)
    yield _case("Slice", (5, 9), attributes={"starts": [1, -4], "ends": [4, 1000], "axes": [0, 1]}, opset=9)


def _joins() -> Iterator[Case]:
    for axis in (0, 1, -1):
        others = [[2, 3, 4], [2, 3, 4]]
        for other in others:
            other[axis] = 5
        yield _case("Concat", (2, 3, 4), others=others, attributes={"axis": axis})
    yield _case("Concat", (3,), attributes={"axis": 0})
    yield _case("Concat", (3, 0), others=[(3, 2), (3, 0), (3, 1)], attributes={"axis": 1})
    yield _case("Concat", (0, 3), others=[(0, 2)], attributes={"axis": 1})
    yield _case("Concat", (1, 1), others=[(1, 1)] * 25, attributes={"axis": 1})
    for dtype in (*SIZES, *OTHERS):
        yield _case("Concat", (2, 5), dtype, others=[(2, 3)], attributes={"axis": -1})
    for sizes in ((3, 3), (1, 5), (0, 6), (6, 0)):
        yield _case("Split", (6, 4), operands=[_ints(*sizes)], outputs=2)
        yield _case("Split", (4, 6), operands=[_ints(*sizes)], outputs=2, attributes={"axis": -1})
    yield _case("Split", (2, 7), attributes={"axis": 1, "num_outputs": 3}, outputs=3)
    yield _case("Split", (2, 6), attributes={"axis": 1, "num_outputs": 3}, outputs=3)
    yield _case("Split", (2, 5), attributes={"axis": 1, "num_outputs": 4}, outputs=4)
    yield _case("Split", (6, 2), attributes={"split": [1, 2, 3]}, outputs=3, opset=11)
    yield _case("Split", (6, 2), outputs=2, opset=11)
    yield _case("Split", (8, 0), attributes={"num_outputs": 2}, outputs=2)
    for dtype in SIZES:
        yield _case("Split", (6, 4), dtype, operands=[_ints(2, 1, 3)], outputs=3)


def _repeats() -> Iterator[Case]:
    for shape, target in (
        ((3, 1), (3, 4)),
        ((3, 1), (2, 1, 4)),
        ((2, 3, 4), (3, 1)),
        ((1,), (5, 0)),
        ((), (2, 3)),
        ((5,), ()),
        ((1, 4, 1, 3), (2, 1, 6, 1)),
    ):
        yield _case("Expand", shape, operands=[_ints(*target)])
        yield _case("Expand", shape, operands=[_ints(*target)], inner=(1,))
    for shape, repeats in (((3,), (4,)), ((2, 3), (2, 2)), ((2, 3), (1, 3)), ((2, 3), (0, 2)), ((1, 5, 1), (3, 1, 4))):
        yield _case("Tile", shape, operands=[_ints(*repeats)])
    for dtype in SIZES:
        yield _case("Expand", (3, 1), dtype, operands=[_ints(2, 3, 70)])
        yield _case("Tile", (3, 5), dtype, operands=[_ints(2, 3)])


def _pads() -> Iterator[Case]:
    for shape, pads in (
        ((5,), (2, 3)),
        ((5,), (0, 0)),
        ((3, 4), (1, 0, 0, 2)),
        ((3, 4), (1, 2, 3, 4)),
        ((2, 3, 4, 5), (0, 0, 1, 1, 0, 0, 1, 1)),
        ((0, 2), (1, 1, 1, 0)),
        ((1, 1), (2, 0, 0, 2)),
        ((2, 1, 2, 1, 2, 2), (1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1)),
        ((1, 2, 1, 2, 1, 1, 2), (0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 2)),
        ((2, 1, 1, 1, 2, 1, 1, 2), (0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1)),
    ):
        yield _case("Pad", shape, operands=[_ints(*pads)])
        yield _case("Pad", shape, operands=[_ints(*pads), np.array(2.5, np.float32)])
    yield _case("Pad", (5, 6), operands=[_ints(-1, 2, 0, -3)])
    yield _case("Pad", (5, 6), operands=[_ints(-2, -1, -2, -4), np.array(1, np.float32)])
    yield _case("Pad", (5, 6, 2), operands=[_ints(1, 2), None, _ints(-2)], inner=(3,))
    yield _case("Pad", (5, 6, 2), operands=[_ints(1, 2, 3, 0), np.array(7, np.float32), _ints(2, 0)])
    for dtype in SIZES:
        yield _case("Pad", (3, 4), dtype, operands=[_ints(1, 2, 3, 4), np.array(1, dtype)])
        yield _case("Pad", (3, 4), dtype, operands=[_ints(0, 1, 0, 0)])


def _gathers() -> Iterator[Case]:
    for shape, axis, indices in (
        ((5,), 0, _ints(4, 0, -1, 2)),
        ((5,), 0, np.array(3, np.int64)),
        ((5,), 0, np.array([], np.int64)),
        ((5, 3), 0, _ints(0, 1, 2, 3)),
        ((5, 3), 1, _ints(2, 0)),
        ((5, 3), -1, np.array(-1, np.int64)),
        ((2, 5, 3), 1, np.array([[0, 2, 4], [1, 1, 1]], np.int64)),
        ((2, 5, 3), 1, np.array([[[-5]]], np.int64)),
        ((2, 5, 3), 2, np.array([0, 0, 1, 2, 2, 1], np.int32)),
        ((1, 1), 0, _ints(0, 0, 0)),
        ((0, 4), 1, _ints(1, 2)),
        ((40, 6), 0, np.arange(39, -1, -3)),
    ):
        yield _case("Gather", shape, operands=[indices], attributes={"axis": axis}, constant=(1,))
    triangle = np.array([i * 9 + j for i in range(9) for j in range(i)], np.int64)
    yield _case("Gather", (3, 81), operands=[triangle], attributes={"axis": 1}, constant=(1,))
    for dtype in SIZES:
        yield _case("Gather", (5, 6), dtype, operands=[_ints(3, 1, 1, -1)], attributes={"axis": 1}, constant=(1,))


def _depths() -> Iterator[Case]:
    for dtype in SIZES:
        for mode in ("DCR", "CRD"):
            yield _case("DepthToSpace", (2, 12, 3, 5), dtype, attributes={"blocksize": 2, "mode": mode})
    yield _case("DepthToSpace", (1, 9, 1, 4), attributes={"blocksize": 3})
    yield _case("DepthToSpace", (0, 4, 2, 2), attributes={"blocksize": 2})
    for dtype in SIZES:
        yield _case("SpaceToDepth", (2, 3, 4, 6), dtype, attributes={"blocksize": 2})
    yield _case("SpaceToDepth", (1, 2, 9, 3), attributes={"blocksize": 3})


def _reorders() -> Iterator[Case]:
    block = block_size()
    for channels in (block, 2 * block, 4, block + 4, 1, 3, 2 * block - 1):
        for n, h, w in ((1, 5, 7), (2, 1, 1), (1, 3, 33)):
            for last in (0, 1):
                shape = (n, h, w, channels) if last else (n, channels, h, w)
                attributes: dict[str, Any] = {"channels_last": last} if last else {}
                yield _case("ReorderInput", shape, domain=BLOCKED, attributes=attributes)
                padded = -(-channels // block) * block
                more = {**attributes, "channels": channels}
                yield _case("ReorderOutput", (n, padded, h, w), domain=BLOCKED, attributes=more)
    yield _case("ReorderInput", (0, 8, 2, 2), domain=BLOCKED)
    yield _case("ReorderOutput", (1, block, 0, 3), domain=BLOCKED, attributes={"channels": 5})


FAMILIES: tuple[Callable[[], Iterator[Case]], ...] = (
    _transposes,
    _reshapes,
    _slices,
    _joins,
    _repeats,
    _pads,
    _gathers,
    _depths,
    *([_reorders] if block_size() else []),
)
CASES = {case.name: case for family in FAMILIES for case in family()}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary(list(CASES.values()), tmp_path_factory.mktemp("layout"))


@pytest.mark.parametrize("name", CASES)
def test_layout(library: KernelLibrary, name: str) -> None:
    library.check(name)


@pytest.mark.skipif(not block_size(), reason="no blocked layout")
def test_every_lowering_is_checked() -> None:
    lowered = {name for name, operator in table().items() if isinstance(operator.lowering, Layout | Picking)}
    assert lowered == {f"{BLOCKED}.{n.op_type}" if n.domain else n.op_type for c in CASES.values() for n in c.nodes}


def _reorder(x: Array, op_type: str, **attributes: Any) -> Array:
    """onnxruntime's own reorder."""
    node: NodeProto = helper.make_node(op_type, ["x"], ["y"], domain=BLOCKED, **attributes)
    output = helper.make_tensor_value_info("y", element_type("float32"), None)
    own = session([node], [("x", "float32")], [output], {"": 17, BLOCKED: 1})
    return np.asarray(own.run(None, {"x": x})[0])


@pytest.mark.skipif(not block_size(), reason="no blocked layout")
@pytest.mark.parametrize("channels", [4, 8, 12, 16, 20, 36, 64])
@pytest.mark.parametrize("last", [0, 1])
def test_expected_reorders_are_those_of_onnxruntime(channels: int, last: int) -> None:
    block = block_size()
    padded = -(-channels // block) * block
    shape = (2, 3, 5, channels) if last else (2, channels, 3, 5)
    own: dict[str, Any] = {"channels_last": last}
    for op_type, x, attributes in (
        ("ReorderInput", random_values(shape, "float32", 0), own),
        ("ReorderOutput", random_values((2, padded, 3, 5), "float32", 1), {**own, "channels": channels}),
    ):
        case = Case("own", (helper.make_node(op_type, ["x"], ["y"], domain=BLOCKED, **attributes),), {"x": x}, ("y",))
        assert_same(_reorder(x, op_type, **attributes), case.expected({"x": x})["y"])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Reshape", {"x1": _ints(5, 5)}),
        ("Reshape", {"x1": _ints(-1, -1)}),
        ("Reshape", {"x1": _ints(2**62, 4)}),
        ("Reshape", {"x1": _ints(1, 1, 1, 1, 1, 1, 1, 1, 24)}),
        ("Concat", {"x1": np.zeros((7, 5, 4), np.float32)}),
        ("Concat", {"x1": np.zeros((2, 5), np.float32)}),
        ("Split", {"x1": _ints(3, 4)}),
        ("Split", {"x1": _ints(-1, 7)}),
        ("Split", {"x1": _ints(6)}),
        ("Expand", {"x1": _ints(2, 4)}),
        ("Expand", {"x1": _ints(-1, 4)}),
        ("Slice", {"x2": _ints(1, 2)}),
        ("Slice", {"x2": np.array([], np.int64)}),
        ("Gather", {"x1": _ints(5)}),
        ("Gather", {"x1": _ints(-6)}),
        ("Gather", {"x1": _ints(0, LARGEST, -LARGEST)}),
        ("Pad", {"x1": _ints(1)}),
        ("Pad", {"x1": _ints(-4, -4)}),
        ("Tile", {"x1": _ints(1, 2)}),
        ("Tile", {"x1": _ints(-1)}),
        ("Transpose", {"x0": np.zeros((3, 4, 5), np.float32)}),
        ("DepthToSpace", {"x0": np.zeros((1, 5, 2, 2), np.int8)}),
    ],
)
def test_operands_that_contradict_each_other_are_an_error(
    library: KernelLibrary, name: str, change: dict[str, Array]
) -> None:
    case = next(c for n, c in CASES.items() if n.startswith(name) and set(change) <= set(c.feeds))
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        library.run(case.name, {**case.feeds, **change})
    library.check(case.name)
