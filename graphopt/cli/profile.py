"""``graphopt profile``: measured times of every operator beside predicted ones."""

from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.mine import warn
from graphopt.cli.progress import progress


@options.command(
    "profile",
    "graphopt profile model.onnx",
    "graphopt profile sample_graphs --machine my-machine.toml --top 50",
    "graphopt profile model.onnx --shape x=8x3x224x224 --json > profile.json",
)
@options.input_file("path", metavar="MODEL|CORPUS")
@options.shapes
@options.ranges
@options.machine
@options.view
@options.threads
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Time to spend on each set of shapes.",
)
@click.option(
    "--top", type=click.IntRange(min=0), default=20, show_default=True, metavar="N", help="Operators to list."
)
@options.seed
@options.output("Write the profile as JSON, too.")
@options.as_json
@options.pass_environment
def command(
    environment: Environment,
    path: Path,
    shapes: tuple[tuple[str, options.Shape], ...],
    ranges: tuple[tuple[str, options.Range], ...],
    machine: str | None,
    view: options.View,
    threads: int,
    seconds: float,
    top: int,
    seed: int,
    output_file: Path | None,
    as_json: bool,
) -> Exit:
    """Measure every operator and compare it with its prediction.

    Runs with onnxruntime's profiler and says for each operator how long it took, how long the roofline predicts, its
    bytes and operations per second, and how close that comes to the machine's peaks. Lists the operators that deviate
    most.
    """
    from graphopt import files
    from graphopt import machine as machines
    from graphopt.report import json
    from graphopt.report import profile as reports
    from graphopt.runtime.operator_profile import profile_files

    with progress(environment, "profile", timing=True) as report:
        found = profile_files(
            path,
            machines.load(*([machine] if machine else [])),
            shapes=options.as_mapping("--shape", shapes),
            ranges=options.as_mapping("--range", ranges),
            view=view,
            threads=threads,
            seconds=seconds,
            seed=seed,
            progress=report,
        )
    warn(found.problems)
    data = found.to_dict()
    if output_file is not None:
        files.write_text(output_file, json.text(data))
    output.result(environment, data, lambda document: reports.document(document, most=top), as_json=as_json)
    return Exit.DONE
