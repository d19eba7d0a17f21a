"""Machines: what the roofline knows about hardware, read from TOML files in which every number states its source.

A machine file describes one thing that executes a model at a time (a core, a socket, a device): its peak arithmetic,
its memory levels, the rates of its operator classes and the fixed price of a node. docs/machines.md has the format.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from graphopt.errors import GraphoptError

DEFAULT = "xeon-avx512"
"""The machine that commands use when none is named."""

SCHEMA_VERSION = 1
KINDS = ("spec", "derived", "measured")
SCOPES = ("core", "socket", "device")
RATE_UNITS = ("flop/s", "element/s")
PIECE_UNITS = ("piece/s",)

FILLING, FULL = 0.6, 1.4
"""Working set over capacity where a memory level starts to miss, and where the next level serves all: between a
program's own use of a cache and the ways that an unlucky placement leaves empty lies no sharp edge (measured:
docs/roofline.md)."""

_CAPACITIES = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

_FOLDER = Path(__file__).parent / "machines"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number and where it comes from.

    Attributes:
        value: the number, positive.
        unit: ``flop/s``, ``element/s``, ``piece/s``, ``byte/s``, ``byte`` or ``s``.
        kind: ``spec`` (the vendor states it), ``derived`` (computed from stated numbers) or ``measured``.
        scope: what it belongs to: ``core``, ``socket`` or ``device``.
        source: who states it, how it is derived, or what measured it.
    """

    value: float
    unit: str
    kind: str
    scope: str
    source: str


@dataclass(frozen=True, slots=True)
class MemoryLevel:
    """A level of the memory hierarchy, as the machine's scope sees it.

    Attributes:
        name: ``L1``, ``L2``, ``L3``, ``DRAM``, …
        capacity: bytes it holds; None for the last level, which holds everything.
        bandwidth: bytes per second to and from the arithmetic.
        writing: bytes per second that are written, where that is slower; bandwidth is then of what is read.
    """

    name: str
    capacity: Quantity | None
    bandwidth: Quantity
    writing: Quantity | None = None

    @property
    def bytes(self) -> float:
        """Capacity in bytes; infinite for the last level."""
        return float("inf") if self.capacity is None else self.capacity.value

    def seconds(self, read: float, written: float) -> float:
        """Seconds to read and write so many bytes."""
        return read / self.bandwidth.value + written / (self.writing or self.bandwidth).value


