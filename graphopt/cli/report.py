"""``graphopt report``: a result file as a table, Markdown, JSON, CSV or a page of HTML."""

from pathlib import Path
from typing import Any

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit


@options.command(
    "report",
    "graphopt report opportunities.json",
    "graphopt report opportunities.json --format html --plan fused.plan.json -o report.html",
    "graphopt report fused.plan.json --format markdown -o plan.md",
    "graphopt verify model.onnx fused.onnx --json | graphopt report -",
)
@options.input_file("file")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "json", "csv", "html"]),
    default="table",
    show_default=True,
    help="Markdown pastes into a pull request; html is one page without network, csv a row for each opportunity "
    "(both for opportunities only).",
)
@click.option(
    "--plan",
    "plans",
    type=options.path_or_stdin,
    multiple=True,
    metavar="FILE",
    help="A plan of 'graphopt apply', whose measured times html shows beside the predicted ones; repeat for several.",
)
@options.machine
@options.output("Write to this file.")
@options.pass_environment
def command(
    environment: Environment,
    file: Path,
    form: str,
    plans: tuple[Path, ...],
    machine: str | None,
    output_file: Path | None,
) -> Exit:
    """Show a result file as a table, Markdown or a page.

    FILE is what 'graphopt mine -o' wrote, a plan of 'graphopt apply', or the --json of 'verify', 'bench', 'run' or
    'diff'. The page draws the ceilings of the machine that the file names, or of --machine.
    """
    from graphopt.files import write_text
    from graphopt.report import files, json, markdown, terminal

    if form == "html":
        text = _page(file, plans, machine)
    elif plans or machine:
        raise click.UsageError("--plan and --machine belong to --format html")
    elif form == "csv":
        from graphopt.report import table

        text = table.csv_text(files.read_kind(file, "opportunities"))
    else:
        data = files.read(file)
        document = files.document(file, data)
        if form == "table" and output_file is None:
            output.show(environment, document)
            return Exit.DONE
        forms = {"table": terminal.render, "markdown": markdown.render}
        text = json.text(data) if form == "json" else forms[form](document)
    if output_file is None:
        click.echo(text, nl=False)
    else:
        write_text(output_file, text)
    return Exit.DONE


def _page(file: Path, plans: tuple[Path, ...], machine: str | None) -> str:
    from graphopt import machine as machines
    from graphopt.report import files, html
    from graphopt.report.realised import realised

    data: dict[str, Any] = files.read_kind(file, "opportunities")
    measured = realised(data, [files.read_kind(path, "plan") for path in plans])
    name = machine or data["machine"]
    roofline = machines.load(name) if machine or name in machines.names() else None
    return files.checked(file, lambda: html.render(data, roofline, realised=measured))
