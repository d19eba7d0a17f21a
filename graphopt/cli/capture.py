"""``graphopt capture``: store models with their shapes and executions in a corpus."""

from pathlib import Path
from typing import Literal

import click

from graphopt.cli import options
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.mine import warn
from graphopt.cli.progress import progress


@options.command(
    "capture",
    "graphopt capture model.onnx --corpus fleet --shape x=1x3x224x224 --executions 5000",
    "graphopt capture bert.onnx --corpus fleet --shape ids=8x128 --shape mask=8x128 --weights keep",
    "graphopt capture model.onnx --corpus s3://bucket/fleet --profile onnxruntime_profile.json --redact",
    "graphopt capture models.zip --corpus fleet --listing captures.csv",
    "graphopt capture program.pt2 --corpus fleet",
)
@options.input_file("source", metavar="MODEL|FOLDER|ARCHIVE")
@click.option(
    "--corpus",
    type=options.corpus_to_write,
    required=True,
    metavar="DIR|URL",
    help="Folder or URL of the corpus; made when missing.",
)
@options.shapes
@click.option("--executions", type=click.IntRange(min=1), help="How often it ran; once, when not given.")
@click.option(
    "--profile",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Profile that onnxruntime wrote while the model ran: it tells shapes and executions.",
)
@click.option(
    "--listing",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Shapes and executions of the models of a folder or archive, as TOML or CSV; "
    "its own captures.toml or captures.csv when not given.",
)
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
    source: Path,
    corpus: Path | str,
    shapes: tuple[tuple[str, options.Shape], ...],
    executions: int | None,
    profile: Path | None,
    listing: Path | None,
    name: str | None,
    ranges: tuple[tuple[str, options.Range], ...],
    view: options.View,
    weights: Literal["keep", "drop"],
    redacted: bool,
) -> Exit:
    """Store models with their shapes and executions in a corpus.

    Takes an ONNX model, a folder or an archive (zip, tar) of them, or a PyTorch program that torch.export saved. A
    corpus is a folder of .onnx files with a captures.toml, or what services write; docs/corpus.md describes both.
    """
    if profile is not None and (shapes or executions):
        raise click.UsageError("--profile tells shapes and executions: leave out --shape and --executions")
    many = source.is_dir() or source.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz")
    if many and (shapes or executions or ranges or profile or name):
        raise click.UsageError("a folder or archive takes shapes and executions from --listing")
    if listing is not None and source.suffix.lower() in (".onnx", ".pt2"):
        raise click.UsageError("--listing is for a folder or archive of models")
    from graphopt import importing

    with progress(environment, "capturing") as report:
        found = importing.capture(
            importing.Source(
                source,
                options.as_mapping("--shape", shapes),
                executions or 1,
                options.as_mapping("--range", ranges),
                profile,
                listing,
            ),
            importing.Target(corpus, name, view, weights, redacted),
            report,
        )
    warn(found.problems)
    for file in found.files:
        click.echo(file)
    return Exit.DONE
