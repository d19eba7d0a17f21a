"""Digests against an isomorphism test, and redaction: no word is left, and the structure is the same."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from graphopt import weights
from graphopt.digests import digest
from graphopt.errors import GraphoptError
from graphopt.model_files import check, every_graph
from graphopt.redaction import redact
from tests.random_models import changed, models, same_structure

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: not name.isspace())


def disguised(model: ModelProto, random: Random, names: Iterator[str]) -> ModelProto:
    """The same structure under other names, in another order, with other weights."""
    copy = ModelProto()
    copy.CopyFrom(model)
    renamed: dict[str, str] = {"": ""}

    def name(old: str) -> str:
        return renamed.setdefault(old, next(names)) if old else ""

    for graph in every_graph(copy.graph):
        graph.name = next(names)
        for tensor in graph.initializer:
            if len(tensor.raw_data) > 1000:
                values = np.full(tuple(tensor.dims), random.random()).astype(
                    helper.tensor_dtype_to_np_dtype(tensor.data_type)
                )
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        for value in (*graph.initializer, *graph.input, *graph.output):
            value.name = name(value.name)
        for node in graph.node:
            node.name = next(names)
            node.input[:] = [name(one) for one in node.input]
            node.output[:] = [name(one) for one in node.output]
            attributes = list(node.attribute)
            random.shuffle(attributes)
            node.ClearField("attribute")
            node.attribute.extend(attributes)
        for field in ("node", "initializer"):
            items = list(getattr(graph, field))
            random.shuffle(items)
            graph.ClearField(field)
            getattr(graph, field).extend(items)
    return copy


def unique(drawn: list[str]) -> Iterator[str]:
    """The drawn names, each once, then plain ones."""
    seen = set()
    for name in [*drawn, *(f"plain {i}" for i in range(2000))]:
        # An initializer of such a name would turn a ConstantOfShape into a dropped weight.
        if name not in seen and not name.lower().endswith(weights.SHAPE_SUFFIX):
            seen.add(name)
            yield name


@settings(max_examples=120, deadline=None)
@given(models(), st.randoms(use_true_random=False), st.lists(NAMES, max_size=30))
def test_digest_ignores_names_order_and_weights(model: ModelProto, random: Random, names: list[str]) -> None:
    check(model)
    other = disguised(model, random, unique(names))
    check(other)
    assert same_structure(model, other)
    assert digest(other) == digest(model)
    light = weights.drop_weights(other)
    assert digest(light) == digest(model) == digest(weights.fill_weights(light))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_digest_is_equal_just_where_the_structure_is(data: st.DataObject) -> None:
    model = data.draw(models())
    other = data.draw(changed(model))
    try:
        check(other)
    except GraphoptError:
        return  # the change took away what a body reads
    assert (digest(model) == digest(other)) == same_structure(model, other)


@pytest.mark.parametrize(
    ("one", "another"),
    [
        # one weight read twice, or two of the same shape
        ("a = Add(x, w)  y = Sub(a, w)", "a = Add(x, w)  y = Sub(a, v)"),
        # twins that only the places of their uses inside of a body tell apart
        (
            "p = Relu(x)  q = Relu(x)  y = If(c) <then_branch = t () => (float[N] r) { r = Sub(p, q) },"
            " else_branch = e () => (float[N] s) { s = Relu(q) }>  z = Neg(q)",
            "p = Relu(x)  q = Relu(x)  y = If(c) <then_branch = t () => (float[N] r) { r = Sub(q, p) },"
            " else_branch = e () => (float[N] s) { s = Relu(q) }>  z = Neg(q)",
        ),
        # twins that share their readers, or each have one
        ("p = Relu(x)  q = Relu(x)  a = Sub(p, q)  y = Neg(a)", "p = Relu(x)  q = Relu(x)  a = Sub(p, p)  y = Neg(a)"),
        ("y = Softmax <axis = 0> (x)", "y = Softmax <axis = 0.0> (x)"),
        ("k = Constant <value_int = 1> ()  y = Add(x, k)", "k = Constant <value_float = 1.0> ()  y = Add(x, k)"),
        ('y = Magic <s = "1"> (x)', "y = Magic <s = 1> (x)"),
        ('y = Magic <s = ["a", "bc"]> (x)', 'y = Magic <s = ["ab", "c"]> (x)'),
    ],
)
def test_digest_tells_apart(one: str, another: str) -> None:
    def parsed(body: str) -> str:
        model = parser.parse_model(
            f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N] x, bool c) => (float[N] y) {{ {body} }}"""
        )
        for name in "wv":
            model.graph.initializer.append(numpy_helper.from_array(np.ones(300, np.float32), name))
        return digest(model)

    assert parsed(one) != parsed(another)
    assert parsed(one) == parsed(one)


