"""A profile as a trace: operators end to end, and the fused regions at the operators that they replace."""

import json
from pathlib import Path
from typing import Any

from graphopt.cli.environment import Exit
from graphopt.report.trace import FUSED, OPERATORS, trace
from tests.command_line import CommandLine


def operator(node: str, microseconds: float | None) -> dict[str, Any]:
    return {
        "node": node,
        "operator": node.rstrip("0123456789"),
        "tensors": [],
        "flops": 10,
        "bytes": 20,
        "predicted_seconds": 1e-6,
        "measured_seconds": None if microseconds is None else microseconds * 1e-6,
        "bytes_per_second": None,
        "flops_per_second": None,
        "fraction_of_roofline": None,
    }


PROFILE = {
    "schema_version": 1,
    "kind": "profile",
    "machine": "xeon-avx512",
    "view": "executed",
    "threads": 1,
    "captures": [
        {
            "model": "m",
            "inputs": {"x": [1, 2]},
            "executions": 1,
            "predicted_seconds": 1e-5,
            "measured_seconds": 1e-5,
            "operators": [operator("Add1", 4), operator("Mul2", 2), operator("Conv3", None), operator("Add4", 5)],
        }
    ],
}
PLAN = {"model": "m.onnx", "fused": [{"name": "fused_a", "occurrences": [["Add1", "Mul2"], ["Add4"]]}]}


def slices(data: dict[str, Any], row: int) -> list[tuple[str, float, float]]:
    events = [event for event in data["traceEvents"] if event["ph"] == "X" and event["tid"] == row]
    return [(event["name"], round(event["ts"], 6), round(event["dur"], 6)) for event in events]


def test_operators_stand_end_to_end_with_fused_regions_at_theirs() -> None:
    data = trace(PROFILE, [PLAN])
    assert slices(data, OPERATORS) == [("Add", 0, 4), ("Mul", 4, 2), ("Conv", 6, 0), ("Add", 6, 5)]
    assert slices(data, FUSED) == [("fused_a", 0, 6), ("fused_a", 6, 5)]
    assert slices(trace(PROFILE), FUSED) == []
    names = [event["args"]["name"] for event in data["traceEvents"] if event["ph"] == "M"]
    assert names == ["m (x 1x2)", "operators", "fused"]


def test_report_writes_a_trace(graphopt: CommandLine, tmp_path: Path) -> None:
    source = tmp_path / "profile.json"
    source.write_text(json.dumps(PROFILE))
    outcome = graphopt("report", source, "--format", "trace")
    assert outcome.code == Exit.DONE, outcome.err
    assert json.loads(outcome.out) == json.loads(json.dumps(trace(PROFILE)))
    source.write_text(json.dumps({"schema_version": 1, "kind": "run"}))
    assert graphopt("report", source, "--format", "trace").code == Exit.BAD_INPUT
