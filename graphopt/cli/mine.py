"""``graphopt mine``: which fusions would save a corpus the most time?"""

import logging
from fractions import Fraction
from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.mining_progress import Levels
from graphopt.cli.progress import progress

MOST_PROBLEMS = 5
"""Problems of a corpus that are said without ``-v``."""


def support(text: str) -> int | Fraction:
    """``500`` executions, or a share of all executions: ``0.01``, ``1%``."""
    try:
        if text.endswith("%"):
            found = Fraction(text[:-1]) / 100
        elif text.isdecimal():
            return int(text)
        else:
            found = Fraction(text)
    except (ValueError, ZeroDivisionError):
        found = Fraction(-1)
    if not 0 < found <= 1:
        raise click.BadParameter(f"{text!r} is neither a whole number of executions nor a share such as 0.01 or 1%")
    return found


@options.command(
    "mine",
    "graphopt mine sample_graphs",
    "graphopt mine fleet -k 20 --min-support 1% --machine xeon-e5-2680-v4 -o opportunities.json",
    "graphopt mine fleet --engine dask --scheduler tcp://head:8786 -o opportunities.json",
    "graphopt mine s3://bucket/fleet -o opportunities.json",
    "graphopt mine model.onnx --view raw --json | jq .opportunities[0]",
)
@options.input_corpus("corpus")
@click.option("-k", "k", type=click.IntRange(min=1), default=10, show_default=True, metavar="N", help="How many.")
@click.option(
    "--min-support",
    type=support,
    default="1",
    show_default=True,
    metavar="N|SHARE",
    help="Least executions of the captures that hold a pattern, or their share of all (0.01, 1%).",
)
@click.option(
    "--max-size",
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    metavar="N",
    help="Most operators of a pattern.",
)
@options.machine
@options.view
@options.jobs
@click.option(
    "--engine",
    type=click.Choice(["processes", "serial", "dask"]),
    help="Mine in worker processes, in this process, or in a dask cluster; processes where they pay, when not given.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Scheduler of the dask cluster (tcp://host:8786); without one, a cluster on this machine.",
)
@click.option(
    "--ruled-out", is_flag=True, help="Also list patterns that a fusion rule stops, with what they would be worth."
)
@options.output("Write the opportunities to this file, for 'graphopt report' and 'graphopt apply'.")
@options.as_json
@options.pass_environment
def command(
    environment: Environment,
    corpus: Path | str,
    k: int,
    min_support: int | Fraction,
    max_size: int,
    machine: str | None,
    view: options.View,
    jobs: int | None,
    engine: str | None,
    scheduler: str | None,
    ruled_out: bool,
    output_file: Path | None,
    as_json: bool,
) -> Exit:
    """Find the fusions that would save a fleet the most time.

    CORPUS is a folder of ONNX models, best with a captures.toml that says how each one runs, one model, or the folder
    or URL that services write their captures to. Mines closed convex patterns, applies the fusion rules and ranks by
    the time that fusing would save, each pattern beyond what better ones save already.
    """
    if scheduler is not None and engine != "dask":
        raise click.UsageError("--scheduler is for --engine dask")
    from graphopt import corpus as store
    from graphopt import machine as machines
    from graphopt.mining import opportunities
    from graphopt.mining.find import find_opportunities
    from graphopt.report import opportunities as reports

    roofline = machines.load(machine or machines.DEFAULT)
    workers = jobs or environment.jobs
    with progress(environment, "loading") as loading:
        loaded = store.load(corpus, view=view, fold_constants=True, jobs=workers, progress=loading)
    warn(loaded.problems)
    with progress(environment, "mining", even=False) as mining:
        report = find_opportunities(
            loaded.captures,
            roofline,
            k=k,
            min_support=min_support,
            max_size=max_size,
            jobs=workers,
            engine=engine,
            scheduler=scheduler,
            ruled_out=ruled_out,
            progress=mining and Levels(mining, max_size),
        )
    if output_file is not None:
        opportunities.write(report, output_file)
    if as_json:
        click.echo(opportunities.text(report), nl=False)
    else:
        output.show(environment, reports.document(report.to_dict()))
    return Exit.DONE


def warn(problems: tuple[str, ...]) -> None:
    """Log the problems of a corpus, the first few without ``-v``."""
    logger = logging.getLogger("graphopt.cli")
    shown = len(problems) if logger.isEnabledFor(logging.INFO) else MOST_PROBLEMS
    for problem in problems[:shown]:
        logger.warning("%s", problem)
    if len(problems) > shown:
        logger.warning("%d more; -v shows all", len(problems) - shown)