@dataclass(frozen=True, eq=False)
class Machine:
    """A roofline description of hardware. Two loaded machines are equal only if they are the same object.

    Attributes:
        name: what commands call it.
        description: one line for people.
        scope: what executes a model: one ``core``, a ``socket`` or a ``device``.
        peak: operations per second by dtype (numpy's names).
        memory: levels, smallest first; the last one has no capacity.
        rates: speed of an operator class when the runtime executes it as a node of its own. In flop/s it divides the
            operator's flops; in element/s it divides the elements of its results. A key is an operator's full name
            (``com.microsoft.SkipLayerNormalization``) or a rate class; the name goes first.
        kernel_rates: the same inside of a fused kernel, where they differ.
        piece_rates: contiguous pieces per second (see ``operators.pieces``) of an operator class as a node of its own:
            what a short row costs besides its elements. A class without one pays nothing for pieces. Behind a colon
            stands what else is counted (``gemm:weights``).
        kernel_piece_rates: the same inside of a fused kernel.
        per_node: time that the runtime needs for a node besides its work; None when nobody states it.
        per_kernel: the same for a fused operator.
        per_step: what a kernel spends on each lookup, reduction and contraction after its first.
        per_call: the same as per_node for an execution of a whole graph.
        source: path of the file it was read from.
    """

    name: str
    description: str
    scope: str
    peak: Mapping[str, Quantity]
    memory: tuple[MemoryLevel, ...]
    rates: Mapping[str, Quantity]
    kernel_rates: Mapping[str, Quantity]
    piece_rates: Mapping[str, Quantity] = field(default_factory=dict)
    kernel_piece_rates: Mapping[str, Quantity] = field(default_factory=dict)
    per_node: Quantity | None = None
    per_kernel: Quantity | None = None
    per_step: Quantity | None = None
    per_call: Quantity | None = None
    source: str = field(default="")

    @property
    def node_seconds(self) -> float:
        """Seconds per node besides its work; 0 when unknown."""
        return self.per_node.value if self.per_node is not None else 0.0

    @property
    def kernel_seconds(self) -> float:
        """Seconds per fused operator besides its work; a node's when not stated apart."""
        return self.per_kernel.value if self.per_kernel is not None else self.node_seconds

    @property
    def step_seconds(self) -> float:
        """Seconds for each step of a kernel after the first; 0 when unknown."""
        return self.per_step.value if self.per_step is not None else 0.0

    def level(self, size: float) -> MemoryLevel:
        """The smallest memory level that holds so many bytes."""
        for level in self.memory:
            if size <= level.bytes:
                return level
        return self.memory[-1]

    def seconds_to_move(self, read: float, written: float = 0.0, working_set: float | None = None) -> float:
        """Seconds to read and write so many bytes when ``working_set`` bytes (default: their sum) are in use meanwhile.

        A working set that is near the capacity of a level is served by that level and by the next one.
        """
        used = read + written if working_set is None else working_set
        seconds = self.memory[0].seconds(read, written)
        for level, further in pairwise(self.memory):
            missing = min(1.0, max(0.0, (used / level.bytes - FILLING) / (FULL - FILLING)))
            seconds += missing * (further.seconds(read, written) - level.seconds(read, written))
        return seconds

    def rate(self, keys: Sequence[str]) -> Quantity | None:
        """The speed of an operator that runs as a node of its own; None when the machine does not tell it.

        Args:
            keys: names that its rate may have, the most special one first (see roofline.rate_keys).
        """
        return next((self.rates[key] for key in keys if key in self.rates), None)

    def kernel_rate(self, keys: Sequence[str], operator: str) -> Quantity | None:
        """The speed of an operator inside of a fused kernel; None when the machine does not tell it.

        What the runtime's own operator of that name does comes last: a generated kernel does not share its weakness.
        """
        found = next((self.kernel_rates[key] for key in keys if key in self.kernel_rates), None)
        return found or self.rate([*(key for key in keys if key != operator), operator])

    def seconds_of_counts(self, keys: Sequence[str], counts: Mapping[str, float], *, fused: bool = False) -> float:
        """Seconds for what an operator works through besides its work (see ``operators.pieces.counts``).

        Args:
            keys: names that its rate may have; the prices of the first one that the machine knows count, for they were
                measured together with its rate.
            counts: how many there are of what, by name.
            fused: inside of a kernel.
        """
        rates, table = (self.kernel_rates, self.kernel_piece_rates) if fused else (self.rates, self.piece_rates)
        key = next((key for key in keys if key in rates or key in table), "")
        found = ((number, table.get(f"{key}:{name}" if name else key)) for name, number in counts.items())
        return sum(number / rate.value for number, rate in found if rate is not None)

    def peak_of(self, dtype: str) -> float:
        """Operations per second for a dtype; where it is not listed float32's, or else that of the slowest listed."""
        found = self.peak.get(dtype) or self.peak.get("float32")
        return found.value if found is not None else min(quantity.value for quantity in self.peak.values())


def names() -> tuple[str, ...]:
    """Names of the built-in machines, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load(name_or_path: str | Path = DEFAULT) -> Machine:
    """A built-in machine by name, or one from a TOML file.

    Args:
        name_or_path: a built-in name, or a path (anything that ends in ``.toml`` or has a folder in it); with
            ``@64MB`` at the end, the machine's first memory level has that capacity in place of its own.

    Raises:
        GraphoptError: when there is no such machine, or its file is not valid; the message names file and field.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and "@" in text and not Path(text).exists():
        name, _, size = text.rpartition("@")
        return _with_capacity(load(name), size)
    if isinstance(name_or_path, str) and _NAME.fullmatch(text) and not text.endswith(".toml"):
        path = _FOLDER / f"{text}.toml"
        if path.is_file():
            return _load(path)
        if not Path(text).is_file():
            raise GraphoptError(f"no machine named {text}; built in are {', '.join(names())}, or give a .toml file")
    return parse(_read(Path(text)), text)


