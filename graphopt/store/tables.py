"""The tables of an observed corpus: their columns, their Parquet files, and sums over equal captures."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

from graphopt.errors import GraphoptError
from graphopt.files import parse_json
from graphopt.graph import Shape

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:  # the extra "observe": graphopt.store.open says so
    pa = pq = None

AVAILABLE = pa is not None
"""Whether pyarrow is installed."""

SCHEMA_VERSION = 1
VERSION_KEY = b"schema_version"
REPLACES_KEY = b"replaces"
"""In the file metadata of a compacted file: a JSON list of the names of the files that it stands for."""


@dataclass(frozen=True)
class Capture:
    """A row of ``captures``: executions of a graph with the same input shapes.

    Attributes:
        graph: digest of the stored graph.
        name: what the service calls the model.
        shapes: of the graph's inputs, by position; None for one that was left out or is no tensor.
        executions: how many.
        start: of the first execution, or a moment before, with a time zone.
        end: of the last execution, or a moment after.
        runtime: version of onnxruntime.
    """

    graph: str
    name: str
    shapes: tuple[Shape | None, ...]
    executions: int
    start: datetime
    end: datetime
    runtime: str


@dataclass(frozen=True)
class OperatorTime:
    """A row of ``profiles``: how long an operator took, sampled.

    Attributes:
        graph: digest of the stored graph.
        shapes: of the graph's inputs, by position.
        node: index of the node in the stored graph; None for what onnxruntime made of several or inserted.
        name: the node's name in onnxruntime's profile.
        operator: its type, as onnxruntime executes it.
        seconds: of all samples.
        samples: how many executions.
        start: when sampling began.
        runtime: version of onnxruntime.
    """

    graph: str
    shapes: tuple[Shape | None, ...]
    node: int | None
    name: str
    operator: str
    seconds: float
    samples: int
    start: datetime
    runtime: str


@dataclass(frozen=True)
class Kind:
    """One of a corpus's tables.

    Attributes:
        folder: where its files are.
        schema: its columns.
        equal: columns of which rows that agree in all of them are added up.
        sums: what becomes of each other column then, as pyarrow calls it.
    """

    folder: str
    schema: "Callable[[], pa.Schema]"
    equal: tuple[str, ...]
    sums: Mapping[str, str]

    def table(self, rows: "Iterable[Capture | OperatorTime]") -> "pa.Table":
        """Rows as a table."""
        listed = list(rows)
        columns = {name: [getattr(row, name) for row in listed] for name in self.schema().names}
        columns["shapes"] = [shapes_text(row.shapes) for row in listed]
        return pa.table(columns, schema=self.schema())

    def aggregated(self, table: "pa.Table") -> "pa.Table":
        """Equal rows as one, sorted."""
        grouped = table.group_by(list(self.equal), use_threads=False).aggregate(list(self.sums.items()))
        names = {f"{name}_{how}": name for name, how in self.sums.items()}
        renamed = grouped.rename_columns([names.get(name, name) for name in grouped.column_names])
        return renamed.select(self.schema().names).sort_by([(name, "ascending") for name in self.equal])

    def together(self, tables: "Sequence[pa.Table]") -> "pa.Table":
        """Tables as one, with equal rows added up."""
        return self.aggregated(pa.concat_tables([self.schema().empty_table(), *tables]))


def _captures_schema() -> "pa.Schema":
    """The columns of ``captures``."""
    moment = pa.timestamp("us", tz="UTC")
    return pa.schema(
        [
            ("graph", pa.string()),
            ("name", pa.string()),
            ("shapes", pa.string()),
            ("executions", pa.int64()),
            ("start", moment),
            ("end", moment),
            ("runtime", pa.string()),
        ]
    )


def _profiles_schema() -> "pa.Schema":
    """The columns of ``profiles``."""
    return pa.schema(
        [
            ("graph", pa.string()),
            ("shapes", pa.string()),
            ("node", pa.int32()),
            ("name", pa.string()),
            ("operator", pa.string()),
            ("seconds", pa.float64()),
            ("samples", pa.int64()),
            ("start", pa.timestamp("us", tz="UTC")),
            ("runtime", pa.string()),
        ]
    )


CAPTURES = Kind(
    "captures",
    _captures_schema,
    ("graph", "shapes"),
    {"name": "min", "executions": "sum", "start": "min", "end": "max", "runtime": "max"},
)
"""``Capture``s; of several names or runtimes, the least and the greatest text."""

PROFILES = Kind(
    "profiles",
    _profiles_schema,
    ("graph", "shapes", "node", "name", "operator", "runtime"),
    {"seconds": "sum", "samples": "sum", "start": "min"},
)
"""``OperatorTime``s."""


def shapes_text(shapes: Sequence[Shape | None]) -> str:
    """Shapes as they stand in a table: a JSON array of arrays, without spaces; equal shapes give equal text."""
    return json.dumps([None if shape is None else list(shape) for shape in shapes], separators=(",", ":"))


def shapes_of(text: str) -> tuple[Shape | None, ...]:
    """Shapes from a table.

    Raises:
        GraphoptError: the text is not what ``shapes_text`` writes.
    """
    try:
        found = parse_json(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(shape is None or _is_shape(shape) for shape in found):
        raise GraphoptError(f"shapes {text!r} are not a JSON array of arrays of whole numbers")
    return tuple(None if shape is None else tuple(shape) for shape in found)


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)


def to_parquet(table: "pa.Table", replaces: Iterable[str] = ()) -> bytes:
    """A Parquet file.

    Args:
        table: its rows.
        replaces: names of the files that it stands for, if it is a compacted file.
    """
    metadata = {VERSION_KEY: str(SCHEMA_VERSION).encode()}
    if names := sorted(replaces):
        metadata[REPLACES_KEY] = json.dumps(names).encode()
    stream = BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), stream, compression="zstd")
    return stream.getvalue()


def from_parquet(content: bytes, schema: "pa.Schema") -> tuple["pa.Table", frozenset[str]]:
    """Rows of a Parquet file, and the names of the files that it stands for.

    Raises:
        GraphoptError: it is broken, of another version, or has other columns.
    """
    try:
        file = pq.ParquetFile(BytesIO(content))
        metadata = file.schema_arrow.metadata or {}
        version = metadata.get(VERSION_KEY, b"").decode(errors="replace")
        if version != str(SCHEMA_VERSION):
            raise GraphoptError(f"schema_version is {version!r}; this release reads {SCHEMA_VERSION}")
        replaces = parse_json(metadata.get(REPLACES_KEY, b"[]"))
        table = file.read(columns=schema.names, use_threads=False).replace_schema_metadata(None)
        return table.cast(schema), frozenset(map(str, replaces))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise GraphoptError(f"not a table of an observed corpus: {' '.join(str(error).split())}") from None
