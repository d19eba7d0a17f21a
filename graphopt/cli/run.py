"""``graphopt run``: run a model once, in onnxruntime or in the reference runtime."""

from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.progress import progress


@options.command(
    "run",
    "graphopt run fused.onnx",
    "graphopt run fused.onnx --runtime reference --no-kernels -o outputs.npz",
)
@options.input_file("model")
@options.shapes
@options.ranges
@click.option(
    "--runtime",
    type=click.Choice(["onnxruntime", "reference"]),
    default="onnxruntime",
    show_default=True,
    help="The reference runtime computes node by node, with the onnx reference evaluator where it can.",
)
@click.option(
    "--kernels/--no-kernels", default=True, help="Fused operators by their kernels, or by their function bodies."
)
@options.threads
@options.seed
@options.output("Write the outputs to this .npz file.")
@options.as_json
@options.pass_environment
def command(
    environment: Environment,
    model: Path,
    shapes: tuple[tuple[str, options.Shape], ...],
    ranges: tuple[tuple[str, options.Range], ...],
    runtime: str,
    kernels: bool,
    threads: int,
    seed: int,
    output_file: Path | None,
    as_json: bool,
) -> Exit:
    """Run a model once on seeded inputs and say what came out."""
    from graphopt.report import run
    from graphopt.runtime import deployment

    with progress(environment, "run", counted=False):
        found = deployment.run_file(
            model,
            options.as_mapping("--shape", shapes),
            runtime="reference" if runtime == "reference" else "onnxruntime",
            kernels=kernels,
            ranges=options.as_mapping("--range", ranges),
            threads=threads,
            seed=seed,
        )
    if output_file is not None:
        found.save(output_file)
    output.result(environment, found.to_dict(), run.document, as_json=as_json)
    return Exit.DONE
