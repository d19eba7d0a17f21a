"""``graphopt capture``: store a model with its shapes and executions in a corpus."""

from pathlib import Path
from typing import Literal

import click

from graphopt.cli import options
from graphopt.cli.environment import Environment, Exit


@options.command(
    "capture",
    "graphopt capture model.onnx --corpus fleet --shape x=1x3x224x224 --executions 5000",
    "graphopt capture bert.onnx --corpus fleet --shape ids=8x128 --shape mask=8x128 --weights keep",
)
@options.input_file("model")
@click.option(
    "--corpus", type=click.Path(path_type=Path), required=True, help="Folder of the corpus; made when missing."
)
@options.shapes
@click.option("--executions", type=click.IntRange(min=1), default=1, show_default=True, help="How often it ran.")
@click.option("--name", help="What the corpus calls it; the file's name when not given.")
@options.ranges
@click.option(
    "--view",
    type=click.Choice(options.VIEWS),
    default="raw",
    show_default=True,
    help="Store the model as it is, or as this onnxruntime executes it here (executed) or anywhere (portable). "
    "A raw model is brought to the view that is wanted when the corpus is read.",
)
@click.option(
    "--weights",
    type=click.Choice(["keep", "drop"]),
    default="drop",
    show_default=True,
    help="Store the weights, or only their shapes (seeded values take their place where the model must run).",
)
@options.redacted
@options.pass_environment
def command(
    environment: Environment,
    model: Path,
    corpus: Path,
    shapes: tuple[tuple[str, options.Shape], ...],
    executions: int,
    name: str | None,
    ranges: tuple[tuple[str, options.Range], ...],
    view: options.View,
    weights: Literal["keep", "drop"],
    redacted: bool,
) -> Exit:
    """Store a model with its shapes and executions in a corpus.

    A corpus is a folder of .onnx files with a captures.toml; docs/file-formats.md describes it.
    """
    from graphopt import corpus as store

    stored = store.add(
        corpus,
        model,
        options.as_mapping("--shape", shapes),
        name=name,
        executions=executions,
        view=view,
        weights=weights,
        ranges=options.as_mapping("--range", ranges),
        redacted=redacted,
    )
    click.echo(stored)
    return Exit.DONE
