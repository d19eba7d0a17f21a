"""``graphopt bench``: is a model faster than another?"""

from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.progress import steps


@options.command(
    "bench",
    "graphopt bench model.onnx fused.onnx",
    "graphopt bench model.onnx fused.onnx --shape x=8x3x224x224 --threads 2 --seconds 20 --json",
)
@options.input_file("original")
@options.input_file("candidate")
@options.shapes
@options.ranges
@options.threads
@click.option(
    "--seconds", type=click.FloatRange(min=0), default=5.0, show_default=True, metavar="S", help="Time to spend."
)
@options.seed
@options.as_json
@options.pass_environment
def command(
    environment: Environment,
    original: Path,
    candidate: Path,
    shapes: tuple[tuple[str, options.Shape], ...],
    ranges: tuple[tuple[str, options.Range], ...],
    threads: int,
    seconds: float,
    seed: int,
    as_json: bool,
) -> Exit:
    """Time a model against its original, in alternation.

    The original runs in stock onnxruntime with all optimisations and with none; the candidate with its kernels.
    Ratios above 1 are in favour of the candidate; the interval is one of 95 %.
    """
    from graphopt.report import benchmark
    from graphopt.runtime import deployment

    with steps(environment, "bench", timing=True) as say:
        found = deployment.bench_files(
            original,
            candidate,
            options.as_mapping("--shape", shapes),
            ranges=options.as_mapping("--range", ranges),
            threads=threads,
            seconds=seconds,
            seed=seed,
            progress=say,
        )
    output.result(environment, found.to_dict(), benchmark.document, as_json=as_json)
    return Exit.DONE