def _with_capacity(machine: Machine, text: str) -> Machine:
    """The machine with another capacity of its first memory level; 0 takes that level away."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]i?B)", text)
    first = machine.memory[0]
    if first.capacity is None or len(machine.memory) < 2:
        raise GraphoptError(
            f"{machine.name}@{text}: no memory level in front of {first.name} whose capacity could be chosen"
        )
    if found is None:
        raise GraphoptError(f"{machine.name}@{text}: the capacity of its first memory level reads like 64MB or 64MiB")
    size = float(found[1]) * _CAPACITIES[found[2]]
    capacity = replace(first.capacity, value=size, source=f"chosen by the caller: {text}")
    levels = (replace(first, capacity=capacity), *machine.memory[1:]) if size else machine.memory[1:]
    if len(levels) > 2 and size > levels[1].bytes:
        raise GraphoptError(f"{machine.name}@{text}: larger than the next level, {levels[1].name}")
    return replace(machine, name=f"{machine.name}@{text}", memory=levels)


@cache
def _load(path: Path) -> Machine:
    return parse(_read(path), str(path))


def _read(path: Path) -> Mapping[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GraphoptError(f"{path}: cannot read machine file: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GraphoptError(f"{path}: not a TOML file: {error}") from None


_FIELDS = {
    "schema_version",
    "name",
    "description",
    "scope",
    "sources",
    "peak",
    "memory",
    "rates",
    "kernel_rates",
    "piece_rates",
    "kernel_piece_rates",
    "overhead",
}


def parse(document: Mapping[str, object], path: str) -> Machine:
    """A machine out of a parsed TOML document.

    Args:
        document: what ``tomllib`` read.
        path: the file, for messages.

    Raises:
        GraphoptError: naming the file and the field that is missing, unknown or wrong.
    """
    reader = _Reader(path, document)
    for name in document:
        if name not in _FIELDS:
            raise reader.error(name, "unknown field")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise reader.error("schema_version", f"must be {SCHEMA_VERSION}, is {version!r}")
    scope = reader.text("scope")
    if scope not in SCOPES:
        raise reader.error("scope", f"must be one of {', '.join(SCOPES)}, is {scope!r}")
    name = reader.text("name")
    if not _NAME.fullmatch(name):
        raise reader.error("name", "must be lower-case letters, digits, dots, dashes and underscores")

    peak = reader.quantities("peak", ("flop/s",), scope)
    overhead = reader.quantities("overhead", ("s",), scope, optional=True)
    if extra := sorted(set(overhead) - {"per_node", "per_kernel", "per_step", "per_call"}):
        raise reader.error(f"overhead.{extra[0]}", "unknown field")
    return Machine(
        name=name,
        description=reader.text("description"),
        scope=scope,
        peak=peak,
        memory=reader.levels(scope),
        rates=reader.quantities("rates", RATE_UNITS, scope, optional=True),
        kernel_rates=reader.quantities("kernel_rates", RATE_UNITS, scope, optional=True),
        piece_rates=reader.quantities("piece_rates", PIECE_UNITS, scope, optional=True),
        kernel_piece_rates=reader.quantities("kernel_piece_rates", PIECE_UNITS, scope, optional=True),
        per_node=overhead.get("per_node"),
        per_kernel=overhead.get("per_kernel"),
        per_step=overhead.get("per_step"),
        per_call=overhead.get("per_call"),
        source=path,
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads fields of one document and says which one is wrong."""

    path: str
    document: Mapping[str, object]

    def error(self, name: str, cause: str) -> GraphoptError:
        return GraphoptError(f"{self.path}: {name}: {cause}")

    def text(self, name: str) -> str:
        value = self.document.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.error(name, "missing" if value is None else "must be a text that is not empty")
        return value

    def table(self, name: str, *, optional: bool = False) -> Mapping[str, object]:
        value = self.document.get(name)
        if value is None and optional:
            return {}
        if not isinstance(value, dict) or not value:
            raise self.error(name, "missing" if value is None else "must be a table that is not empty")
        return value

    def quantities(
        self, name: str, units: tuple[str, ...], scope: str, *, optional: bool = False
    ) -> Mapping[str, Quantity]:
        table = self.table(name, optional=optional)
        return MappingProxyType({key: self.quantity(f"{name}.{key}", table[key], units, scope) for key in table})

    def quantity(self, name: str, value: object, units: tuple[str, ...], scope: str | None) -> Quantity:
        """A number with unit, kind, scope (``scope`` requires one) and source."""
        if not isinstance(value, dict):
            raise self.error(name, "must be a table with value, unit, kind, scope and source")
        if missing := sorted({"value", "unit", "kind", "scope", "source"} - set(value)):
            raise self.error(f"{name}.{missing[0]}", "missing")
        if unknown := sorted(set(value) - {"value", "unit", "kind", "scope", "source"}):
            raise self.error(f"{name}.{unknown[0]}", "unknown field")
        number = value["value"]
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < float("inf"):
            raise self.error(f"{name}.value", f"must be a positive number, is {number!r}")
        allowed = {"unit": units, "kind": KINDS, "scope": SCOPES if scope is None else (scope,)}
        for key, choices in allowed.items():
            if value[key] not in choices:
                raise self.error(f"{name}.{key}", f"must be {' or '.join(choices)}, is {value[key]!r}")
        return Quantity(float(number), value["unit"], value["kind"], value["scope"], self.source(name, value["source"]))

    def source(self, name: str, key: object) -> str:
        """The text of a source that a number refers to by its key in the table ``sources``."""
        sources = self.table("sources")
        found = sources.get(key) if isinstance(key, str) else None
        if not isinstance(found, str) or not found.strip():
            raise self.error(f"{name}.source", f"must be a key of the table sources, is {key!r}")
        return found

    def levels(self, scope: str) -> tuple[MemoryLevel, ...]:
        rows = self.document.get("memory")
        if not isinstance(rows, list) or not rows:
            raise self.error("memory", "must be a list of levels, smallest first")
        levels = [self.level(f"memory[{i}]", row, scope, i == len(rows) - 1) for i, row in enumerate(rows)]
        sizes = [level.bytes for level in levels]
        if sizes != sorted(sizes):
            raise self.error("memory", "levels must stand smallest first")
        return tuple(levels)

    def level(self, name: str, row: object, scope: str, last: bool) -> MemoryLevel:
        if not isinstance(row, dict):
            raise self.error(name, "must be a table with name, capacity and bandwidth")
        if unknown := sorted(set(row) - {"name", "capacity", "bandwidth", "writing"}):
            raise self.error(f"{name}.{unknown[0]}", "unknown field")
        if not isinstance(row.get("name"), str):
            raise self.error(f"{name}.name", "missing")
        if last == ("capacity" in row):
            raise self.error(f"{name}.capacity", "the last level has none" if last else "missing")
        if "bandwidth" not in row:
            raise self.error(f"{name}.bandwidth", "missing")
        # A cache may be shared by a wider scope; how fast it is must be said as the machine's scope sees it.
        capacity = None if last else self.quantity(f"{name}.capacity", row["capacity"], ("byte",), None)
        bandwidth = self.quantity(f"{name}.bandwidth", row["bandwidth"], ("byte/s",), scope)
        writing = self.quantity(f"{name}.writing", row["writing"], ("byte/s",), scope) if "writing" in row else None
        return MemoryLevel(row["name"], capacity, bandwidth, writing)
