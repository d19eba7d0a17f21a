"""Pipelines of passes: ``drop-initializer-inputs,remove-no-ops,fuse{top-k=10 max-size=32}`` parsed, printed and run."""

import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from graphopt.errors import GraphoptError
from graphopt.passes import (
    drop_initializer_inputs,
    free_loop_constants,
    fuse,
    remove_dead_nodes,
    remove_no_ops,
    to_view,
)
from graphopt.passes.base import REGISTRY, Context, Pass, PassResult

DEFAULT_PIPELINE: tuple[Pass, ...] = (
    drop_initializer_inputs.DropInitializerInputs(),
    free_loop_constants.FreeLoopConstants(),
    remove_dead_nodes.RemoveDeadNodes(),
    remove_no_ops.RemoveNoOps(),
    to_view.ToView(),
    fuse.Fuse(),
)
"""What ``graphopt apply`` runs: clean-ups on the model as exported, then the view that is executed, then fusion."""

_STEP = re.compile(r"\s*(?P<name>[A-Za-z][\w-]*)\s*(?:\{(?P<options>[^{}]*)\}\s*)?(?:,|$)")
_OPTION = re.compile(r"(?P<key>[A-Za-z][\w-]*)=(?P<value>[^\s,;]+)")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Option:
    """An option of a pass, for listings.

    Attributes:
        name: as written in a pipeline, with dashes.
        type: ``int``, ``float``, ``bool`` or ``str``.
        default: as written in a pipeline; ``none`` where the option is off.
        choices: the values allowed; empty when any value of the type is.
    """

    name: str
    type: str
    default: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """A pass with its options, for ``graphopt passes``."""

    name: str
    doc: str
    options: tuple[Option, ...]


def listing() -> tuple[Listing, ...]:
    """Every pass with its one-line description and its options, in the order of the default pipeline."""
    rows = []
    for name, cls in REGISTRY.items():
        options = []
        for field in dataclasses.fields(typing.cast(typing.Any, cls)):
            kind, _, choices = _kind(cls, field.name)
            options.append(Option(_dashed(field.name), kind.__name__, _text(field.default), choices))
        rows.append(Listing(name, (cls.__doc__ or "").strip().splitlines()[0], tuple(options)))
    order = [step.name for step in DEFAULT_PIPELINE]
    return tuple(sorted(rows, key=lambda row: (order.index(row.name) if row.name in order else len(order), row.name)))


def parse(spec: str) -> tuple[Pass, ...]:
    """The passes that a pipeline text names.

    Args:
        spec: pass names separated by commas; options in braces behind a name, ``key=value`` separated by spaces.
            Dashes and underscores are the same. ``none`` switches an option off where it can be off.

    Raises:
        GraphoptError: text that is no pipeline, an unknown pass or option, or a value of the wrong type.
    """
    steps: list[Pass] = []
    position = 0
    text = spec.strip()
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            raise GraphoptError(f"pipeline {spec!r}: cannot read it at {text[position:][:20]!r}")
        steps.append(_make(match["name"], match["options"] or ""))
        position = match.end()
    return tuple(steps)


def show(passes: Sequence[Pass]) -> str:
    """The text that ``parse`` reads back into the same passes; options at their default are left out."""
    parts = []
    for step in passes:
        fields = dataclasses.fields(typing.cast(typing.Any, step))
        changed = [f for f in fields if getattr(step, f.name) != f.default]
        options = " ".join(f"{_dashed(f.name)}={_text(getattr(step, f.name))}" for f in changed)
        parts.append(f"{step.name}{{{options}}}" if options else step.name)
    return ",".join(parts)


def run(model: onnx.ModelProto, passes: Sequence[Pass], context: Context) -> PassResult:
    """Run passes one after the other.

    Returns:
        The last model, whether any pass changed it, all notes (each begins with its pass's name), and the details of
        the last pass that gave any.
    """
    modified, notes, details = False, [], None
    for step in passes:
        result = step.run(model, context)
        model = result.model
        modified = modified or result.modified
        notes += [f"{step.name}: {note}" for note in result.notes]
        details = result.details if result.details is not None else details
    return PassResult(model, modified, tuple(notes), details)


def _make(name: str, options: str) -> Pass:
    cls = REGISTRY.get(_dashed(name))
    if cls is None:
        raise GraphoptError(f"pass {name}: there is no such pass; there are {', '.join(sorted(REGISTRY))}")
    values: dict[str, object] = {}
    rest = _OPTION.sub("", options).replace(",", " ").replace(";", " ").strip()
    if rest:
        raise GraphoptError(f"pass {cls.name}: options are written key=value, not {rest!r}")
    names = {field.name for field in dataclasses.fields(typing.cast(typing.Any, cls))}
    for match in _OPTION.finditer(options):
        key = match["key"].replace("-", "_")
        if key not in names:
            known = ", ".join(sorted(map(_dashed, names))) or "none"
            raise GraphoptError(f"pass {cls.name}: no option {_dashed(key)}; its options: {known}")
        if key in values:
            raise GraphoptError(f"pass {cls.name}: option {_dashed(key)} stands twice")
        values[key] = _value(cls, key, match["value"])
    return cls(**values)


def _kind(cls: type[Pass], key: str) -> tuple[type, bool, tuple[str, ...]]:
    """(type, whether None is allowed, allowed texts) of an option."""
    hint = typing.get_type_hints(cls)[key]
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return str, False, tuple(arguments)
    if isinstance(hint, types.UnionType):
        return next(a for a in arguments if a is not type(None)), True, ()
    return hint, False, ()


def _value(cls: type[Pass], key: str, text: str) -> object:
    kind, optional, choices = _kind(cls, key)
    where = f"pass {cls.name}: option {_dashed(key)}"
    if optional and text.lower() == "none":
        return None
    if choices and text not in choices:
        raise GraphoptError(f"{where}: {text!r} is not one of {', '.join(choices)}")
    if kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise GraphoptError(f"{where}: {text!r} is neither true nor false")
        return text.lower() in _TRUE
    try:
        return kind(text)
    except ValueError:
        wanted = {"int": "a whole number", "float": "a number"}.get(kind.__name__, kind.__name__)
        raise GraphoptError(f"{where}: {text!r} is not {wanted}") from None


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)
