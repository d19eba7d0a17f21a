"""What all tests share: the command line in a world of its own, and the switch for long tests."""

import io
import os
import tempfile
from pathlib import Path

import pytest

from graphopt.cli import main
from graphopt.cli.environment import Environment
from graphopt.kernels import find_compiler
from graphopt.kernels.compile import LEVEL_VARIABLE, levels
from tests.command_line import CommandLine, Outcome

ROOT = Path(__file__).parent.parent

# compiled kernels of the tests stay out of the user's cache
_CACHE = tempfile.TemporaryDirectory(prefix="graphopt-tests-")
os.environ.setdefault("GRAPHOPT_CACHE", _CACHE.name)

# what ``apply`` writes in tests holds one level of instruction sets: it compiles in a third of the time
_COMPILER = find_compiler()
if _COMPILER is not None:
    os.environ.setdefault(LEVEL_VARIABLE, levels(_COMPILER, portable=False)[0].name)


@pytest.fixture
def all_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of libraries as users get them, with every level."""
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--golden", action="store_true", help="write the golden files of reports anew")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes; --slow runs it"))


@pytest.fixture(autouse=True)
def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests leave the user's log of predictions alone."""
    monkeypatch.setenv("GRAPHOPT_LOG", "off")


@pytest.fixture(scope="session")
def graphopt() -> CommandLine:
    """Call it with the words of a command line (and ``stdin=`` bytes)."""

    def call(*words: object, stdin: bytes = b"", width: int = 80, terminal: bool = False) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        world = Environment(
            stdin=io.TextIOWrapper(io.BytesIO(stdin)),
            stdout=out,
            stderr=err,
            terminal=terminal,
            width=width,
            jobs=1,
        )
        code = main([str(word) for word in words], world)
        return Outcome(int(code), out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def sample_graphs() -> Path:
    """The folder of the sample fleet."""
    return ROOT / "sample_graphs"
