"""Where the machine code of compiled loops is kept: beside the source, in the user's cache folder, or nowhere."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numba import config

LOOP = """
from graphopt.mining.compiled import compiled

@compiled
def doubled(value):
    return 2 * value
"""


def doubled(folder: Path) -> Callable[[int], int]:
    """The loop, in a module of its own in this folder."""
    source = folder / "loops.py"
    source.write_text(LOOP, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("loops", source)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[[int], int] = module.doubled
    return found


@pytest.mark.parametrize(("beside", "in_cache"), [(True, True), (False, True), (False, False)])
def test_where_machine_code_is_kept(
    beside: bool, in_cache: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    if not beside:
        (source / "__pycache__").write_text("")  # a file: there can be no such folder
    if in_cache:
        cache.mkdir()
    else:
        cache.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(config, "CACHE_DIR", "")
    assert doubled(source)(21) == 42
    kept = {file.relative_to(tmp_path).parts[0] for file in tmp_path.rglob("*.nbi")}
    assert kept == ({"source"} if beside else {"cache"} if in_cache else set())
