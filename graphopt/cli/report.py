"""``graphopt report``: a result file in another form, or a corpus on several machines."""

from pathlib import Path
from typing import Any

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.progress import progress

FORMATS = ("table", "markdown", "json", "csv", "parquet", "html", "trace")


@options.command(
    "report",
    "graphopt report opportunities.json",
    "graphopt report opportunities.json --format html --plan fused.plan.json -o report.html",
    "graphopt report fused.plan.json --format markdown -o plan.md",
    "graphopt report sample_graphs --machine xeon-avx512 --machine xeon-e5-2680-v4",
    "graphopt verify model.onnx fused.onnx --json | graphopt report -",
)
@options.input_corpus("place", metavar="FILE")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="Markdown pastes into a pull request; trace is a profile's timeline for Perfetto; html is one page without "
    "network, csv a row for each opportunity "
    "and so is parquet, which needs -o and graphopt[parquet] (these three for opportunities only).",
)
@click.option(
    "--plan",
    "plans",
    type=options.path_or_stdin,
    multiple=True,
    metavar="FILE",
    help="A plan of 'graphopt apply', whose measured times html shows beside the predicted ones; repeat for several.",
)
@click.option(
    "--corpus",
    type=options.corpus_place,
    metavar="DIR|URL",
    help="The corpus, or the model, that FILE was mined from: html then shows the generated C.",
)
@click.option(
    "--machine",
    "machines",
    multiple=True,
    metavar="NAME|FILE",
    help="With a corpus: rank it on this machine; repeat to compare. With html: whose ceilings to draw.",
)
@click.option(
    "-k", "k", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="With a corpus: how many."
)
@options.output("Write to this file.")
@options.pass_environment
def command(
    environment: Environment,
    place: Path | str,
    form: str,
    plans: tuple[Path, ...],
    corpus: Path | str | None,
    machines: tuple[str, ...],
    k: int,
    output_file: Path | None,
) -> Exit:
    """Show a result file as a table, Markdown or a page.

    FILE is what 'graphopt mine -o' wrote, a plan of 'graphopt apply', or the --json of 'verify', 'bench', 'run',
    'explain' or 'diff'. FILE can also be a corpus (a folder, or a model): it is ranked on each --machine, side by side.
    """
    from graphopt.files import write_text
    from graphopt.report import files, json, markdown, table, terminal, trace

    if plans and form not in ("html", "trace"):
        raise click.UsageError("--plan belongs to --format html or trace")
    if corpus and form != "html":
        raise click.UsageError("--corpus belongs to --format html")
    file = Path(place)
    if isinstance(place, str) or place.is_dir() or place.suffix == ".onnx":
        data = _what_if(environment, place, machines, k)
    elif machines and form != "html":
        raise click.UsageError("--machine belongs to a corpus, or to --format html")
    else:
        data = files.read(file)
    if form in ("html", "csv", "parquet"):
        files.check_kind(file, data, "opportunities")
    if form == "trace":
        files.check_kind(file, data, "profile")
    if form == "parquet":
        if output_file is None:
            raise click.UsageError("--format parquet needs -o FILE")
        files.checked(file, lambda: table.write_parquet(data, output_file))
        return Exit.DONE
    if form == "html":
        text = _page(environment, file, data, plans, corpus, machines)
    elif form == "trace":
        read = [files.read_kind(path, "plan") for path in plans]
        text = json.text(files.checked(file, lambda: trace.trace(data, read)))
    elif form == "csv":
        text = files.checked(file, lambda: table.csv_text(data))
    elif form == "json":
        text = json.text(data)
    else:
        document = files.document(file, data)
        if form == "table" and output_file is None:
            output.show(environment, document)
            return Exit.DONE
        text = markdown.render(document) if form == "markdown" else terminal.render(document)
    if output_file is None:
        click.echo(text, nl=False)
    else:
        write_text(output_file, text)
    return Exit.DONE


def _page(
    environment: Environment,
    file: Path,
    data: dict[str, Any],
    plans: tuple[Path, ...],
    corpus: Path | str | None,
    machines: tuple[str, ...],
) -> str:
    from graphopt import machine
    from graphopt.mining.opportunity import Opportunity
    from graphopt.passes.pattern_model import kernel_sources
    from graphopt.report import files, html
    from graphopt.report.realised import realised

    if len(machines) > 1:
        raise click.UsageError("--format html draws the ceilings of one machine")
    measured = realised(data, [files.read_kind(path, "plan") for path in plans])
    name = machines[0] if machines else data["machine"]
    roofline = machine.load(name) if machines or name in machine.names() else None
    sources: dict[str, str] = {}
    if corpus is not None:
        found = files.checked(file, lambda: [Opportunity.from_dict(entry) for entry in data["opportunities"]])
        with progress(environment, "generating") as generating:
            sources = kernel_sources(found, corpus, roofline or machine.load(), generating)
    return files.checked(file, lambda: html.render(data, roofline, realised=measured, sources=sources))


def _what_if(environment: Environment, corpus: Path | str, machines: tuple[str, ...], k: int) -> dict[str, Any]:
    """A corpus on several machines."""
    from graphopt import corpus as store
    from graphopt import machine
    from graphopt.mining.find import find_opportunities
    from graphopt.report.what_if import what_if

    rooflines = [machine.load(name) for name in machines or (machine.DEFAULT,)]
    with progress(environment, "loading") as loading:
        captures = store.load(corpus, fold_constants=True, jobs=environment.jobs, progress=loading).captures
    found = []
    with progress(environment, "ranking") as ranking:
        for at, roofline in enumerate(rooflines):
            if ranking:
                ranking(at, len(rooflines), roofline.name)
            found.append(find_opportunities(captures, roofline, k=k, jobs=environment.jobs).to_dict())
    return what_if(found)
