"""Cutting out, growing regions and rewriting: the fused model is the same model, with or without kernels."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from graphopt import models
from graphopt.errors import GraphoptError
from graphopt.graph import Capture, Node, OperatorGraph, Tensor
from graphopt.model_graphs import with_unique_names
from graphopt.passes import regions
from graphopt.passes.base import LOCAL_DOMAIN, Context, Observed
from graphopt.passes.candidates import Fusibility
from graphopt.passes.extract import extract
from graphopt.passes.fuse import Fuse, Fusions
from graphopt.passes.rewrite import rewrite
from graphopt.passes.select import find_cycle
from graphopt.runtime.session import open_session
from tests.convexity import is_convex

SHAPE = (2, 3, 4)


def build(nodes: list[onnx.NodeProto], outputs: list[str], constants: dict[str, Any] | None = None) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in ("x", "z")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs.split(","), outputs.split(","), name=f"at_{outputs}", **attributes)


def anything(body: OperatorGraph) -> str | None:
    """Stands in for the kernel generator: it can do everything."""
    return None


def observed(model: onnx.ModelProto) -> tuple[OperatorGraph, Capture]:
    seen = models.observe(model, {"x": SHAPE, "z": SHAPE})
    return seen.graph, Capture(seen.graph, seen.shapes)


def feeds(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(SHAPE).astype(np.float32) for name in ("x", "z")}


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    assert [v.name for v in before.graph.output] == [v.name for v in after.graph.output]
    assert [v.name for v in before.graph.input] == [v.name for v in after.graph.input]
    expected = open_session(before, optimization="none").run(None, feeds())
    for level in ("none", "all"):
        found = open_session(after, optimization=level).run(None, feeds())
        for left, right in zip(expected, found, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-6 if level == "all" else 0)
    for left, right in zip(expected, ReferenceEvaluator(after).run(None, feeds()), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@st.composite
def random_models(draw: st.DrawFn) -> onnx.ModelProto:
    """Element-wise and layout operators; values are all [2, 3, 4], or its transpose and back."""
    values = ["x", "z"]
    nodes = []
    for number in range(draw(st.integers(2, 14))):
        kind = draw(st.sampled_from(["Add", "Mul", "Sub", "Neg", "Relu", "Sigmoid", "swap", "halves", "constant"]))
        first, second, result = draw(st.sampled_from(values)), draw(st.sampled_from(values)), f"v{number}"
        if kind in ("Add", "Mul", "Sub"):
            nodes.append(node(kind, f"{first},{second}", result))
        elif kind == "swap":
            nodes.append(node("Transpose", first, f"{result}_a", perm=[0, 2, 1]))
            nodes.append(node("Neg", f"{result}_a", f"{result}_b"))
            nodes.append(node("Transpose", f"{result}_b", result, perm=[0, 2, 1]))
        elif kind == "halves":
            nodes.append(node("Split", f"{first},sizes", f"{result}_a,{result}_b", axis=2))
            nodes.append(node("Concat", f"{result}_b,{result}_a", result, axis=2))
        elif kind == "constant":
            nodes.append(node("Div", f"{first},two", result))
        else:
            nodes.append(node(kind, first, result))
        values.append(result)
    outputs = draw(st.sets(st.sampled_from(values[2:]), min_size=1, max_size=3)) | {values[-1]}
    return build(nodes, sorted(outputs), {"two": np.float32(2), "sizes": np.array([2, 2])})


@settings(max_examples=40, deadline=None)
@given(random_models(), st.sampled_from(regions.FILTERS), st.integers(2, 12))
def test_growing_and_rewriting_keeps_the_model(
    model: onnx.ModelProto, allowed: regions.EdgeFilter, max_size: int
) -> None:
    graph, capture = observed(model)
    content = model.SerializeToString(deterministic=True)
    fusible = Fusibility(graph, [capture], anything).reason
    growth = regions.grow(graph, [capture], fusible, allowed=allowed, max_size=max_size)
    assert all(2 <= len(nodes) <= max_size and is_convex(graph, nodes) for nodes in growth.regions)
    taken = [index for nodes in growth.regions for index in nodes]
    assert len(taken) == len(set(taken))
    assert not find_cycle(graph, growth.regions)
    chosen = [extract(graph, nodes) for nodes in growth.regions]
    chosen = [extraction for extraction in chosen if extraction.outputs]  # the others are dead
    after = rewrite(model, graph, chosen)
    assert model.SerializeToString(deterministic=True) == content, "the model that came in stays as it was"
    assert len([n for n in after.graph.node if n.domain == LOCAL_DOMAIN]) == len(chosen)
    assert_same(model, after)


@pytest.mark.parametrize(
    ("operator", "shape", "dtype", "reason"),
    [
        ("MatMulInteger", (4, 9), "int8", None),
        ("MatMulInteger", (4, 9), "uint8", None),
        ("ConvInteger", (5, 3, 5), "uint8", "fewer than 64 elements"),
        ("ConvInteger", (5, 3, 5), "int8", None),
        ("ConvInteger", (5, 3, 22), "uint8", None),
    ],
)
def test_products_of_integers_that_the_runtime_computes_as_fast_stay_there(
    operator: str, shape: tuple[int, ...], dtype: str, reason: str | None
) -> None:
    quantizing = node("DynamicQuantizeLinear", "x", "quantized,scale,zero")
    pads = {} if len(shape) == 2 else {"pads": [20, 20]}
    product = node(operator, "quantized,weights,zero", "y", **pads)
    graph, capture = observed(build([quantizing, product], ["y"], {"weights": np.ones(shape, dtype)}))
    found = Fusibility(graph, [capture], anything).reason((1,))
    assert found is None if reason is None else reason in str(found)


def test_where_something_stands_is_no_shape() -> None:
    nodes = [node("Flatten", "x", "rows"), node("ArgMax", "rows", "at", axis=1, keepdims=0)]
    nodes += [node("Shape", "x", "shape"), node("Add", "shape,shape", "y")]
    graph, capture = observed(build(nodes, ["at", "y"]))
    fusible = Fusibility(graph, [capture], anything)
    assert {graph.tensors[name].dtype for name in ("at", "y")} == {"int64"}
    assert fusible.reason((1,)) is None
    assert fusible.reason((3,)) == "Add computes a shape"


@settings(max_examples=25, deadline=None)
@given(random_models(), st.randoms(use_true_random=False))
def test_identity_does_not_depend_on_names_or_order(model: onnx.ModelProto, random: Any) -> None:
    graph, capture = observed(model)
    growth = regions.grow(graph, [capture], Fusibility(graph, [capture], anything).reason)
    # The same graph in another topological order, with other names and swapped commutative operands.
    names = {name: f"r{number}" for number, name in enumerate(random.sample(list(graph.tensors), len(graph.tensors)))}
    order: list[int] = []
    pending = set(range(len(graph.nodes)))
    while pending:
        ready = [
            i
            for i in sorted(pending)
            if all(n not in graph.producers or graph.producers[n][0] in order for n in graph.nodes[i].inputs)
        ]
        order.append(random.choice(ready))
        pending.discard(order[-1])
    nodes = []
    for index in order:
        entry = graph.nodes[index]
        operands = [names[name] for name in entry.inputs]
        if entry.op_type in ("Add", "Mul"):
            random.shuffle(operands)
        results = tuple(names[name] for name in entry.outputs)
        nodes.append(replace(entry, name=f"m{index}", inputs=tuple(operands), outputs=results))
    other = OperatorGraph(
        "other",
        tuple(nodes),
        {names[name]: replace(tensor, name=names[name]) for name, tensor in graph.tensors.items()},
        tuple(names[name] for name in graph.inputs),
        tuple(names[name] for name in graph.outputs),
    )
    for region in growth.regions:
        first = extract(graph, region)
        second = extract(other, [order.index(index) for index in region])
        if first.identity == second.identity:  # ties that are no symmetry may be broken differently
            assert [n.operator for n in first.body.nodes] == [n.operator for n in second.body.nodes]
            assert first.body.inputs == second.body.inputs and first.body.outputs == second.body.outputs
        else:
            assert len(region) > 2


def chain(*nodes: onnx.NodeProto, outputs: list[str], constants: dict[str, Any] | None = None) -> OperatorGraph:
    return observed(build(list(nodes), outputs, constants))[0]


def test_identity_of_equal_chains() -> None:
    first = chain(node("Add", "x,z", "a"), node("Relu", "a", "b"), outputs=["b"])
    second = chain(node("Add", "z,x", "q"), node("Relu", "q", "r"), outputs=["r"])
    assert extract(first, [0, 1]).identity == extract(second, [0, 1]).identity
    assert extract(first, [0, 1]).name.startswith("Add_Relu_")
    assert extract(first, [0, 1]).inputs == ("x", "z")


@pytest.mark.parametrize(
    "other",
    [
        chain(node("Add", "x,z", "a"), node("Relu", "a", "b"), outputs=["a", "b"]),  # a escapes
        chain(node("Add", "x,x", "a"), node("Relu", "a", "b"), outputs=["b"]),  # operands coincide
        chain(node("Sub", "x,z", "a"), node("Relu", "a", "b"), outputs=["b"]),  # another operator
    ],
)
def test_identity_tells_apart(other: OperatorGraph) -> None:
    first = chain(node("Add", "x,z", "a"), node("Relu", "a", "b"), outputs=["b"])
    assert extract(first, [0, 1]).identity != extract(other, [0, 1]).identity


def test_values_of_axes_belong_to_the_identity_and_to_the_body() -> None:
    found = []
    for axis in (0, 1):
        nodes = (node("Neg", "x", "a"), node("Unsqueeze", "a,axes", "b"))
        model = build(list(nodes), ["b"], {"axes": np.array([axis])})
        graph, _ = observed(model)
        extraction = extract(graph, [0, 1])
        assert extraction.inputs == ("x",)
        after = rewrite(model, graph, [extraction])
        assert not after.graph.initializer
        assert [n.op_type for n in after.functions[0].node] == ["Constant", "Neg", "Unsqueeze"]
        assert_same(model, after)
        found.append(extraction.identity)
    assert found[0] != found[1]


def test_values_of_other_constants_are_operands() -> None:
    identities = set()
    for value in (1.0, 2.0):
        graph = chain(node("Neg", "x", "a"), node("Add", "a,c", "b"), outputs=["b"], constants={"c": np.float32(value)})
        extraction = extract(graph, [0, 1])
        assert set(extraction.inputs) == {"x", "c"}
        identities.add(extraction.identity)
    assert len(identities) == 1


def test_equal_occurrences_share_a_function() -> None:
    nodes = [
        node("Add", "x,z", "a"),
        node("Relu", "a", "b"),
        node("MatMul", "b,w", "c"),
        node("Add", "z,c", "d"),
        node("Relu", "d", "e"),
    ]
    model = build(nodes, ["e"], {"w": np.eye(4, dtype=np.float32)})
    graph, _ = observed(model)
    after = rewrite(model, graph, [extract(graph, [0, 1]), extract(graph, [3, 4])])
    assert len(after.functions) == 1
    assert [n.domain for n in after.graph.node] == [LOCAL_DOMAIN, "", LOCAL_DOMAIN]
    onnx.checker.check_model(with_output_shapes(after))
    assert_same(model, after)


def with_output_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    for value in model.graph.output:
        value.type.tensor_type.shape.CopyFrom(model.graph.input[0].type.tensor_type.shape)
    return model


def test_bodies_of_control_flow_see_what_they_saw() -> None:
    result = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    then = helper.make_graph([node("Neg", "a", "out")], "then", [], result)
    other = helper.make_graph([node("Add", "a,b", "out")], "else", [], result)
    nodes = [
        node("Add", "x,z", "a"),
        node("Relu", "a", "b"),
        node("Exp", "b", "c"),
        helper.make_node("If", ["yes"], ["d"], name="if", then_branch=then, else_branch=other),
        node("Mul", "c,d", "y"),
    ]
    model = build(nodes, ["y"], {"yes": np.bool_(True)})
    graph, capture = observed(model)
    growth = regions.grow(graph, [capture], Fusibility(graph, [capture], anything).reason)
    assert growth.regions == ((0, 1, 2),)
    assert set(extract(graph, growth.regions[0]).outputs) == {"a", "b", "c"}
    assert_same(model, rewrite(model, graph, [extract(graph, growth.regions[0])]))


def test_cycles_and_overlaps_are_refused() -> None:
    nodes = [node("Neg", "x", "a"), node("Abs", "z", "b"), node("Relu", "a", "c"), node("Exp", "b", "d")]
    nodes += [node("Add", "c,b", "e"), node("Add", "d,a", "f")]
    model = build(nodes, ["e", "f"])
    graph, _ = observed(model)
    with pytest.raises(GraphoptError, match="share"):
        rewrite(model, graph, [extract(graph, [0, 2]), extract(graph, [2, 4])])
    with pytest.raises(GraphoptError, match="cycle"):
        rewrite(model, graph, [extract(graph, [0, 4]), extract(graph, [1, 5])])


def test_fuse_pass_reports_what_it_did() -> None:
    nodes = [node("Add", "x,z", "a"), node("Relu", "a", "b"), node("CumSum", "b,axis", "c"), node("Neg", "c", "y")]
    model = build(nodes, ["y"], {"axis": np.int64(1)})
    context = Context(observed=(Observed({"x": SHAPE, "z": SHAPE}),), lowerable=anything)
    result = Fuse().run(model, context)
    assert isinstance(result.details, Fusions)
    (fusion,) = result.details.made
    assert fusion.name in {n.op_type for n in result.model.graph.node}
    assert fusion.shapes == ({"x0": SHAPE, "x1": SHAPE, "t0": SHAPE, "y0": SHAPE},)
    assert fusion.before > fusion.after > 0
    again = Fuse().run(model, replace(context, excluded={fusion.identity: "tried"}))
    assert isinstance(again.details, Fusions)
    assert not again.modified and not again.details.made


def test_top_k_keeps_what_saves_most() -> None:
    nodes = [node("Add", "x,z", "a"), node("Relu", "a", "b"), node("CumSum", "b,axis", "c")]
    nodes += [node("Exp", "c", "d"), node("Log", "d", "e"), node("Sigmoid", "e", "y")]
    model = build(nodes, ["y"], {"axis": np.int64(1)})
    context = Context(observed=(Observed({"x": SHAPE, "z": SHAPE}),), lowerable=anything)
    everything, best = Fuse().run(model, context).details, Fuse(top_k=1).run(model, context).details
    assert isinstance(everything, Fusions) and isinstance(best, Fusions)
    assert len(everything.made) == 2
    assert [f.identity for f in best.made] == [everything.made[0].identity]
    with pytest.raises(GraphoptError, match="top-k"):
        Fuse(top_k=0).run(model, context)


def test_node_names_become_unique() -> None:
    model = build([node("Neg", "x", "a"), node("Abs", "a", "b"), node("Exp", "b", "y")], ["y"])
    model.graph.node[0].name = model.graph.node[1].name = "n"
    model.graph.node[2].name = ""
    names = [n.name for n in with_unique_names(model).graph.node]
    assert len(set(names)) == 3 and all(names) and names[0] == "n"
    assert with_unique_names(with_unique_names(model)) is not model


def _squeeze(pixels: int) -> tuple[OperatorGraph, Capture]:
    """A convolution with an activation, whose channels a squeeze and excitation scales; positions of the small one."""
    blocked = "com.microsoft.nchwc"
    steps = [
        (blocked, "Conv", ("x", "w"), "c"),
        ("com.microsoft", "QuickGelu", ("c",), "a"),
        (blocked, "ReorderOutput", ("a",), "p"),
        ("", "ReduceMean", ("p",), "m"),
        (blocked, "ReorderInput", ("m",), "q"),
        (blocked, "Conv", ("q", "v"), "e"),
        (blocked, "ReorderOutput", ("e",), "g"),
        ("", "Mul", ("p", "g"), "h"),
        (blocked, "ReorderInput", ("h",), "y"),
    ]
    large, small = (1, 16, 8, 8), (1, 16, pixels, pixels)
    shapes = {
        name: small if name in "mqeg" else (16, 16, 1, 1) if name in "wv" else large for name in "xwcapmqvegh" + "y"
    }
    tensors = {name: Tensor(name, "float32", 4, name in "wv") for name in shapes}
    nodes = tuple(Node(f"at_{y}", domain, kind, 17, x, (y,), {}) for domain, kind, x, y in steps)
    graph = OperatorGraph("squeeze", nodes, tensors, ("x", "w", "v"), ("y",))
    return graph, Capture(graph, shapes)


@pytest.mark.parametrize(("pixels", "expected"), [(1, [(2, 3, 4, 5, 6, 7, 8)]), (8, [(2, 3, 4), (6, 7, 8)])])
def test_small_convolutions_join_regions(pixels: int, expected: list[tuple[int, ...]]) -> None:
    graph, capture = _squeeze(pixels)
    growth = regions.grow(graph, [capture], anything_of_nodes)
    assert [nodes for nodes in growth.regions if nodes[0] > 1] == expected


def test_a_region_begins_where_its_operands_leave_the_blocked_layout() -> None:
    graph, capture = _squeeze(1)
    inside = (3, 4, 5, 6, 7, 8)
    assert regions.with_first_reorders(graph, [capture], inside, anything_of_nodes) == (2, *inside)
    assert regions.with_first_reorders(graph, [capture], inside, lambda nodes: "no") == inside
    assert regions.with_first_reorders(graph, [capture], (7, 8), anything_of_nodes) == (6, 7, 8)  # (3,) reads p, too
    assert regions.with_first_reorders(graph, [capture], (0, 7, 8), anything_of_nodes) == (0, 7, 8)


def anything_of_nodes(nodes: tuple[int, ...]) -> str | None:
    return None
