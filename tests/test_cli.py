"""The command line as such: help, exit codes, streams, and what it does not import."""

import io
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import graphopt as package
from graphopt.cli import COMMANDS
from graphopt.cli.environment import Environment, Exit
from graphopt.cli.options import Command, shape_of_input
from tests.command_line import CommandLine

HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "scipy", "networkx", "rich", "google.protobuf")


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys\nfrom graphopt.cli import main\ncode = main(sys.argv[1:])\n"
        f"print(code, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "0 []"
    assert done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str, graphopt: CommandLine) -> None:
    outcome = graphopt(name, "--help")
    assert outcome.code == Exit.DONE
    assert "Examples:" in outcome.out
    assert f"graphopt {name}" in outcome.out.partition("Examples:")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_use_options_that_exist(name: str) -> None:
    command = import_module(f"graphopt.cli.{name}").command
    assert isinstance(command, Command)
    assert command.examples
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]} | {
        "--help"
    }
    for example in command.examples:
        assert len(example) <= 98, example
        for option in re.findall(r"(?<=\s)--?[a-z][\w-]*", example.partition(f"graphopt {name}")[2].partition("|")[0]):
            assert option in known, (example, option)


def test_help_lists_every_command(graphopt: CommandLine) -> None:
    outcome = graphopt("--help")
    assert outcome.code == Exit.DONE
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S.*[^.]\.?$", outcome.out, flags=re.MULTILINE)
    assert "..." not in outcome.out.partition("Commands:")[2]  # no summary is cut


def test_no_command_shows_help(graphopt: CommandLine) -> None:
    outcome = graphopt()
    assert outcome.code == Exit.DONE
    assert outcome.out.startswith("Usage: graphopt")


def test_version(graphopt: CommandLine) -> None:
    assert graphopt("--version").out == f"graphopt {package.__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["capture"],
        ["mine", "sample_graphs", "--nonsense"],
        ["mine", "sample_graphs", "--jobs", "0"],
        ["apply", "model.onnx", "--shape", "x"],
        ["apply", "model.onnx", "--shape", "x=1x2", "--shape", "x=1x3"],
        ["apply", "model.onnx", "--view", "nonsense"],
    ],
)
def test_usage_errors(words: list[str], graphopt: CommandLine) -> None:
    outcome = graphopt(*words)
    assert outcome.code == Exit.USAGE
    assert outcome.out == ""
    assert "Error: " in outcome.err


@pytest.mark.parametrize(
    ("text", "name", "shape"),
    [
        ("x=1x3x224x224", "x", (1, 3, 224, 224)),
        ("x=7", "x", (7,)),
        ("x=", "x", ()),
        ("a=b=2x3", "a=b", (2, 3)),
        ("serving_default:0=0x4", "serving_default:0", (0, 4)),
    ],
)
def test_shapes(text: str, name: str, shape: tuple[int, ...]) -> None:
    assert shape_of_input(text) == (name, shape)


@pytest.mark.parametrize("text", ["x", "=1x2", "x=1xx", "x=1x-2", "x=axb", "x=1.5", "x=x"])
def test_shapes_that_are_none(text: str, graphopt: CommandLine) -> None:
    assert graphopt("apply", "model.onnx", "--shape", text).code == Exit.USAGE


def test_errors_are_one_line(graphopt: CommandLine, tmp_path: Path) -> None:
    outcome = graphopt("mine", tmp_path / "missing")
    assert outcome.code == Exit.BAD_INPUT
    assert outcome.out == ""
    assert re.fullmatch(r"graphopt: error: [^\n]*missing[^\n]*\n", outcome.err)


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "graphopt", "machines", "show", "xeon-avx512"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == Exit.DONE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.parametrize("words", [["machines", "list"], ["machines", "list", "--json"]])
def test_a_full_disk_is_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "graphopt", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == Exit.BAD_INPUT
    assert done.stderr == "graphopt: error: stdout: No space left on device\n"


def test_the_environment_of_a_pipe_has_80_columns_and_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    world = Environment.of_this_process()
    assert world.width == 80
    assert not world.terminal
    assert world.jobs >= 1
