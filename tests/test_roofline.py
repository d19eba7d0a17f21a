"""The roofline: numbers worked out by hand, unknowns that stay unknown, and laws that hold for any graph."""

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt import machine, models, roofline
from graphopt.graph import Capture, Node, OperatorGraph, Shape, Tensor
from graphopt.machine import Machine, Quantity
from graphopt.observation import observe

MB = 1 << 20


def built(**changes: Any) -> Machine:
    """A machine with round numbers: 1 Gflop/s peak, 2 kB at 8 GB/s, then 1 GB/s; 1 us per node."""
    number = {"value": 1e9, "unit": "flop/s", "kind": "spec", "scope": "core", "source": "s"}
    document: dict[str, Any] = {
        "schema_version": 1,
        "name": "round",
        "description": "round numbers",
        "scope": "core",
        "sources": {"s": "made up for tests"},
        "peak": {"float32": number, "int8": number | {"value": 4e9}},
        "memory": [
            {
                "name": "cache",
                "capacity": number | {"value": 2000, "unit": "byte"},
                "bandwidth": number | {"value": 8e9, "unit": "byte/s"},
            },
            {"name": "DRAM", "bandwidth": number | {"unit": "byte/s"}},
        ],
        "overhead": {"per_node": number | {"value": 1e-6, "unit": "s"}},
    }
    for table in ("rates", "kernel_rates", "piece_rates", "kernel_piece_rates"):
        if table in changes:
            document[table] = {
                key: number | {"value": value, "unit": unit} for key, (value, unit) in changes[table].items()
            }
    return machine.parse(document, "round.toml")


def at_once(*seconds: float) -> float:
    """Arithmetic and traffic that overlap as far as they do: the cube root of the sum of their cubes."""
    return sum(one**3 for one in seconds) ** (1 / 3)


def capture(
    nodes: Sequence[tuple[str, Sequence[str], str]],
    shapes: Mapping[str, Shape],
    constants: Sequence[str] = (),
    outputs: Sequence[str] = (),
    dtype: str = "float32",
) -> Capture:
    """A capture from (operator, operands, result) triples; tensors without a shape are unknown."""
    rows, names = [], []
    for index, (operator, inputs, output) in enumerate(nodes):
        domain, _, op_type = operator.rpartition(".")
        rows.append(Node(f"n{index}", domain, op_type, 21, tuple(inputs), (output,), {}))
        names += [*inputs, output]
    tensors = {}
    for name in dict.fromkeys(n for n in names if n):
        shape = shapes.get(name)
        fixed = name in constants
        tensors[name] = Tensor(
            name, dtype, None if shape is None else len(shape), fixed, None, shape if fixed else None
        )
    made = {row.outputs[0] for row in rows}
    inputs = tuple(n for n in tensors if n not in made and n not in constants)
    ends = tuple(outputs) or (rows[-1].outputs[0],)
    observed = {name: shape for name, shape in shapes.items() if name not in constants}
    return Capture(OperatorGraph("g", tuple(rows), tensors, inputs, ends), observed)


def chain(length: int, *shape: int) -> Capture:
    """Relu after Relu."""
    nodes = [("Relu", [f"t{i}"], f"t{i + 1}") for i in range(length)]
    return capture(nodes, {f"t{i}": shape for i in range(length + 1)})


def test_an_operator_takes_arithmetic_and_traffic_at_once_plus_overhead() -> None:
    one = chain(1, 1000)  # 1000 flops: 1 us; 8000 bytes beyond the cache: 8 us
    assert roofline.operator_seconds(one, 0, built()) == pytest.approx(at_once(1e-6, 8e-6) + 1e-6)
    slow = built(rates={"add": (1e8, "flop/s")})  # 1000 flops: 10 us
    assert roofline.operator_seconds(one, 0, slow) == pytest.approx(at_once(10e-6, 8e-6) + 1e-6)


@given(st.floats(0, 1), st.floats(0, 1))
def test_what_happens_at_once_takes_the_longer_time_or_a_quarter_more(arithmetic: float, traffic: float) -> None:
    longer = max(arithmetic, traffic)
    assert longer <= roofline.together(arithmetic, traffic) <= 1.26 * longer


