"""The log of predictions: what ``apply`` and ``bench`` predicted and measured here, for ``calibrate`` to learn from.

A file of JSON lines in the user's state folder; docs/file-formats.md has the fields. It holds operators, shapes and
times, and constants of a few elements; nothing leaves the machine. ``GRAPHOPT_LOG=off`` switches it off, another value
is the file to write to.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.files import parse_json
from graphopt.graph import AttributeValue, Capture, Node, OperatorGraph, Tensor

try:
    import fcntl
except ImportError:  # not on Windows: there, two writers at once are not supported
    fcntl = None  # type: ignore[assignment]

SCHEMA_VERSION = 1
VARIABLE = "GRAPHOPT_LOG"
OFF = "off"
LARGEST = 64 << 20
"""Bytes at which the log is full: nothing is added any more."""
LARGEST_VALUE = 16
"""Elements of constants whose values are logged: axes, exponents, bounds."""


@dataclass(frozen=True)
class Record:
    """One pattern at one set of shapes.

    Attributes:
        capture: its operators with their shapes.
        machine: name of the machine that predicted.
        threads: of onnxruntime within an operator.
        origin: ``apply`` or ``bench``.
        predicted: seconds of its operators one by one, and as one kernel.
        measured: the same, measured.
    """

    capture: Capture
    machine: str
    threads: int
    origin: str
    predicted: tuple[float, float]
    measured: tuple[float, float]


def path() -> Path | None:
    """Where the log is; None when it is switched off."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() == OFF:
        return None
    if chosen:
        return Path(chosen)
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if state else Path.home() / ".local" / "state"
    return folder / "graphopt" / "predictions.jsonl"


def append(records: Sequence[Record]) -> None:
    """Add records. A log that cannot be written is no reason to fail: nothing is added then.

    Several processes may add at once: each takes a lock and writes whole lines.
    """
    target = path()
    if target is None or not records:
        return
    text = "".join(json.dumps(_to_json(record), sort_keys=True) + "\n" for record in records).encode()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("ab") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            if file.seek(0, os.SEEK_END) + len(text) <= LARGEST:
                file.write(text)
    except OSError:
        return


def read(source: Path) -> tuple[Record, ...]:
    """All records of a log.

    Raises:
        GraphoptError: the file cannot be read, or a line is no record.
    """
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise GraphoptError(f"{source}: cannot read the log: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise GraphoptError(f"{source}: not a log of predictions") from None
    return tuple(_records(source, lines))


def _records(source: Path, lines: Sequence[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = parse_json(line)
            if data["schema_version"] != SCHEMA_VERSION or data["kind"] != "prediction":
                raise ValueError
            yield _from_json(data)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise GraphoptError(f"{source}: line {number} is no prediction of version {SCHEMA_VERSION}") from None


def _to_json(record: Record) -> dict[str, Any]:
    graph = record.capture.graph
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "prediction",
        "origin": record.origin,
        "machine": record.machine,
        "threads": record.threads,
        "predicted_seconds": dict(zip(("unfused", "fused"), record.predicted, strict=True)),
        "measured_seconds": dict(zip(("unfused", "fused"), record.measured, strict=True)),
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "nodes": [
            {
                "operator": node.operator,
                "version": node.version,
                "inputs": list(node.inputs),
                "outputs": list(node.outputs),
                "attributes": {
                    name: list(value) if isinstance(value, tuple) else value
                    for name, value in node.attributes.items()
                    if isinstance(value, int | float | str | tuple)
                },
            }
            for node in graph.nodes
        ],
        "tensors": {
            name: {
                "dtype": tensor.dtype,
                "shape": list(record.capture.shape(name) or ()),
                "constant": tensor.constant,
                "value": _value(tensor),
            }
            for name, tensor in graph.tensors.items()
        },
    }


def _value(tensor: Tensor) -> list[Any] | None:
    value = tensor.value
    if value is None or value.size > LARGEST_VALUE or value.dtype.kind not in "iufb":
        return None
    return list(np.ravel(value).tolist())


def _from_json(data: Mapping[str, Any]) -> Record:
    tensors, shapes = {}, {}
    for name, entry in data["tensors"].items():
        shape = shapes[name] = tuple(int(size) for size in entry["shape"])
        value = None if entry["value"] is None else np.asarray(entry["value"], entry["dtype"]).reshape(shape)
        fixed = bool(entry["constant"])
        tensors[name] = Tensor(name, entry["dtype"], len(shape), fixed, value, shape if fixed else None)
    nodes = []
    for index, entry in enumerate(data["nodes"]):
        domain, _, op_type = entry["operator"].rpartition(".")
        attributes: dict[str, AttributeValue] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry["attributes"].items()
        }
        inputs, outputs = tuple(entry["inputs"]), tuple(entry["outputs"])
        nodes.append(Node(f"n{index}", domain, op_type, int(entry["version"]), inputs, outputs, attributes))
    graph = OperatorGraph("pattern", tuple(nodes), tensors, tuple(data["inputs"]), tuple(data["outputs"]))
    predicted, measured = data["predicted_seconds"], data["measured_seconds"]
    return Record(
        Capture(graph, shapes),
        data["machine"],
        int(data["threads"]),
        data["origin"],
        (float(predicted["unfused"]), float(predicted["fused"])),
        (float(measured["unfused"]), float(measured["fused"])),
    )
