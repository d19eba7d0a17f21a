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
    "graphopt explain model.onnx --json | jq '.regions[] | select(.fused | not) | .reason'",
)
@options.input_file("model")
@click.argument("about", required=False)
@options.as_json
@options.pass_environment
def command(environment: Environment, model: Path, about: str | None, as_json: bool) -> Exit:
    """Say why operators are fused, or why not.

    MODEL is a model that 'graphopt apply' wrote, or its plan; any other model is fused in a temporary folder first.
    ABOUT is the name of a node, of a fused operator or the first digits of its identity; everything, when left out.
    For every candidate: whether it is fused, or the rule, the overlap or the measurement that stopped it, and what it
    would save.
    """
    from graphopt.report import explanation, files

    plan = model if model.suffix == ".json" else model.with_suffix(".plan.json")
    with contextlib.ExitStack() as stack:
        if not plan.is_file():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graphopt-explain-")))
            plan = _planned(environment, model, folder)
        data = files.read_kind(plan, "plan")
    found = files.checked(plan, lambda: explanation.explanation(data, about))
    output.result(environment, found, explanation.document, as_json=as_json)
    return Exit.DONE


def _planned(environment: Environment, model: Path, folder: Path) -> Path:
    """The plan of a model that was not fused yet."""
    from graphopt.passes.apply import apply
    from graphopt.runtime import deployment

    known = deployment.captured(model, {}, {})
    made = folder / "fused.onnx"
    with steps(environment) as say:
        apply(model, made, shapes=known.shapes, executions=known.executions, ranges=known.ranges, progress=say)
    return made.with_suffix(".plan.json")