def test_a_small_working_set_lives_in_the_cache() -> None:
    one = chain(1, 100)  # 800 bytes at 8 GB/s: 0.1 us; 100 flops: 0.1 us
    assert roofline.operator_seconds(one, 0, built()) == pytest.approx(at_once(0.1e-6, 0.1e-6) + 1e-6)


def test_between_two_levels_a_working_set_is_served_by_both() -> None:
    few, more, many = (built().seconds_to_move(1.0, 0.0, used) for used in (1200, 2000, 2800))
    assert (few, many) == (pytest.approx(1 / 8e9), pytest.approx(1 / 1e9))
    assert more == pytest.approx((few + many) / 2)  # halfway between 0.6 and 1.4 times 2000 bytes


def test_weights_come_from_where_all_weights_of_the_model_fit() -> None:
    # One addition of 80 constants fits the cache; with a second model's worth of constants it does not.
    few = capture([("Add", ["x", "c"], "y")], {"x": (80,), "y": (80,), "c": (80,)}, ["c"])
    many = capture(
        [("Add", ["x", "c"], "y"), ("Add", ["y", "d"], "z")],
        {"x": (80,), "y": (80,), "z": (1000, 80), "c": (80,), "d": (1000, 80)},
        ["c", "d"],
    )
    fast, slow = (roofline.operator_seconds(one, 0, built()) for one in (few, many))
    assert fast == pytest.approx(at_once(640 / 8e9 + 320 / 8e9, 80e-9) + 1e-6)
    # Weights that fill the cache between two executions push out the operand and the result of the one before, too.
    assert slow == pytest.approx(at_once(640 / 1e9 + 320 / 1e9, 80e-9) + 1e-6)


def test_contractions_wait_for_half_of_their_weights() -> None:
    """64 bytes of weights, of which 32 move while it computes; other operators wait for none of theirs."""
    shapes = dict.fromkeys("xwy", (4, 4))
    product, added = (capture([(operator, ["x", "w"], "y")], shapes, ["w"]) for operator in ("MatMul", "Add"))
    seconds = roofline.operator_seconds(product, 0, built())
    assert seconds == pytest.approx(at_once(128 / 1e9, (128 + 32) / 8e9) + 32 / 8e9 + 1e-6)
    assert roofline.operator_seconds(added, 0, built()) == pytest.approx(at_once(16 / 1e9, 192 / 8e9) + 1e-6)
    along, waited = roofline.node_moves(product, 0)
    assert (along, waited) == ([(96.0, 64.0, 192.0)], [(32.0, 0.0, 192.0)])


def test_rates_in_elements_count_results() -> None:
    one = capture([("Transpose", ["x"], "y")], {"x": (10, 10), "y": (10, 10)})
    seconds = roofline.operator_seconds(one, 0, built(rates={"transpose": (1e7, "element/s")}))
    assert seconds == pytest.approx(at_once(10e-6, 0.1e-6) + 1e-6)


def test_pieces_have_a_price_of_their_own() -> None:
    one = capture([("Softmax", ["x"], "y")], {"x": (20, 5), "y": (20, 5)})  # 500 flops: 0.5 us; 20 rows: 2 us
    seconds = roofline.operator_seconds(one, 0, built(piece_rates={"softmax": (1e7, "piece/s")}))
    assert seconds == pytest.approx(at_once(2.5e-6, 0.1e-6) + 1e-6)


def test_the_peak_of_the_dtype_serves_operators_without_a_rate() -> None:
    names = {"x": (64, 64), "w": (64, 64), "y": (64, 64)}
    flops = 2 * 64**3
    for dtype, peak, size in (("float32", 1e9, 4), ("int8", 4e9, 1)):
        one = capture([("MatMul", ["x", "w"], "y")], names, dtype=dtype)
        traffic = 3 * 64 * 64 * size / 1e9
        assert roofline.operator_seconds(one, 0, built()) == pytest.approx(at_once(flops / peak, traffic) + 1e-6)


