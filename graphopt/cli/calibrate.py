"""``graphopt calibrate``: measure this machine for the roofline."""

from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit, available_processors
from graphopt.cli.progress import progress
from graphopt.errors import GraphoptError


@options.command(
    "calibrate",
    "graphopt calibrate -o my-machine.toml",
    "graphopt calibrate --threads 1 -o core.toml",
    "graphopt calibrate --from-log --machine my-machine.toml -o learnt.toml",
)
@click.option(
    "--from-log",
    is_flag=True,
    help="Measure nothing: correct the rates of --machine by what apply and bench have logged here.",
)
@options.machine
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="N",
    help="Threads of onnxruntime within an operator; repeat for several.  [default: 1 and all processors]",
)
@options.output("The machine file of one thread; that of N threads is called NAME-N-threads.toml.", required=True)
@options.as_json
@options.pass_environment
def command(
    environment: Environment,
    from_log: bool,
    machine: str | None,
    threads: tuple[int, ...],
    output_file: Path,
    as_json: bool,
) -> Exit:
    """Measure this machine for the roofline.

    Writes a machine file. Measured through onnxruntime itself: peaks by dtype, bandwidths by working set, the price of
    a node, of a kernel and of a call, and a rate for each class of operators, in less than half a minute for each
    number of threads. Where repeated measurements disagree, or other programs ran beside them, nothing is
    written, and the exit code is 1.
    """
    from graphopt import calibrate
    from graphopt.report import machines as reports

    if (from_log and threads) or (machine and not from_log):
        raise click.UsageError("--machine goes with --from-log, and --threads without it")
    if from_log:
        learnt = calibrate.from_log(machine, output_file)
        click.echo(
            f"graphopt: learnt from {learnt.records} records: mean error {learnt.error_before:.1%} before, "
            f"{learnt.error_after:.1%} after",
            err=True,
        )
        if as_json:
            output.show_json(learnt.machine)
        else:
            output.show(environment, reports.document(learnt.machine))
        return Exit.DONE
    if output_file.is_dir():  # said before half a minute of measurements, not after
        raise GraphoptError(f"{output_file}: a folder; a file is written here")
    counts = tuple(dict.fromkeys(threads or (1, available_processors())))
    found = {}
    for count in counts:
        with progress(environment, "calibrate", timing=True) as report:
            found[count] = calibrate.calibrate(_name(output_file, count, counts), threads=count, progress=report)
    busy = [
        f"with --threads {count}, repeated measurements differ by {result.spread:.0%}, and something else ran during "
        f"all those of {result.disturbed:.0%} of the cases"
        for count, result in found.items()
        if result.busy
    ]
    if busy:
        click.echo(f"graphopt: this machine is busy: {'; '.join(busy)}; nothing written", err=True)
        return Exit.NEGATIVE
    for count, result in found.items():
        name = f"{_name(output_file, count, counts)}.toml"
        calibrate.write(result, output_file if count == counts[0] else output_file.with_name(name))
    machines = [result.machine for result in found.values()]
    if as_json:
        output.show_json(machines)
    else:
        for measured in machines:
            output.show(environment, reports.document(measured))
    return Exit.DONE


def _name(path: Path, threads: int, counts: tuple[int, ...]) -> str:
    """The first number of threads has the file's own name."""
    name = path.name.removesuffix(".toml")
    return name if threads == counts[0] else f"{name}-{threads}-threads"
