"""The opportunities file: what ``graphopt mine -o`` writes, and ``graphopt report`` and ``graphopt apply`` read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt import files
from graphopt.errors import GraphoptError
from graphopt.mining.opportunity import Opportunity, as_dict

SCHEMA_VERSION = 1
KIND = "opportunities"


@dataclass(frozen=True, slots=True)
class Stopped:
    """Operators that a rule keeps out of all patterns.

    Attributes:
        rule: name of the rule.
        reason: its reason.
        operators: how many operators of the distinct graphs it stops.
        seconds: their predicted time in all executions, as far as it is known.
    """

    rule: str
    reason: str
    operators: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ClassShare:
    """What the operators of one fusion class take.

    Attributes:
        fusion_class: the class; ``unknown`` for operators that the table does not know.
        operators: how many there are in the distinct graphs.
        seconds: their predicted time in all executions, as far as it is known.
    """

    fusion_class: str
    operators: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """The result of mining a corpus.

    Attributes:
        machine: name of the roofline machine.
        captures: number of captures.
        graphs: number of distinct operator graphs.
        executions: executions of all captures.
        seconds: predicted time of all executions, as far as it is known.
        operators: operators in all distinct graphs.
        operators_unknown: operators whose time is not known at some capture's shapes.
        max_size: most operators of a pattern.
        min_support: least support that was asked, as executions.
        patterns: frequent closed patterns that were ranked.
        incomplete: models whose occurrences exceeded the work budget: supports and savings are lower bounds, and
            patterns larger than the last ones that fitted are missing.
        classes: what operators take by fusion class, greatest first.
        stopped: operators that rules keep out of all patterns, by rule.
        opportunities: fusible ones, in order of marginal saving.
        ruled_out: patterns that a rule stops, in order of what they would be worth.
    """

    machine: str
    captures: int
    graphs: int
    executions: int
    seconds: float
    operators: int
    operators_unknown: int
    max_size: int
    min_support: int
    patterns: int
    incomplete: tuple[str, ...]
    classes: tuple[ClassShare, ...]
    stopped: tuple[Stopped, ...]
    opportunities: tuple[Opportunity, ...]
    ruled_out: tuple[Opportunity, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON knows it."""
        lists = ("opportunities", "ruled_out")
        plain = {key: as_dict(getattr(self, key)) for key in self.__dataclass_fields__ if key not in lists}
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            **plain,
            **{key: [opportunity.to_dict() for opportunity in getattr(self, key)] for key in lists},
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Report":
        """The report that ``to_dict`` wrote.

        Raises:
            KeyError: a key is missing.
            TypeError: a value has another form.
            ValueError: a value cannot be, or the file is of another kind or version.
        """
        if data["kind"] != KIND:
            raise ValueError(f"it holds {data['kind']!r}, not {KIND}")
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"its schema_version is {data['schema_version']!r}; this version reads {SCHEMA_VERSION}")
        return cls(
            machine=str(data["machine"]),
            captures=int(data["captures"]),
            graphs=int(data["graphs"]),
            executions=int(data["executions"]),
            seconds=float(data["seconds"]),
            operators=int(data["operators"]),
            operators_unknown=int(data["operators_unknown"]),
            max_size=int(data["max_size"]),
            min_support=int(data["min_support"]),
            patterns=int(data["patterns"]),
            incomplete=tuple(str(name) for name in data["incomplete"]),
            classes=tuple(
                ClassShare(str(c["fusion_class"]), int(c["operators"]), float(c["seconds"]))
                for c in data.get("classes", ())
            ),
            stopped=tuple(
                Stopped(str(s["rule"]), str(s["reason"]), int(s["operators"]), float(s["seconds"]))
                for s in data["stopped"]
            ),
            opportunities=tuple(Opportunity.from_dict(entry) for entry in data["opportunities"]),
            ruled_out=tuple(Opportunity.from_dict(entry) for entry in data["ruled_out"]),
        )


def text(report: Report) -> str:
    """The report as JSON: the same bytes for the same report."""
    return json.dumps(report.to_dict(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write(report: Report, path: Path) -> None:
    """Write an opportunities file, whole or not at all.

    Raises:
        GraphoptError: it cannot be written.
    """
    files.write_text(path, text(report))


def read(path: Path) -> Report:
    """Read an opportunities file.

    Raises:
        GraphoptError: it cannot be read or is no opportunities file of this version.
    """
    try:
        content = Path(path).read_text("utf-8")
    except OSError as error:
        raise GraphoptError(f"{path}: cannot read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise GraphoptError(f"{path}: not an opportunities file (not JSON)") from None
    try:
        data = files.parse_json(content)
    except ValueError:
        raise GraphoptError(f"{path}: not an opportunities file (not JSON)") from None
    if not isinstance(data, dict):
        raise GraphoptError(f"{path}: not an opportunities file (not a JSON object)")
    try:
        return Report.from_dict(data)
    except KeyError as error:
        raise GraphoptError(f"{path}: not an opportunities file ({error.args[0]!r} is missing)") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise GraphoptError(f"{path}: not an opportunities file ({error})") from None
