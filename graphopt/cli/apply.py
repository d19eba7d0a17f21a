"""``graphopt apply``: fuse what pays into a model, with generated kernels."""

from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.progress import steps


def hand_written(text: str) -> tuple[str, Path]:
    """``DIGEST=DIR``: the first digits of a pattern's digest, and the folder of its bundle."""
    digest, equals, folder = text.partition("=")
    if not equals or not folder or len(digest) < 4 or set(digest.lower()) - set("0123456789abcdef"):
        raise click.BadParameter(f"{text!r} is not DIGEST=DIR, with at least four digits of the pattern's digest")
    return digest.lower(), Path(folder)


@options.command(
    "apply",
    "graphopt apply model.onnx -o fused.onnx",
    "graphopt apply model.onnx --opportunities opportunities.json --shape x=8x3x224x224 -o fused.onnx",
    "graphopt apply model.onnx --kernel e33a773e=bag -o fused.onnx",
    "graphopt apply model.onnx --passes 'drop-initializer-inputs,to-view,fuse{top-k=3}' --accept all",
)
@options.input_file("model")
@click.option(
    "--opportunities",
    type=options.path_or_stdin,
    metavar="FILE",
    help="Fuse the patterns of this file, which 'graphopt mine' wrote; without it, the model itself is searched.",
)
@click.option(
    "--kernel",
    "kernels",
    type=hand_written,
    metavar="DIGEST=DIR",
    multiple=True,
    help="Use the kernel of a bundle that 'graphopt extract' wrote in place of the generated one; repeat for several.",
)
@options.shapes
@options.ranges
@click.option("--passes", metavar="SPEC", help="Pipeline of passes; 'graphopt passes' lists them.")
@click.option(
    "--accept",
    type=click.Choice(["measured", "predicted", "all"]),
    default="measured",
    show_default=True,
    help="Keep a fusion if it is faster on this machine, if the roofline says so, or always.",
)
@options.machine
@click.option(
    "--view", type=click.Choice(options.VIEWS), help="View of the model that is written.  [default: executed]"
)
@click.option("--no-cache", is_flag=True, help="Compile every kernel, and keep none for other models.")
@options.threads
@options.seed
@options.output("The model to write; kernels and plan go beside it.  [default: MODEL's name with .fused.onnx]")
@options.as_json
@options.pass_environment
def command(
    environment: Environment,
    model: Path,
    opportunities: Path | None,
    kernels: tuple[tuple[str, Path], ...],
    shapes: tuple[tuple[str, options.Shape], ...],
    ranges: tuple[tuple[str, options.Range], ...],
    passes: str | None,
    accept: options.Accept,
    machine: str | None,
    view: options.View | None,
    no_cache: bool,
    threads: int,
    seed: int,
    output_file: Path | None,
    as_json: bool,
) -> Exit:
    """Fuse what pays into a model, with generated kernels.

    Writes a valid ONNX model that stock onnxruntime runs, the kernels in C, the kernel library and a plan that says
    what was fused, what was not and why. Without --shape, the captures.toml in the model's folder tells the shapes,
    else the model does.
    """
    from graphopt.passes import bundle
    from graphopt.passes.apply import apply
    from graphopt.report import plan
    from graphopt.runtime import deployment

    known = deployment.captured(model, options.as_mapping("--shape", shapes), options.as_mapping("--range", ranges))
    with steps(environment, "apply", timing=True) as say:
        made = apply(
            model,
            output_file or Path(f"{model.stem}.fused.onnx"),
            opportunities=opportunities,
            kernels=[bundle.read_kernel(folder, digest) for digest, folder in kernels],
            shapes=known.shapes,
            executions=known.executions,
            ranges=known.ranges,
            passes=passes,
            accept=accept,
            machine=machine,
            view=view,
            threads=threads,
            seed=seed,
            cache=not no_cache,
            progress=say,
        )
    output.result(environment, made.to_dict(), plan.document, as_json=as_json)
    return Exit.DONE
