"""Result files, logs and tables that somebody else wrote: each ends in one line that names the file, or what it is."""

import json
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphopt import machine, prediction_log, profile_events
from graphopt.errors import GraphoptError
from graphopt.files import parse_json
from graphopt.mining import find_opportunities, opportunities
from graphopt.passes import bundle
from graphopt.report import files as report_files
from graphopt.store import tables
from tests.mining_captures import capture

DEEP = "[" * 200_000


def _bundle(path: Path) -> object:
    return bundle.read(path.parent)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("opportunities.json", opportunities.read),
        ("result.json", report_files.read),
        (bundle.ABOUT, _bundle),
        ("predictions.jsonl", lambda path: list(prediction_log.read(path))),
        ("profile.json", profile_events.read_runs),
    ],
)
def test_nested_too_deep(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / name
    path.write_text(DEEP)
    with pytest.raises(GraphoptError) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_json_is_read_as_json() -> None:
    assert parse_json('{"a": [1, null]}') == json.loads('{"a": [1, null]}')
    with pytest.raises(ValueError, match="too deep"):
        parse_json(DEEP)


@pytest.mark.parametrize("key", ["support", "occurrences", "executions"])
def test_numbers_beyond_any(tmp_path: Path, key: str) -> None:
    path = tmp_path / "bad.json"
    one = capture("g (float[64,64] x) => (float[64,64] z) { y = Exp(x) z = Relu(y) }")
    data = find_opportunities([one], machine.load(machine.DEFAULT)).to_dict()
    data["opportunities"][0][key] = float("inf")
    path.write_text(json.dumps(data))
    with suppress(GraphoptError):  # it may show the number as it is
        report_files.document(path, report_files.read(path))
    with pytest.raises(GraphoptError, match=r"bad\.json"):
        opportunities.read(path)


@pytest.mark.parametrize("replaces", ["3", "null", DEEP])
def test_tables_that_replace_no_list(replaces: str) -> None:
    schema = pa.schema([("name", pa.string())])
    table = pa.table({"name": ["a"]}, schema)
    content = tables.to_parquet(table, ["b"])
    assert tables.from_parquet(content, schema)[1] == {"b"}
    with pytest.raises(GraphoptError, match="not a table"):
        tables.from_parquet(_with_replaces(content, replaces), schema)


def _with_replaces(content: bytes, replaces: str) -> bytes:
    table = pq.read_table(BytesIO(content))
    stream = BytesIO()
    metadata = {**table.schema.metadata, tables.REPLACES_KEY: replaces.encode()}
    pq.write_table(table.replace_schema_metadata(metadata), stream)
    return stream.getvalue()
