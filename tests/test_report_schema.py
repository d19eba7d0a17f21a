"""What commands print as JSON is what docs/results.schema.json says."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import onnx
import pytest

from graphopt.cli.environment import Exit
from graphopt.kernels import find_compiler
from graphopt.report.files import DOCUMENTS
from tests.command_line import CommandLine
from tests.mined_report import opportunities
from tests.test_cli_models import hard_swish

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "results.schema.json").read_text())


@pytest.fixture(scope="module")
def validator() -> Any:
    kind = jsonschema.validators.validator_for(SCHEMA)
    kind.check_schema(SCHEMA)
    return kind(SCHEMA)


def kinds_of(schema: dict[str, Any]) -> set[str]:
    return {reference["$ref"].rpartition("/")[2] for reference in schema["oneOf"]}


def test_every_kind_that_report_reads_has_a_schema() -> None:
    assert kinds_of(SCHEMA) == set(DOCUMENTS)


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler here")
def test_every_command_prints_what_the_schema_says(validator: Any, graphopt: CommandLine, tmp_path: Path) -> None:
    model, fused = tmp_path / "model.onnx", tmp_path / "fused.onnx"
    onnx.save(hard_swish(), model)
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    changed = opportunities()
    changed["opportunities"] = changed["opportunities"][1:]
    old.write_text(json.dumps(opportunities()))
    new.write_text(json.dumps(changed))
    fleet = tmp_path / "fleet"
    observed = f"file://{tmp_path}/observed"
    for place in (fleet, observed):
        assert graphopt("capture", model, "--corpus", place, "--name", "model").code == Exit.DONE
    commands: list[tuple[object, ...]] = [
        *(("corpus", action, place, "--json") for place in (fleet, observed) for action in ("stats", "list", "verify")),
        *(("corpus", "show", place, "model", "--json") for place in (observed,)),
        ("corpus", "compact", observed, "--json"),
        ("corpus", "export", observed, tmp_path / "exported", "--json"),
        ("mine", model, "--ruled-out", "--json"),
        ("apply", model, "--accept", "all", "-o", fused, "--json"),
        ("explain", fused, "--json"),
        ("verify", model, fused, "--json"),
        ("bench", model, fused, "--json"),
        ("run", fused, "--json"),
        ("characterize", model, "--format", "json"),
        ("profile", model, "--seconds", "0", "--json"),
        ("diff", old, new, "--json"),
        ("report", model, "--machine", "xeon-avx512", "--machine", "xeon-e5-2680-v4", "--format", "json"),
    ]
    seen = set()
    for words in commands:
        outcome = graphopt(*words)
        assert outcome.code in (Exit.DONE, Exit.NEGATIVE), outcome.err
        data = json.loads(outcome.out)
        validator.validate(data)
        seen.add(data["kind"])
    assert seen == kinds_of(SCHEMA)


def test_the_schema_tells_wrong_files(validator: Any) -> None:
    validator.validate(opportunities())
    for key in ("kind", "seconds", "opportunities"):
        broken = opportunities()
        del broken[key]
        assert not validator.is_valid(broken)
    broken = opportunities()
    broken["opportunities"][0]["digest"] = "x"
    assert not validator.is_valid(broken)