def test_what_only_renames_storage_costs_overhead_only() -> None:
    shapes = {"x": (1000, 1000), "s": (1,), "y": (1000000,), "z": (1,)}
    one = capture([("Reshape", ["x", "s"], "y"), ("Shape", ["y"], "z")], shapes, ["s"])
    times = roofline.operator_times(one, built())
    assert times[0] == pytest.approx(1e-6)
    assert times[1] == pytest.approx(1e-6, rel=1e-2)


def test_fused_operators_move_only_what_crosses_the_border() -> None:
    three = chain(3, 1000)
    assert roofline.external_bytes(three, [0, 1, 2]) == 8000
    # 3000 flops: 3 us; 8000 bytes: 8 us; one overhead
    assert roofline.fused_seconds(three, [0, 1, 2], built()) == pytest.approx(at_once(3e-6, 8e-6) + 1e-6)
    apart = sum(t or 0 for t in roofline.operator_times(three, built()))
    assert apart == pytest.approx(3 * (at_once(1e-6, 8e-6) + 1e-6))


def test_fused_arithmetic_adds_up_by_class() -> None:
    three = chain(3, 1000)
    slow = built(rates={"add": (1e8, "flop/s")}, kernel_rates={"add": (2e8, "flop/s")})
    assert roofline.fused_seconds(three, [0, 1, 2], slow) == pytest.approx(at_once(3 * 5e-6, 8e-6) + 1e-6)


def test_an_intermediate_that_something_else_reads_is_written() -> None:
    fork = capture(
        [("Relu", ["x"], "a"), ("Relu", ["a"], "b"), ("Relu", ["a"], "c")],
        dict.fromkeys("xabc", (1000,)),
        outputs=["b", "c"],
    )
    assert roofline.external_bytes(fork, [0, 1]) == 12000
    assert roofline.external_bytes(fork, [0, 1, 2]) == 12000


def test_an_operand_that_several_operators_read_is_read_once() -> None:
    diamond = capture(
        [("Relu", ["x"], "a"), ("Abs", ["x"], "b"), ("Add", ["a", "b"], "c")], dict.fromkeys("xabc", (1000,))
    )
    assert roofline.external_bytes(diamond, [0, 1, 2]) == 8000


def test_a_gather_reads_the_rows_it_picks_also_when_fused() -> None:
    rows = capture(
        [("Gather", ["table", "i"], "a"), ("Relu", ["a"], "b")],
        {"table": (100000, 8), "i": (4,), "a": (4, 8), "b": (4, 8)},
        ["table"],
    )
    assert roofline.external_bytes(rows, [0, 1]) == 4 * 8 * 4 + 16 + 128


def test_layout_inside_a_kernel_is_free_unless_the_machine_says() -> None:
    pair = capture([("Transpose", ["x"], "y"), ("Relu", ["y"], "z")], dict.fromkeys("xyz", (10, 10)))
    rates = {"transpose": (1e7, "element/s")}
    free = roofline.fused_seconds(pair, [0, 1], built(rates=rates))
    paid = roofline.fused_seconds(pair, [0, 1], built(rates=rates, kernel_rates=rates))
    assert free == pytest.approx(at_once(0.1e-6, 0.1e-6) + 1e-6)
    assert paid == pytest.approx(10e-6 + at_once(0.1e-6, 0.1e-6) + 1e-6)


def test_results_in_different_orders_are_computed_one_by_one() -> None:
    nodes = [("Exp", ["x"], "t"), ("Relu", ["t"], "a"), ("Transpose", ["a"], "b")]
    shapes = {"x": (10, 20), "t": (10, 20), "a": (10, 20), "b": (20, 10)}
    rates = {"exp": (1e8, "flop/s"), "add": (1e9, "flop/s")}
    slow = built(kernel_rates=rates)
    one = roofline.kernel_seconds(capture(nodes, shapes, outputs=["b"]), [0, 1, 2], slow)
    both = roofline.kernel_seconds(capture(nodes, shapes, outputs=["a", "b"]), [0, 1, 2], slow)
    assert one is not None
    assert both is not None
    assert one.arithmetic == pytest.approx(2e-6 + 0.2e-6)
    assert both.arithmetic == pytest.approx(2 * one.arithmetic)


