"""``graphopt characterize``: what a corpus looks like to hardware."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.mine import warn
from graphopt.cli.progress import progress

if TYPE_CHECKING:
    from graphopt.graph import Capture


@options.command(
    "characterize",
    "graphopt characterize sample_graphs --view raw",
    "graphopt characterize fleet --profile profile.json --section time",
    "graphopt characterize fleet --format csv --section projection > projection.csv",
    "graphopt characterize fleet --figures figures --format markdown -o fleet.md",
)
@options.input_corpus("corpus")
@options.machine
@options.view
@options.jobs
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "markdown", "html", "csv"]),
    default="table",
    show_default=True,
    help="json holds everything; csv one section.",
)
@click.option(
    "--section",
    "sections",
    type=click.Choice(["models", "time", "shapes", "projection"]),
    multiple=True,
    help="Only this part; repeat for several. All when not given (csv: models).",
)
@click.option(
    "--profile",
    "profile_file",
    type=options.path_or_stdin,
    metavar="FILE",
    help="What 'graphopt profile -o FILE' measured of the same corpus and view: adds measured times.",
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Draw figures into this folder as SVG: operators, shapes, projection. Needs matplotlib (extra 'figures').",
)
@options.output("Write to this file.")
@options.pass_environment
def command(
    environment: Environment,
    corpus: Path | str,
    machine: str | None,
    view: options.View,
    jobs: int | None,
    form: str,
    sections: tuple[str, ...],
    profile_file: Path | None,
    figures: Path | None,
    output_file: Path | None,
) -> Exit:
    """Say what a corpus looks like to hardware.

    CORPUS is a folder of ONNX models, best with a captures.toml, or one model. For each capture: parameters, most live
    activations, arithmetic intensity, and performance projected on an accelerator over its on-chip memory; for all of
    them: time by operator class and the matrix shapes of their layers. As in section 2 of Park et al. (2018).
    """
    from graphopt import corpus as store
    from graphopt import machine as machines
    from graphopt.characterization.characterize import characterize
    from graphopt.files import write_text
    from graphopt.report import characterization as reports
    from graphopt.report import figures as drawings
    from graphopt.report import json, markdown, terminal
    from graphopt.report.html import document as pages

    if form == "csv" and len(sections) > 1:
        raise click.UsageError("csv holds one section: give --section once")
    if form == "json" and sections:
        raise click.UsageError("json holds all sections: leave --section out")
    roofline = machines.load(machine or machines.DEFAULT)
    with progress(environment, "loading") as loading:
        loaded = store.load(corpus, view=view, jobs=jobs or environment.jobs, progress=loading)
    warn(loaded.problems)
    measured = None if profile_file is None else _measured(loaded.captures, profile_file, view)
    with progress(environment, "characterize", counted=False):
        data = characterize(loaded.captures, roofline, view=view, measured=measured).to_dict()
    if figures is not None:
        drawings.write(data, figures)
    document = reports.document(data, sections or reports.SECTIONS)
    if form == "table" and output_file is None:
        output.show(environment, document)
        return Exit.DONE
    text = {
        "table": lambda: terminal.render(document),
        "json": lambda: json.text(data),
        "markdown": lambda: markdown.render(document),
        "html": lambda: pages.render(document),
        "csv": lambda: reports.csv_text(data, (sections or reports.SECTIONS)[0]),
    }[form]()
    if output_file is None:
        click.echo(text, nl=False)
    else:
        write_text(output_file, text)
    return Exit.DONE


def _measured(captures: Sequence["Capture"], file: Path, view: str) -> list[dict[str, float] | None]:
    from graphopt.characterization.measured import measured_seconds
    from graphopt.errors import about
    from graphopt.report import files

    with about(file):
        return measured_seconds(captures, files.read_kind(file, "profile"), view)