def test_digest_tells_which_twin_is_which_output() -> None:
    found = set()
    for outputs in ("y, float[N] p, float[N] q", "y, float[N] q, float[N] p"):
        model = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] {outputs}) {{
          p = Relu(x)  q = Relu(x)  y = Neg(p) }}"""
        found.add(digest(parser.parse_model(model)))
    assert len(found) == 2


def test_digest_sees_the_element_type_of_a_sequence() -> None:
    found = set()
    for kind in (TensorProto.FLOAT, TensorProto.INT64):
        declared = helper.make_tensor_sequence_value_info("s", kind, ["N"])
        outputs = [helper.make_tensor_value_info("n", TensorProto.INT64, [])]
        graph = helper.make_graph([helper.make_node("SequenceLength", ["s"], ["n"])], "g", [declared], outputs)
        found.add(digest(helper.make_model(graph, ir_version=8)))
    assert len(found) == 2


# -------------------------------------------------------------------------------------------------- redaction

SECRET = 'Sécret/项目 "x\\y"\n\';--'


def fill_words(message: Message, count: Iterator[int]) -> None:
    """Write the secret wherever a file may hold words that decide nothing."""
    for field in message.DESCRIPTOR.fields:
        if field.name in ("doc_string", "denotation", "producer_name", "producer_version"):
            setattr(message, field.name, f"{SECRET}{next(count)}")
        elif field.name == "metadata_props" and not getattr(message, field.name):
            getattr(message, field.name).add(key=f"{SECRET}{next(count)}", value=SECRET)
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.name != "StringStringEntryProto":
            for one in [value] if isinstance(value, Message) else value:
                fill_words(one, count)
        elif field.name == "dim_param":
            message.dim_param = SECRET + value  # type: ignore[attr-defined]


@settings(max_examples=80, deadline=None)
@given(models(), st.randoms(use_true_random=False), st.lists(NAMES, max_size=30))
def test_redaction_leaves_no_word_and_the_structure(model: ModelProto, random: Random, drawn: list[str]) -> None:
    names = unique([SECRET + name for name in drawn] + [f"{SECRET}{i}" for i in range(2000)])
    named = disguised(model, random, names)
    fill_words(named, iter(range(10**6)))
    named.domain = SECRET
    named.opset_import.add(domain=SECRET, version=1)
    named.graph.quantization_annotation.add(tensor_name=SECRET)
    for light in (named, weights.drop_weights(named)):
        assert SECRET.encode() in light.SerializeToString()
        redacted = redact(light)
        check(redacted)
        assert SECRET.encode() not in redacted.SerializeToString()
        assert "cret" not in str(redacted)
        assert digest(redacted) == digest(model)
        assert weights.has_dropped_weights(redacted) == weights.has_dropped_weights(light)
        assert redact(redacted) == redacted


def test_a_redacted_model_computes_the_same() -> None:
    body = helper.make_node("Add", ["a", "k"], ["b"], name="secret")
    constant = helper.make_node("Constant", [], ["k"], value=helper.make_tensor("secret", 1, [1], [2.0]))
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function("secret", "Secret", ["a"], ["b"], [constant, body], imports, doc_string="secret")
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "secret" : 1]> secret (float[secret, 2] x_secret, bool secret)
        => (float[?, ?] y_secret)
        <float[2] w_secret = {1.0, 2.0}> {
          a_secret = Mul(x_secret, w_secret)
          f_secret = secret.Secret(a_secret)
          y_secret = If (secret) <then_branch = secret_t () => (float[?, ?] r_secret) { r_secret = Neg(f_secret) },
                                  else_branch = secret_e () => (float[?, ?] s_secret) { s_secret = Sqrt(a_secret) }>
        }"""
    )
    model.functions.append(function)
    onnx.checker.check_model(model)
    redacted = redact(model)
    onnx.checker.check_model(redacted, full_check=True)
    assert "ecret" not in str(redacted)
    assert digest(redacted) == digest(model)
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    for choice in (True, False):
        results = []
        for one in (model, redacted):
            feeds = {value.name: array for value, array in zip(one.graph.input, (x, np.array(choice)), strict=True)}
            results.append(ReferenceEvaluator(one).run(None, feeds))
        np.testing.assert_array_equal(*results)


def test_names_that_make_dropped_weights_still_do() -> None:
    """Only the name of its shape says that the first node is a dropped weight; the second never is one."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[?, ?] y)
        <int64[2] w__SHAPE = {30, 20}, int64[2] other = {30, 20}> {
          w = ConstantOfShape(w__SHAPE)  v = ConstantOfShape(other)  y = Add(w, v)
        }"""
    )
    found = [[node.output[0] for node, _ in weights.dropped(one.graph)] for one in (model, redact(model))]
    assert found[0] == ["w"]
    assert len(found[1]) == 1
    assert digest(redact(model)) == digest(model)


def test_redaction_of_the_samples(sample_graphs: Path) -> None:
    for path in sorted(sample_graphs.glob("*.onnx"))[:4]:
        model = weights.load_without_weights(path)
        redacted = redact(model)
        check(redacted)
        assert digest(redacted) == digest(model)
        assert {node.name.rstrip("0123456789") for node in redacted.graph.node} == {"n"}