def test_a_kernel_that_only_moves_copies_along_with_its_traffic() -> None:
    one = capture([("Transpose", ["x"], "y")], dict.fromkeys("xy", (10, 10)))
    rates = {"transpose": (1e7, "element/s"), "transpose_moved": (1e8, "element/s")}
    assert roofline.fused_seconds(one, [0], built(kernel_rates=rates)) == pytest.approx(at_once(1e-6, 0.1e-6) + 1e-6)


def test_layout_operators_on_one_way_are_one_copy() -> None:
    """A Concat of 50 elements behind a transpose of half of them: each element is copied once, at the slower rate."""
    nodes = [("Transpose", ["x"], "a"), ("Concat", ["a", "z"], "b"), ("Relu", ["b"], "y")]
    both = capture(nodes, {"x": (5, 5), "z": (5, 5), "a": (5, 5), "b": (10, 5), "y": (10, 5)})
    rates = {"transpose": (1e7, "element/s"), "copy": (2e7, "element/s")}
    seconds = roofline.fused_seconds(both, [0, 1, 2], built(kernel_rates=rates))
    assert seconds == pytest.approx(25 / 1e7 + 25 / 2e7 + at_once(50e-9, 50e-9) + 1e-6)


def test_what_a_product_leaves_for_a_later_step_is_written_and_read() -> None:
    """Of four tensors that stay inside, a softmax and a product read one each from memory; both products read w."""
    nodes = [
        ("MatMul", ["x", "w"], "a"),
        ("Relu", ["a"], "b"),
        ("Softmax", ["b"], "c"),
        ("Relu", ["c"], "d"),
        ("MatMul", ["d", "w"], "y"),
    ]
    both = capture(nodes, dict.fromkeys("xwabcdy", (4, 4)))
    flops = 2 * 128 + 2 * 16 + 5 * 16
    seconds = roofline.fused_seconds(both, range(5), built())
    assert seconds == pytest.approx(at_once(flops / 1e9, (4 * 64 + 2 * 2 * 64) / 8e9) + 1e-6)


def test_what_is_joined_to_a_turned_product_several_times_is_read_once() -> None:
    nodes = [
        ("MatMul", ["x", "w"], "y"),
        ("Transpose", ["y"], "t"),
        ("Concat", ["t", "z", "z", "z"], "c"),
    ]
    shapes: dict[str, Shape] = {"x": (8, 8), "w": (8, 8), "z": (8, 100), "c": (8, 308), "y": (8, 8), "t": (8, 8)}
    joined = capture(nodes, shapes, ["w"], ["c"])
    for unit in (False, True):
        along, waited = roofline.kernel_moves(joined, [0, 1, 2], unit=unit)
        assert min(number for move in (*along, *waited) for number in move) >= 0
        assert sum(move[0] for move in waited) == 4 * 8 * 100


def test_steps_after_the_first_have_a_price() -> None:
    shapes = dict.fromkeys("xaby", (10, 10))
    three = capture([("Softmax", ["x"], "a"), ("Relu", ["a"], "b"), ("Softmax", ["b"], "y")], shapes)
    free = roofline.fused_seconds(three, [0, 1, 2], built())
    paid = roofline.fused_seconds(three, [0, 1, 2], replace(built(), per_step=Quantity(3e-6, "s", "spec", "core", "s")))
    assert free is not None
    assert paid == pytest.approx(free + 3e-6)


BLOCKED = "com.microsoft.nchwc"


