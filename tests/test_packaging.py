"""What ships: every package and every data file, from a checkout and from an install alike."""

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import graphopt

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS = {"graphopt": "graphopt", "mining": "graphopt.mining", "passes": "graphopt.passes"}
"""Folder at the top of the checkout: the package that it installs as."""


def package_of(folder: Path) -> str:
    top, *rest = folder.relative_to(ROOT).parts
    return ".".join([FOLDERS[top], *rest])


def source_files() -> list[Path]:
    return [
        path
        for top in FOLDERS
        for path in sorted((ROOT / top).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    ]


def test_every_folder_with_files_is_a_package_that_ships() -> None:
    found = {package_of(path.parent) for path in source_files()}
    assert found == set(SETUPTOOLS["packages"])


def test_every_data_file_ships() -> None:
    data = [path for path in source_files() if path.suffix != ".py"]
    assert data
    for path in data:
        patterns = SETUPTOOLS["package-data"].get(package_of(path.parent), [])
        assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), path


def test_packages_that_stand_elsewhere_are_mapped() -> None:
    for folder, package in FOLDERS.items():
        assert SETUPTOOLS["package-dir"][package] == folder


def test_a_bare_checkout_imports_every_package(tmp_path: Path) -> None:
    modules = [f"{package_of(path.parent)}.{path.stem}" for path in source_files() if path.suffix == ".py"]
    names = [name.removesuffix(".__init__") for name in modules if not name.endswith(".__main__")]
    script = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    )


def test_load_is_lazy_and_other_names_are_errors() -> None:
    from graphopt.runtime import session

    assert graphopt.load is session.load
    with pytest.raises(AttributeError, match="nonsense"):
        _ = graphopt.nonsense  # type: ignore[attr-defined]


def test_the_changelog_knows_the_version_or_has_unreleased_changes() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"[{graphopt.__version__}]" in changelog or "[Unreleased]" in changelog


def test_the_readme_has_exactly_two_commands_for_a_fresh_machine() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python3 -m venv .*$", readme, flags=re.MULTILINE)
    assert len(commands) == 2
    assert "graphopt mine sample_graphs" in commands[0]
    assert commands[1].startswith("python3 -m venv .venv-test ")
    assert "pytest" in commands[1]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "grep -m 1 '^python3 -m venv .venv-test ' README.md" in script
