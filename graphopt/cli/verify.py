"""``graphopt verify``: do two models compute the same numbers?"""

from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.progress import steps


@options.command(
    "verify",
    "graphopt verify model.onnx fused.onnx",
    "graphopt verify model.onnx fused.onnx --shape x=8x3x224x224 --batch 1 --batch 3",
)
@options.input_file("original")
@options.input_file("candidate")
@options.shapes
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(min=0),
    multiple=True,
    metavar="N",
    help="Also at this batch size, where it is free.",
)
@options.ranges
@options.threads
@options.seed
@options.as_json
@options.pass_environment
def command(
    environment: Environment,
    original: Path,
    candidate: Path,
    shapes: tuple[tuple[str, options.Shape], ...],
    batches: tuple[int, ...],
    ranges: tuple[tuple[str, options.Range], ...],
    threads: int,
    seed: int,
    as_json: bool,
) -> Exit:
    """Compare the outputs of two models on seeded inputs.

    Says the largest absolute and relative error of each output. Exit code 1 when one differs by more than rounding.
    """
    from graphopt.report import verification
    from graphopt.runtime import deployment

    with steps(environment, "verify") as say:
        found = deployment.verify_files(
            original,
            candidate,
            options.as_mapping("--shape", shapes),
            batches=batches,
            ranges=options.as_mapping("--range", ranges),
            threads=threads,
            seed=seed,
            progress=say,
        )
    output.result(environment, found.to_dict(), verification.document, as_json=as_json)
    return Exit.DONE if found.verification.passed else Exit.NEGATIVE