def test_reorders_that_cancel_are_free_and_others_are_not() -> None:
    nodes = [(f"{BLOCKED}.ReorderOutput", ["x"], "a"), ("Relu", ["a"], "b"), (f"{BLOCKED}.ReorderInput", ["b"], "c")]
    rates = {f"{BLOCKED}.ReorderOutput": (1e7, "element/s"), f"{BLOCKED}.ReorderInput": (1e7, "element/s")}
    three = capture(nodes, dict.fromkeys("xabc", (1, 16, 2, 2)))
    paid = built(kernel_rates=rates)
    for members, elements in (([0, 1, 2], 0), ([0, 1], 64), ([1, 2], 64)):
        free = roofline.fused_seconds(three, members, built())
        seconds = roofline.fused_seconds(three, members, paid)
        arithmetic = 64 / 1e9
        assert free == pytest.approx(at_once(512 / 8e9, arithmetic) + 1e-6)
        assert seconds == pytest.approx(elements / 1e7 + at_once(512 / 8e9, arithmetic) + 1e-6)


def test_sums_over_all_positions_take_the_blocked_layout_as_it_lies() -> None:
    nodes = [(f"{BLOCKED}.ReorderOutput", ["x"], "a"), ("GlobalAveragePool", ["a"], "y")]
    pooled = capture(nodes, {"x": (1, 16, 3, 3), "a": (1, 16, 3, 3), "y": (1, 16, 1, 1)})
    rates = {f"{BLOCKED}.ReorderOutput": (1e3, "element/s"), "reduce_columns": (1e9, "flop/s")}
    seconds = roofline.fused_seconds(pooled, [0, 1], built(kernel_rates=rates))
    assert seconds == pytest.approx(at_once(144 / 1e9, (144 + 16) * 4 / 8e9) + 1e-6)


def test_what_comes_behind_sums_down_columns_reads_and_computes_again() -> None:
    """The gate of a squeeze and excitation: the tensor, and what is computed from it, is needed twice."""
    nodes = [("Relu", ["x"], "a"), ("ReduceMean", ["a"], "s"), ("Exp", ["s"], "g"), ("Mul", ["a", "g"], "y")]
    shapes = {"x": (3, 16), "a": (3, 16), "s": (1, 16), "g": (1, 16), "y": (3, 16)}
    rates = {"reduce_columns": (1e9, "flop/s"), "broadcast": (1e8, "element/s")}
    own = 48 * 2 + 48 + 16 + 48  # Relu twice, sums, Exp, Mul
    seconds = roofline.fused_seconds(capture(nodes, shapes), range(4), built(kernel_rates=rates))
    assert seconds == pytest.approx(at_once(own / 1e9, 3 * 48 * 4 / 8e9) + 48 / 1e8 + 1e-6)
    along_rows = {**shapes, "s": (3, 1), "g": (3, 1)}
    seconds = roofline.fused_seconds(capture(nodes, along_rows), range(4), built(kernel_rates=rates))
    assert seconds == pytest.approx(at_once((48 * 3 + 3) / 1e9, 2 * 48 * 4 / 8e9) + 1e-6)


@pytest.mark.parametrize(("second", "elements"), [((2, 0, 1), 0), ((1, 2, 0), 24)])
def test_transposes_compose(second: tuple[int, ...], elements: int) -> None:
    shapes = dict.fromkeys("xabc", (2, 3, 4))
    plain = capture([("Transpose", ["x"], "a"), ("Relu", ["a"], "b"), ("Transpose", ["b"], "c")], shapes)
    perms = {0: (1, 2, 0), 2: second}
    nodes = tuple(
        replace(node, attributes={"perm": perms[i]} if i in perms else {}) for i, node in enumerate(plain.graph.nodes)
    )
    both = replace(plain, graph=replace(plain.graph, nodes=nodes))
    seconds = roofline.fused_seconds(both, [0, 1, 2], built(kernel_rates={"transpose": (1e6, "element/s")}))
    assert seconds == pytest.approx(elements / 1e6 + at_once(24e-9, 2 * 24 * 4 / 8e9) + 1e-6)


def test_the_unknown_stays_unknown_and_is_counted() -> None:
    shapes = dict.fromkeys("xabcd", (10,))
    odd = capture([("Relu", ["x"], "a"), ("NoSuchOperator", ["a"], "b"), ("Relu", ["b"], "c")], shapes)
    times = roofline.operator_times(odd, built())
    assert times[1] is None
    assert roofline.capture_seconds(odd, built()).unknown == 1
    assert roofline.fused_seconds(odd, [0, 1], built()) is None
    del shapes["b"]
    shapeless = capture([("Relu", ["x"], "a"), ("Relu", ["a"], "b"), ("Relu", ["b"], "c")], shapes)
    assert roofline.operator_times(shapeless, built()).count(None) == 2
    assert roofline.fused_seconds(shapeless, [1, 2], built()) is None


