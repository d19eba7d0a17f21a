"""Pipelines as text: read, written, listed, refused."""

from dataclasses import fields, is_dataclass
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from graphopt.passes import pipeline
from graphopt.passes.base import REGISTRY
from graphopt.passes.fuse import Fuse
from graphopt.passes.remove_no_ops import RemoveNoOps
from graphopt.passes.to_view import ToView

NAMES = sorted(REGISTRY)


def test_default_pipeline_reads_back() -> None:
    text = pipeline.show(pipeline.DEFAULT_PIPELINE)
    assert text == "drop-initializer-inputs,free-loop-constants,remove-dead-nodes,remove-no-ops,to-view,fuse"
    assert pipeline.parse(text) == pipeline.DEFAULT_PIPELINE


def test_every_pass_is_a_frozen_dataclass_whose_options_have_defaults() -> None:
    for name, cls in REGISTRY.items():
        assert is_dataclass(cls)
        step = cls()
        assert step.name == name
        with pytest.raises(AttributeError):
            cast(Any, step).anything = 1


def test_options_are_typed() -> None:
    assert pipeline.parse("fuse{top-k=10 max_size=32}") == (Fuse(top_k=10, max_size=32),)
    assert pipeline.parse(" remove_no_ops , to-view{view=portable} ") == (RemoveNoOps(), ToView("portable"))
    assert pipeline.parse("fuse{top-k=none}") == (Fuse(top_k=None),)
    assert pipeline.parse("fuse{}") == (Fuse(),)
    assert pipeline.parse("") == ()


@given(st.lists(st.sampled_from(NAMES)), st.integers(1, 99), st.integers(2, 99))
def test_show_and_parse_are_inverse(names: list[str], top_k: int, max_size: int) -> None:
    steps = tuple(Fuse(top_k=top_k, max_size=max_size) if name == "fuse" else REGISTRY[name]() for name in names)
    assert pipeline.parse(pipeline.show(steps)) == steps


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fuze", ["fuze", "no such pass", "fuse"]),
        ("fuse{top-k=many}", ["fuse", "top-k", "many", "whole number"]),
        ("fuse{size=3}", ["fuse", "size", "no option", "max-size"]),
        ("fuse{top-k=1 top_k=2}", ["fuse", "top-k", "twice"]),
        ("fuse{top-k}", ["fuse", "key=value"]),
        ("to-view{view=cooked}", ["to-view", "view", "cooked", "executed"]),
        ("fuse{max-size=none}", ["fuse", "max-size", "none"]),
        ("fuse{top-k=1", ["pipeline"]),
        ("fuse;fuse", ["pipeline"]),
    ],
)
def test_errors_name_the_pass_and_the_option(text: str, words: list[str]) -> None:
    with pytest.raises(GraphoptError) as error:
        pipeline.parse(text)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_listing_shows_all_passes_with_all_options() -> None:
    rows = {row.name: row for row in pipeline.listing()}
    assert next(iter(rows)) == "drop-initializer-inputs"
    assert set(rows) == set(REGISTRY)
    for name, row in rows.items():
        assert row.doc.endswith(".")
        known = {field.name.replace("_", "-") for field in fields(cast(Any, REGISTRY[name]))}
        assert {option.name for option in row.options} == known
    options = {option.name: option for option in rows["to-view"].options}
    assert options["view"].choices == ("executed", "portable", "raw")
    assert options["view"].default == "executed"
