"""From C to a kernel library: finds a compiler and calls it."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from graphopt.errors import GraphoptError

FLAGS = (
    "-std=gnu99",
    # -O3 does no better on flat loops and takes three times as long over the rest
    "-O2",
    "-ftree-vectorize",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-pthread",
    # exact IEEE arithmetic, but no errno and no floating-point traps: both would keep loops scalar
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
)
OPTIONAL_FLAGS = (("-march=native",), ("-mprefer-vector-width=512",), ("-fvect-cost-model=dynamic",))
"""Flags that some compilers or machines lack: each is tried first."""


def find_compiler() -> list[str] | None:
    """The command of a C compiler: ``$CC``, cc, gcc, clang, or ziglang from PyPI; None without one."""
    chosen = os.environ.get("CC", "").strip()
    if chosen:
        command = shlex.split(chosen)
        return command if shutil.which(command[0]) else None
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    return None


def compile_library(source: Path, library: Path, compiler: list[str] | None = None) -> list[str]:
    """Compile one C file into a shared library.

    Returns:
        the command that was run, without the paths.

    Raises:
        GraphoptError: without a compiler, or when it fails (with its first error line).
    """
    command = compiler or find_compiler()
    if command is None:
        raise GraphoptError("no C compiler found: set CC, or install gcc, clang or the PyPI package ziglang")
    flags = [*FLAGS, *_accepted(tuple(command))]
    done = subprocess.run(
        [*command, *flags, str(source), "-o", str(library), "-lm"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["failed"]
        raise GraphoptError(f"{' '.join(command)}: {lines[0]}")
    return [*command, *flags]


@cache
def _accepted(command: tuple[str, ...]) -> tuple[str, ...]:
    """The machine-specific flags that this compiler takes."""
    accepted: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text("int probe(void) { return 0; }\n")
        for flags in OPTIONAL_FLAGS:
            trial = [*command, *accepted, *flags, "-Werror", "-c", str(source), "-o", str(Path(folder) / "probe.o")]
            if subprocess.run(trial, capture_output=True, check=False).returncode == 0:
                accepted += flags
    return tuple(accepted)
