"""``graphopt diff``: what changed between two opportunity files."""

from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit


@options.command(
    "diff",
    "graphopt diff last-week.json this-week.json",
    "graphopt diff old.json new.json --noticeable 0.5 --fail-on regression",
    "graphopt mine fleet --json | graphopt diff old.json - --json",
)
@options.input_file("old")
@options.input_file("new")
@click.option(
    "--noticeable",
    type=click.FloatRange(min=0, max=100),
    default=0.1,
    show_default=True,
    metavar="PERCENT",
    help="Smaller changes, as percent of the fleet's time, do not count.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["regression"]),
    help="Exit with 1 if a pattern was added or has grown: the fleet loses more time than it did.",
)
@options.as_json
@options.pass_environment
def command(
    environment: Environment, old: Path, new: Path, noticeable: float, fail_on: str | None, as_json: bool
) -> Exit:
    """Compare two opportunity files.

    Says which opportunities were added, gone, grown or shrunk. OLD and NEW are what 'graphopt mine -o' wrote: of two
    weeks, of two versions of onnxruntime, of two machines.
    Savings are compared as shares of each file's own time. Mine both with the same -k, large enough.
    """
    from graphopt.report import difference, files

    before, after = (files.read_kind(path, "opportunities") for path in (old, new))
    found = difference.difference(before, after, noticeable / 100)
    output.result(environment, found, difference.document, as_json=as_json)
    return Exit.NEGATIVE if fail_on == "regression" and found["regression"] else Exit.DONE
