"""``graphopt corpus``: what a corpus holds, whether it is whole, compaction and export."""

from pathlib import Path
from typing import Any

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.progress import progress

EXAMPLES = (
    "graphopt corpus stats s3://bucket/fleet",
    "graphopt corpus list fleet --json | jq '.graphs_held[0]'",
    "graphopt corpus show fleet 83f0c73c",
    "graphopt corpus verify fleet",
    "graphopt corpus compact s3://bucket/fleet",
    "graphopt corpus export s3://bucket/fleet exported --redact",
)
ACTIONS = ("stats", "list", "show", "compact", "export", "verify")
TAKES = {"show": "a graph's digest, its first digits, or its name", "export": "a folder to write to"}


@options.command("corpus", *EXAMPLES)
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("corpus", type=options.corpus_to_write)
@click.argument("other", metavar="[GRAPH|FOLDER]", required=False)
@options.redacted
@click.option(
    "--take-over",
    is_flag=True,
    help="Compact although another compaction seems to be at work: only where it is known to be dead.",
)
@options.as_json
@options.pass_environment
def command(
    environment: Environment,
    action: str,
    corpus: Path | str,
    other: str | None,
    redacted: bool,
    take_over: bool,
    as_json: bool,
) -> Exit:
    """Say what a corpus holds, verify, compact or export it.

    CORPUS is a folder or a URL (s3://bucket/fleet). stats and list say what it holds, show GRAPH says all of one graph.
    compact makes one file of the many that services write, at any time and beside them. export FOLDER writes models
    with a captures.toml ('graphopt capture FOLDER' takes them back). verify looks at every file; exit code 1 if one is
    torn, foreign or not what its name says.
    """
    if (other is None) != (action not in TAKES):
        raise click.UsageError(f"'graphopt corpus {action}' takes {TAKES.get(action, 'a corpus and nothing else')}")
    if redacted and action != "export":
        raise click.UsageError("--redact is for export")
    if take_over and action != "compact":
        raise click.UsageError("--take-over is for compact")
    from graphopt.report import corpus as reports

    with progress(environment, action, counted=False):
        data = _done(action, corpus, other or "", redacted, take_over)
    output.result(environment, data, reports.document, as_json=as_json)
    return Exit.NEGATIVE if action == "verify" and data["problems"] else Exit.DONE


def _done(action: str, corpus: Path | str, other: str, redacted: bool, take_over: bool) -> dict[str, Any]:
    from datetime import timedelta

    from graphopt import corpus_contents, corpus_export, corpus_verification, store
    from graphopt.report import corpus as reports
    from graphopt.store import compaction

    match action:
        case "stats":
            return reports.stats(corpus, corpus_contents.contents(corpus))
        case "list":
            return reports.listing(corpus, corpus_contents.contents(corpus))
        case "show":
            return reports.detail(corpus, corpus_contents.detail(corpus, other))
        case "verify":
            return reports.verification(corpus, corpus_verification.verify(corpus))
        case "compact":
            life = timedelta(0) if take_over else compaction.CLAIM_LIFE
            return reports.compaction(corpus, compaction.compact(store.open(corpus), claim_life=life))
        case _:
            graphs, problems = corpus_export.export(corpus, Path(other), redacted=redacted)
            return reports.export(corpus, Path(other), graphs, problems)
