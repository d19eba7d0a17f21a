"""``graphopt explain``: why operators of a model are fused, or not."""

import contextlib
import tempfile
from pathlib import Path

import click

from graphopt.cli import options, output
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.progress import steps


@options.command(
    "explain",
    "graphopt explain fused.onnx",
    "graphopt explain fused.plan.json Conv_12",
    "graphopt explain model.onnx --opportunities opportunities.json",
    "graphopt explain model.onnx --json | jq '.regions[] | select(.fused | not) | .reason'",
)
@options.input_file("model")
@click.argument("about", required=False)
@click.option(
    "--opportunities",
    type=options.path_or_stdin,
    metavar="FILE",
    help="Fuse the patterns of this file, which 'graphopt mine' wrote; what is below support or -k there stays.",
)
@options.as_json
@options.pass_environment
def command(
    environment: Environment, model: Path, about: str | None, opportunities: Path | None, as_json: bool
) -> Exit:
    """Say why operators are fused, or why not.

    MODEL is a model that 'graphopt apply' wrote, or its plan; any other model is fused in a temporary folder first.
    ABOUT is the name of a node, of a fused operator or the first digits of its identity; everything, when left out.
    For every candidate: whether it is fused, or the rule, the overlap, the lack of support or the measurement that
    stopped it, and what it would save.
    """
    from graphopt.report import explanation, files

    plan = model if model.suffix == ".json" else model.with_suffix(".plan.json")
    if opportunities is not None and plan.is_file():
        raise click.UsageError(f"{plan.name} was made already: --opportunities is for a model without a plan")
    with contextlib.ExitStack() as stack:
        if not plan.is_file():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-explain-")))
            plan = _planned(environment, model, opportunities, folder)
        data = files.read_kind(plan, "plan")
    found = files.checked(plan, lambda: explanation.explanation(data, about))
    output.result(environment, found, explanation.document, as_json=as_json)
    return Exit.DONE


def _planned(environment: Environment, model: Path, opportunities: Path | None, folder: Path) -> Path:
    """The plan of a model that was not fused yet."""
    from graphopt.passes.apply import apply
    from graphopt.runtime import deployment

    known = deployment.captured(model, {}, {})
    made = folder / "fused.onnx"
    with steps(environment, "explain", timing=True) as say:
        apply(
            model,
            made,
            opportunities=opportunities,
            shapes=known.shapes,
            executions=known.executions,
            ranges=known.ranges,
            progress=say,
        )
    return made.with_suffix(".plan.json")
