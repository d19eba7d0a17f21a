"""The command line: parse, call one function, print. Nothing heavy is imported before a command runs."""

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import FrameType

import click

from graphopt import __version__
from graphopt.cli import options
from graphopt.cli.environment import Environment, Exit
from graphopt.errors import GraphoptError

COMMANDS = (
    "capture",
    "corpus",
    "mine",
    "report",
    "show",
    "diff",
    "extract",
    "check",
    "apply",
    "explain",
    "passes",
    "run",
    "verify",
    "bench",
    "characterize",
    "machines",
    "calibrate",
    "profile",
)
"""Commands in the order of their use; each stands in a module of its name with a ``command``."""


HELP = """Find, rank and build operator fusions for a fleet of ONNX models.

\b
graphopt mine sample_graphs             which fusions would save the fleet most?
graphopt apply model.onnx -o fast.onnx  build those that pay, put them in a model
graphopt COMMAND --help                 options and examples of a command
"""


class Commands(click.Group):
    """The commands, each imported when it is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of their use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name; None when there is none."""
        if cmd_name not in COMMANDS:
            return None
        found = import_module(f"graphopt.cli.{cmd_name}").command
        assert isinstance(found, click.Command)
        return found


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=HELP,
    epilog="Exit codes: 0 done, 1 negative verdict, 2 usage, 3 bad input, 130 interrupted.",
)
@click.version_option(__version__, "-V", "--version", prog_name="graphopt", message="%(prog)s %(version)s")
def commands() -> None:
    """The group of all commands."""


def main(arguments: Sequence[str] | None = None, environment: Environment | None = None) -> int:
    """Run one command line.

    Args:
        arguments: what follows the program's name; None for this process's own.
        environment: the world to run in; None for this process's own.

    Returns:
        the exit code, one of ``Exit``.
    """
    world = environment or Environment.of_this_process()
    with (
        contextlib.redirect_stdout(world.stdout),
        contextlib.redirect_stderr(world.stderr),
        _warnings_in_a_line(world),
        _interruptible() as stopped,
    ):
        try:
            code = _invoke(list(sys.argv[1:] if arguments is None else arguments), world)
        except (KeyboardInterrupt, click.Abort):
            code = Exit.INTERRUPTED
        except BrokenPipeError:
            # The reader of our output has gone (``graphopt … | head``): nothing is wrong, and nothing can be said.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = Exit.DONE
        except GraphoptError as error:
            _complain(world, str(error))
            code = Exit.BAD_INPUT
        except OSError as error:
            if not error.filename:  # a full disk behind stdout: what is left in its buffer can go nowhere
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _complain(world, f"{error.filename or 'stdout'}: {error.strerror or error}")
            code = Exit.BAD_INPUT
        except MemoryError:
            _complain(world, "memory is too short for this")
            code = Exit.BAD_INPUT
        except Exception:
            # An interrupt inside of a library can come out as that library's own error.
            if not stopped:
                raise
            code = Exit.INTERRUPTED
        return Exit.INTERRUPTED if stopped else code


def _invoke(arguments: list[str], world: Environment) -> int:
    try:
        with commands.make_context("graphopt", arguments, obj=world) as context:
            code = commands.invoke(context)
    except click.exceptions.Exit as stop:  # --help and --version
        code = stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show(file=world.stdout)
        code = Exit.DONE
    except click.ClickException as error:
        error.show(file=world.stderr)
        code = Exit.USAGE
    world.stdout.flush()
    return code if isinstance(code, int) else Exit.DONE


def _complain(world: Environment, message: str, kind: str = "error") -> None:
    line = " ".join(message.split())
    print(f"graphopt: {kind}: {line}", file=world.stderr)


@contextlib.contextmanager
def _warnings_in_a_line(world: Environment) -> Iterator[None]:
    """Say Python's warnings in our own form, without source lines; not at all with ``-q``."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if not options.quiet():
            _complain(world, str(message), "warning")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt, and remember that they came.

    Staged files are removed on the way out. The list that is given holds the signals that came so far.
    """
    if threading.current_thread() is not threading.main_thread():
        yield []  # only the main thread is interrupted
        return
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    def unraisable(problem: "sys.UnraisableHookArgs") -> None:
        if came and issubclass(problem.exc_type, KeyboardInterrupt):
            # Python drops what is raised in a finaliser: it is raised again in a moment, when that has ended.
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            hook(problem)

    hook = sys.unraisablehook
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    sys.unraisablehook = unraisable
    try:
        yield came
    finally:
        sys.unraisablehook = hook
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
