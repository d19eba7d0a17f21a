"""The pieces that commands share: the command class with its examples, options, and the parsing of their values."""

import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from graphopt.cli.environment import Environment

Shape = tuple[int, ...]
Range = tuple[float, float]
Value = TypeVar("Value")
Function = TypeVar("Function", bound=Callable[..., Any])

View = Literal["executed", "portable", "raw"]
Accept = Literal["measured", "predicted", "all"]
VIEWS: tuple[View, ...] = ("executed", "portable", "raw")
pass_environment = click.make_pass_decorator(Environment)


class Command(click.Command):
    """A command with worked examples at the end of its help."""

    examples: tuple[str, ...] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, one a line, not rewrapped."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


def command(name: str, *examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A command of this name, with the options that every command has (``-v``, ``-q``, ``-h``) and its examples."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        made = click.command(name, cls=Command, context_settings={"help_option_names": ["-h", "--help"]})(
            _verbosity(function)
        )
        made.examples = examples
        return made

    return decorate


def _verbosity(function: Function) -> Function:
    quiet = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_log(logging.ERROR),
        help="Errors only.",
    )
    verbose = click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_log(logging.INFO),
        help="Say more.",
    )
    return quiet(verbose(function))


def _log(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
    """An option that lets through log records of at least this level (warnings, when neither option is given)."""

    def set_level(context: click.Context, parameter: click.Parameter, given: bool) -> None:
        logger = logging.getLogger("graphopt")
        environment = context.find_object(Environment)
        if environment is None or context.resilient_parsing:
            return
        if "graphopt.logging" not in context.meta:
            context.meta["graphopt.logging"] = True
            handler = logging.StreamHandler(environment.stderr)
            handler.setFormatter(logging.Formatter("graphopt: %(message)s"))
            logger.handlers[:] = [handler]
            logger.propagate = False
            logger.setLevel(logging.WARNING)
        if given:
            logger.setLevel(level)

    return set_level


def quiet() -> bool:
    """Whether ``-q`` was given."""
    return not logging.getLogger("graphopt").isEnabledFor(logging.WARNING)


def shape_of_input(text: str) -> tuple[str, Shape]:
    """``NAME=1x3x224x224``; ``NAME=`` is a scalar. Split at the last ``=``: names may hold one."""
    name, _, sizes = text.rpartition("=")
    parts = sizes.replace("×", "x").split("x") if sizes else []
    if not name or not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is not NAME=1x3x224x224 (whole numbers; nothing after = is a scalar)")
    return name, tuple(int(part) for part in parts)


def range_of_input(text: str) -> tuple[str, Range]:
    """``NAME=LOW:HIGH``; ``NAME=VALUE`` is that value. Split at the last ``=``: names may hold one."""
    name, _, bounds = text.rpartition("=")
    low, colon, high = bounds.partition(":")
    try:
        found = float(low), float(high if colon else low)
    except ValueError:
        found = 1.0, 0.0
    if not name or not found[0] <= found[1]:
        raise click.BadParameter(f"{text!r} is not NAME=LOW:HIGH or NAME=VALUE, with numbers")
    return name, found


def shapes(function: Function) -> Function:
    """``--shape NAME=1x3x224x224``, any number of them."""
    return click.option(
        "--shape",
        "shapes",
        type=shape_of_input,
        metavar="NAME=1x3x…",
        multiple=True,
        help="Shape of an input; repeat for every input. NAME= is a scalar.",
    )(function)


def as_mapping(option: str, pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """The values of a repeated option by name.

    Raises:
        click.UsageError: a name was given twice.
    """
    found: dict[str, Value] = {}
    for name, value in pairs:
        if name in found:
            raise click.UsageError(f"{option} {name} was given twice")
        found[name] = value
    return found


def ranges(function: Function) -> Function:
    """``--range NAME=LOW:HIGH``, any number of them."""
    return click.option(
        "--range",
        "ranges",
        type=range_of_input,
        metavar="NAME=LOW:HIGH",
        multiple=True,
        help="Values of an input: from LOW, below HIGH. NAME=VALUE is one value.",
    )(function)


def threads(function: Function) -> Function:
    """``--threads N``."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Threads of onnxruntime within an operator.",
    )(function)


def view(function: Function) -> Function:
    """``--view executed|portable|raw``."""
    return click.option(
        "--view",
        type=click.Choice(VIEWS),
        default="executed",
        show_default=True,
        help="The graph that onnxruntime executes on this machine, the one after its portable optimisations, "
        "or the one in the file.",
    )(function)


def machine(function: Function) -> Function:
    """``--machine NAME|FILE``."""
    return click.option(
        "--machine",
        metavar="NAME|FILE",
        help="Roofline machine: a name that 'graphopt machines list' shows, or a TOML file.",
    )(function)


def jobs(function: Function) -> Function:
    """``--jobs N``."""
    return click.option(
        "--jobs", type=click.IntRange(min=1), metavar="N", help="Worker processes; all processors when not given."
    )(function)


def redacted(function: Function) -> Function:
    """``--redact``."""
    return click.option(
        "--redact",
        "redacted",
        is_flag=True,
        help="Replace the names of all tensors, nodes and graphs, and drop comments and metadata.",
    )(function)


def as_json(function: Function) -> Function:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")(function)


def seed(function: Function) -> Function:
    """``--seed N``."""
    return click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        metavar="N",
        help="Seed of the inputs (and of dropped weights).",
    )(function)


def output(help_text: str, *, required: bool = False) -> Callable[[Function], Function]:
    """``-o FILE``."""
    return click.option(
        "-o",
        "--output",
        "output_file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        required=required,
        help=help_text,
    )


def path_or_stdin(text: str) -> Path:
    """A file that is read; ``-`` is standard input, copied to a temporary file that lives as long as the command.

    What is wrong with the file is found, and said, by what reads it (exit 3, not 2).
    """
    if text != "-":
        return Path(text)
    context = click.get_current_context()
    if context.meta.setdefault("graphopt.stdin", False):
        raise click.BadParameter("standard input can only be read once")
    context.meta["graphopt.stdin"] = True
    copy = Path(context.with_resource(tempfile.TemporaryDirectory(prefix="graphopt-"))) / "stdin"
    copy.write_bytes(context.ensure_object(Environment).stdin.buffer.read())
    return copy


def corpus_place(text: str) -> Path | str:
    """A corpus: a folder or a model, ``-`` for a model from standard input, or the URL of an observed corpus."""
    return text if "://" in text else path_or_stdin(text)


def corpus_to_write(text: str) -> Path | str:
    """A corpus that is written: a folder, or the URL of an observed corpus."""
    return text if "://" in text else Path(text)


def input_file(name: str, **settings: Any) -> Callable[[Function], Function]:
    """An argument that is a file to read."""
    return click.argument(name, type=path_or_stdin, **settings)


def input_corpus(name: str, **settings: Any) -> Callable[[Function], Function]:
    """An argument that is a corpus to read."""
    return click.argument(name, type=corpus_place, **settings)