@pytest.mark.parametrize("operator", ["If", "Loop", "Scan"])
def test_what_bodies_do_is_unknown(operator: str) -> None:
    assert roofline.operator_times(capture([(operator, ["x"], "y")], {"x": (1,), "y": (1,)}), built()) == [None]


def test_captures_and_machines_are_told_apart() -> None:
    one, two = chain(1, 10), chain(1, 100000)
    slow = built(rates={"add": (1e3, "flop/s")})
    assert roofline.operator_seconds(one, 0, built()) != roofline.operator_seconds(two, 0, built())
    assert roofline.operator_seconds(one, 0, built()) != roofline.operator_seconds(one, 0, slow)
    del one
    gc.collect()
    assert len(roofline.operator_times(chain(3, 10), built())) == 3


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_laws_of_fusion_on_random_graphs(data: st.DataObject) -> None:
    """On one memory level with equal rates: fusing never costs, and never beats the traffic that stays."""
    count = data.draw(st.integers(2, 8))
    size = data.draw(st.integers(0, 5000))
    names, nodes = ["x", "y"], []
    for i in range(count):
        operator = data.draw(st.sampled_from(["Relu", "Exp", "Add", "Mul", "Transpose"]))
        slots = 2 if operator in ("Add", "Mul") else 1
        nodes.append((operator, [data.draw(st.sampled_from(names)) for _ in range(slots)], f"t{i}"))
        names.append(f"t{i}")
    used = {name for _, inputs, _ in nodes for name in inputs}
    ends = [name for name in names[2:] if name not in used]
    graph = capture(nodes, dict.fromkeys(names, (size, 1)), outputs=ends)
    flat = machine.parse(
        {
            **_flat(),
            "rates": {
                key: _flat()["peak"]["float32"] | {"value": data.draw(st.floats(1e6, 1e12))} for key in ("exp", "add")
            },
        },
        "flat.toml",
    )
    members = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    times = roofline.operator_times(graph, flat)
    apart = sum(times[i] or 0.0 for i in members)
    fused = roofline.fused_seconds(graph, members, flat)
    moved = roofline.external_bytes(graph, members)
    assert fused is not None
    assert moved is not None
    assert fused <= apart * (1 + 1e-9)
    assert fused >= moved / flat.memory[-1].bandwidth.value
    if len(set(nodes[members[0]][1])) == len(nodes[members[0]][1]):  # a kernel reads x once in Mul(x, x)
        assert roofline.fused_seconds(graph, members[:1], flat) == pytest.approx(times[members[0]])


def _flat() -> dict[str, Any]:
    number = {"value": 1e9, "unit": "flop/s", "kind": "spec", "scope": "core", "source": "s"}
    return {
        "schema_version": 1,
        "name": "flat",
        "description": "one level",
        "scope": "core",
        "sources": {"s": "made up for tests"},
        "peak": {"float32": number},
        "memory": [{"name": "DRAM", "bandwidth": number | {"unit": "byte/s"}}],
        "overhead": {"per_node": number | {"value": 1e-6, "unit": "s"}},
    }


def test_sample_graphs_have_known_times(sample_graphs: Path) -> None:
    model = models.load(sample_graphs / "mobilenet_v3_large.onnx")
    seconds = []
    for batch in (1, 8):
        seen = observe(model, {"image": (batch, 3, 224, 224)}, name="mobilenet")
        total = roofline.capture_seconds(Capture(seen.graph, seen.shapes), machine.load())
        assert total.unknown == 0
        seconds.append(total.seconds)
    assert 0 < seconds[0] < seconds[1] < 20 * seconds[0]
    assert math.isfinite(seconds[1])
    assert np.median(seconds) > 1e-4
