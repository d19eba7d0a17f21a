"""``graphopt check``: build a bundle's kernel, hold it against the pattern, and time it."""

from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.progress import steps


@options.command(
    "check",
    "graphopt check bag",
    "graphopt check bag --seconds 10 --threads 2",
)
@click.argument("folder", type=click.Path(path_type=Path))
@options.threads
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Time to spend on timing, at least.",
)
@options.pass_environment
def command(environment: Environment, folder: Path, threads: int, seconds: float) -> Exit:
    """Build, verify and time a bundle's kernel.

    FOLDER is what 'graphopt extract' wrote. Compiles its kernel.c, compares the kernel's outputs with those of the
    pattern, and times it against the pattern in stock onnxruntime. Exit code 1: the numbers differ.
    """
    from graphopt.passes import bundle
    from graphopt.report import benchmark, verification
    from graphopt.runtime import deployment

    pattern, fused = folder / bundle.PATTERN, folder / bundle.FUSED
    with steps(environment, "check") as say:
        bundle.build(bundle.read(folder))
        verified = deployment.verify_files(pattern, fused, threads=threads, progress=say)
    output.show(environment, verification.document(verified.to_dict()))
    if not verified.verification.passed:
        return Exit.NEGATIVE
    with steps(environment, "check", timing=True) as say:
        timed = deployment.bench_files(pattern, fused, threads=threads, seconds=seconds, progress=say)
    output.show(environment, benchmark.document(timed.to_dict()))
    return Exit.DONE
