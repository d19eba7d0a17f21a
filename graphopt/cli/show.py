"""``graphopt show``: one opportunity in full."""

from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit


@options.command(
    "show",
    "graphopt show opportunities.json e33a773e",
    "graphopt show opportunities.json e33a773e --json | jq .shapes[0]",
    "graphopt mine sample_graphs --json | graphopt show - e33a773e",
)
@options.input_file("file")
@click.argument("digest")
@options.as_json
@options.pass_environment
def command(environment: Environment, file: Path, digest: str, as_json: bool) -> Exit:
    """Draw one opportunity and say all that is known of it.

    FILE is what 'graphopt mine -o' wrote; DIGEST the pattern's digest or its first digits.
    """
    from graphopt.report import files, opportunity

    entry = opportunity.find(file, files.read_kind(file, "opportunities"), digest)
    output.result(environment, entry, opportunity.document, as_json=as_json)
    return Exit.DONE
