"""``graphopt extract``: everything that a kernel writer needs of one opportunity, in a folder."""

from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.progress import progress


@options.command(
    "extract",
    "graphopt extract opportunities.json e33a773e --corpus sample_graphs -o bag",
    "graphopt check bag",
    "graphopt apply model.onnx --kernel e33a773e=bag -o fused.onnx",
)
@options.input_file("file")
@click.argument("digest")
@click.option(
    "--corpus",
    type=options.corpus_place,
    required=True,
    metavar="DIR|URL",
    help="The corpus, or the model, that FILE was mined from.",
)
@options.machine
@options.view
@options.output("The folder to write.", required=True)
@options.pass_environment
def command(
    environment: Environment,
    file: Path,
    digest: str,
    corpus: Path | str,
    machine: str | None,
    view: options.View,
    output_file: Path,
) -> Exit:
    """Cut one pattern out for a kernel writer.

    FILE is what 'graphopt mine -o' wrote; DIGEST the pattern's digest or its first digits. Writes a folder with the
    pattern as a model at real shapes, inputs, expected outputs, the generated kernel in C and a README. Edit the C, run
    'graphopt check' on the folder, and use it with 'graphopt apply --kernel'.
    """
    from graphopt import machine as machines
    from graphopt.mining.opportunity import Opportunity
    from graphopt.passes import bundle
    from graphopt.report import files, opportunity

    data = files.read_kind(file, "opportunities")
    entry = files.checked(file, lambda: Opportunity.from_dict(opportunity.find(file, data, digest)))
    with progress(environment, "extract", counted=False):
        made = bundle.write(entry, corpus, output_file, machines.load(machine or machines.DEFAULT), view)
    click.echo(f"{made.folder}: {made.name}")
    output.show(environment, opportunity.document(entry.to_dict()))
    return Exit.DONE
