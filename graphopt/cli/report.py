"""``graphopt report``: a result file as a table, Markdown or JSON."""

from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit


@options.command(
    "report",
    "graphopt report opportunities.json",
    "graphopt report fused.plan.json --format markdown -o plan.md",
    "graphopt verify model.onnx fused.onnx --json | graphopt report -",
)
@options.input_file("file")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "json"]),
    default="table",
    show_default=True,
    help="Markdown pastes into a pull request.",
)
@options.output("Write to this file.")
@options.pass_environment
def command(environment: Environment, file: Path, form: str, output_file: Path | None) -> Exit:
    """Show a result file as a table, Markdown or JSON.

    FILE is what 'graphopt mine -o' wrote, a plan of 'graphopt apply', or the --json of 'verify', 'bench' or 'run'.
    """
    from graphopt.files import write_text
    from graphopt.report import files, json, markdown, terminal

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
