"""Every format of every report, byte by byte: tests/golden holds small results and what is made of them.

After a change that is meant, ``pytest tests/test_report_golden.py --golden`` writes the files anew; look at the diff.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphopt import machine
from graphopt.report import difference, explanation, files, html, markdown, opportunity, table, terminal, trace, what_if
from graphopt.report import json as report_json
from graphopt.report.document import Document
from graphopt.report.realised import realised

GOLDEN = Path(__file__).parent / "golden"


def given(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    return found


def document(data: dict[str, Any]) -> Document:
    return files.document(Path("result"), data)


def later() -> dict[str, Any]:
    """The opportunities a week later: the best has grown, the second is gone."""
    data = given("opportunities")
    data["opportunities"][0]["share"] += 0.05
    del data["opportunities"][1]
    return data


def elsewhere() -> dict[str, Any]:
    """The opportunities on another machine: in another order."""
    data = given("opportunities")
    data["machine"] = "another"
    data["opportunities"].reverse()
    return data


MADE: dict[str, Callable[[], str]] = {
    "opportunities.txt": lambda: terminal.render(document(given("opportunities"))),
    "opportunities-120.txt": lambda: terminal.render(document(given("opportunities")), width=120),
    "opportunities.md": lambda: markdown.render(document(given("opportunities"))),
    "opportunities.csv": lambda: table.csv_text(given("opportunities")),
    "opportunities.html": lambda: html.render(
        given("opportunities"),
        machine.load("xeon-e5-2680-v4"),
        realised=realised(given("opportunities"), [given("plan")]),
        sources={given("opportunities")["opportunities"][0]["digest"]: "int kernel(void); /* C */\n"},
    ),
    "opportunity.txt": lambda: terminal.render(opportunity.document(given("opportunities")["opportunities"][0])),
    "opportunity.md": lambda: markdown.render(opportunity.document(given("opportunities")["opportunities"][0])),
    "plan.txt": lambda: terminal.render(document(given("plan"))),
    "plan.md": lambda: markdown.render(document(given("plan"))),
    "explanation.txt": lambda: terminal.render(document(explanation.explanation(given("plan")))),
    "difference.txt": lambda: terminal.render(document(difference.difference(given("opportunities"), later()))),
    "what-if.txt": lambda: terminal.render(document(what_if.what_if([given("opportunities"), elsewhere()]))),
    "profile.txt": lambda: terminal.render(document(given("profile"))),
    "trace.json": lambda: report_json.text(trace.trace(given("profile"), [given("plan")])),
}


@pytest.mark.parametrize("name", sorted(MADE))
def test_golden(name: str, pytestconfig: pytest.Config) -> None:
    path = GOLDEN / name
    made = MADE[name]()
    if pytestconfig.getoption("--golden"):
        path.write_text(made, encoding="utf-8")
    assert made == path.read_text("utf-8")
