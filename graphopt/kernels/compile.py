"""From C to a kernel library: finds a compiler, compiles the parts side by side and links them.

A library holds its kernels for one or several *levels* of instruction sets and chooses when it is loaded. Each part (a
kernel, or what all kernels share) is compiled by itself for each level, and kept in the object cache.
"""

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from graphopt.errors import GraphoptError
from graphopt.kernels.emit import INCLUDES, PRAGMAS, Source, kernel_support, support
from graphopt.kernels.object_cache import ObjectCache

FLAGS = (
    "-std=gnu99",
    # -O3 does no better on flat loops and takes three times as long over the rest
    "-O2",
    "-ftree-vectorize",
    "-fopenmp-simd",
    "-fPIC",
    "-fvisibility=hidden",
    "-pthread",
    # exact IEEE arithmetic, but no errno and no floating-point traps: both would keep loops scalar
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
)
OPTIONAL_FLAGS = ("-fvect-cost-model=dynamic",)
"""Flags that some compilers lack."""

NATIVE_VARIABLE = "GRAPHOPT_NATIVE"
"""Set to 1, libraries are compiled for the processor at hand alone, with all that it has."""
LEVEL_VARIABLE = "GRAPHOPT_LEVEL"
"""Names the one level that libraries are compiled for, to compare levels on one processor."""


@dataclass(frozen=True)
class Level:
    """Instruction sets that a library may be compiled for.

    Attributes:
        name: as it stands in the C.
        flags: of the compiler.
        optional: flags that some compilers lack.
        needs: names in /proc/cpuinfo of what a processor must have.
    """

    name: str
    flags: tuple[str, ...]
    optional: tuple[str, ...] = ()
    needs: frozenset[str] = frozenset()


AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt", "-mpopcnt")
AVX512_FLAGS = (*AVX2_FLAGS, "-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl")
AVX2_NEEDS = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2"})
AVX512_NEEDS = AVX2_NEEDS | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
PLAIN = Level("plain", ())
X86_LEVELS = (
    Level("avx512", AVX512_FLAGS, ("-mprefer-vector-width=512",), AVX512_NEEDS),
    Level("avx2", AVX2_FLAGS, (), AVX2_NEEDS),
    PLAIN,
)
"""Best first; the last runs anywhere."""
NATIVE = Level("native", ("-march=native",), ("-mprefer-vector-width=512",))


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


def levels(compiler: Sequence[str], portable: bool) -> tuple[Level, ...]:
    """The levels that a library is compiled for.

    Args:
        compiler: its command.
        portable: all levels of the compiler's machine; else only the best that this processor has.

    Raises:
        GraphoptError: when the environment names a level that there is not.
    """
    chosen = os.environ.get(LEVEL_VARIABLE, "")
    if chosen:
        named = [level for level in X86_LEVELS if level.name == chosen]
        if not named:
            names = ", ".join(level.name for level in X86_LEVELS)
            raise GraphoptError(f"{LEVEL_VARIABLE} is {chosen!r}, which is no level: {names}")
        return tuple(named)
    if os.environ.get(NATIVE_VARIABLE, "") not in ("", "0"):
        return (NATIVE,)
    if not _targets_x86(tuple(compiler)):
        return (PLAIN,)
    if portable:
        return X86_LEVELS
    known = processor_flags()
    return (next(level for level in X86_LEVELS if level.needs <= known),) if known else X86_LEVELS


def flags_of(compiler: Sequence[str], level: Level) -> list[str]:
    """All flags that a part is compiled with at a level."""
    optional = [flag for flag in (*OPTIONAL_FLAGS, *level.optional) if _accepts(tuple(compiler), flag)]
    return [*FLAGS, *optional, *level.flags]


def compile_library(
    source: Source,
    library: Path,
    compiler: list[str] | None = None,
    *,
    portable: bool = False,
    objects: ObjectCache | None = None,
    together: int = 1,
) -> None:
    """Compile a kernel library.

    Args:
        source: its C.
        library: the file to make.
        compiler: its command; one is looked for when left out.
        portable: for every level of instruction sets; else for the best that this processor has.
        objects: parts compiled before; None to compile all.
        together: kernels in one part (see ``level_parts``).

    Raises:
        GraphoptError: without a compiler, or when it fails (with its first error line).
    """
    command = compiler or find_compiler()
    if command is None:
        raise GraphoptError("no C compiler found: set CC, or install gcc, clang or the PyPI package ziglang")
    chosen = levels(command, portable)
    parts: list[tuple[str, list[str]]] = [(_dispatch_part(chosen), flags_of(command, PLAIN))]
    for level in chosen:
        flags = flags_of(command, level)
        parts += [(text, flags) for text in level_parts(source, level, together)]
    # Two interruptions in a row leave a compiler running, which still writes.
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".compile-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with ThreadPoolExecutor(max_workers=_processors()) as pool:
            jobs = [
                pool.submit(_object, command, flags, text, folder / f"part{number}.o", objects)
                for number, (text, flags) in enumerate(parts)
            ]
            try:
                files = [job.result() for job in jobs]
            finally:
                pool.shutdown(cancel_futures=True)
        listing = folder / "objects.txt"  # there may be more than a command line takes
        listing.write_text("\n".join(f'"{file}"' for file in files))
        _run([*command, "-shared", "-pthread", f"@{listing}", "-o", str(library), "-lm"])


# --------------------------------------------------------------------------------------------------------- the parts


def level_parts(source: Source, level: Level, together: int = 1) -> Iterator[str]:
    """Everything of a library at one level: what kernels share, the list of them, and the kernels.

    Args:
        source: the library's C.
        level: where it runs.
        together: kernels in one part. One makes the cache useful; many compile faster.
    """
    common = kernel_support()
    shared = _SHARED.findall(common)
    begin = [f"#define LEVELS(X) X({level.name})", f"#define LEVEL(name) name##_{level.name}"]
    begin += [PRAGMAS, '#define SHARED __attribute__((visibility("hidden")))']
    begin += [f"#define {name} LEVEL({name})" for name in (*shared, "KERNELS", "KERNEL_COUNT", "TILE_FAMILIES")]
    whole = [INCLUDES, support("onnxruntime_abi.h", "level.h", "instructions.h"), common, support("library.h")]
    declarations = ["#define KERNELS_ONLY", _SHARED_BODY.sub(r"\g<1>;", common)]

    def names(kernels: Sequence[tuple[str, str]]) -> list[str]:
        return [f"#define {name}_kernel LEVEL({name}_kernel)" for name, _ in kernels]

    yield "\n".join([*begin, *whole])
    yield "\n".join([*begin, *names(source.kernels), *declarations, source.table()])
    named = [f"#define {name} LEVEL({name})" for name in dict.fromkeys(_FAMILY.findall("\n".join(source.tiles)))]
    for tiles in source.tiles:
        used = [line for line in named if line.split()[1] in tiles]
        yield "\n".join([*begin, *used, *declarations, tiles])
    for start in range(0, len(source.kernels), together):
        group = source.kernels[start : start + together]
        yield "\n".join([*begin, *names(group), *declarations, *(text for _, text in group)])


_SHARED = re.compile(r"^SHARED [^(;]*?(\w+)\(", re.MULTILINE)
_SHARED_BODY = re.compile(r"^(SHARED [^{;]*?)\n\{.*?^\}", re.MULTILINE | re.DOTALL)
_FAMILY = re.compile(r"^extern const tile_family (\w+);", re.MULTILINE)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def _dispatch_part(chosen: Sequence[Level]) -> str:
    names = " ".join(f"X({level.name})" for level in chosen)
    begin = [f"#define LEVELS(X) {names}", "#define LEVEL(name) name", INCLUDES]
    return "\n".join([*begin, support("onnxruntime_abi.h", "level.h", "dispatch.h")])


def _object(command: Sequence[str], flags: Sequence[str], text: str, file: Path, objects: ObjectCache | None) -> Path:
    """The object file of one part, from the cache where it is known."""
    stripped = _COMMENT.sub(" ", text)  # example shapes stand in comments, and change nothing
    native = _predefined(tuple(command)) if "-march=native" in flags else ""
    words = [_identity(tuple(command)), native, *flags, stripped]
    key = hashlib.sha256("\0".join(words).encode()).hexdigest()
    if objects is not None and objects.fetch(key, file):
        return file
    part = file.with_suffix(".c")
    part.write_text(text)
    _run([*command, *flags, "-c", str(part), "-o", str(file)])
    if objects is not None:
        objects.store(key, file)
    return file


# ------------------------------------------------------------------------------------------------------ the compiler


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["failed"]
        raise GraphoptError(f"{command[0]}: {lines[0]}")


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def processor_flags() -> frozenset[str]:
    """What this processor has, by Linux's names; empty where that is unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


def uses_matrix_unit() -> bool:
    """Whether kernels use a matrix unit here (see ``c/matrix_unit.h``)."""
    wished = os.environ.get("GRAPHOPT_MATRIX_UNIT", "") != "off"
    compiled = os.environ.get(LEVEL_VARIABLE, "") in ("", "avx512")
    return wished and compiled and {"amx_tile", "amx_bf16", "avx512_bf16", "avx512f"} <= processor_flags()


@cache
def _identity(command: tuple[str, ...]) -> str:
    """The compiler: its command, place and version."""
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return "\n".join([*command, shutil.which(command[0]) or "", done.stdout])


@cache
def _targets_x86(command: tuple[str, ...]) -> bool:
    return "__x86_64__" in _predefined(command, native=False)


@cache
def _predefined(command: tuple[str, ...], native: bool = True) -> str:
    """The compiler's predefined macros, which tell what it may use."""
    march = ["-march=native"] if native else []
    done = subprocess.run(
        [*command, *march, "-dM", "-E", "-x", "c", os.devnull], capture_output=True, text=True, check=False
    )
    return done.stdout


@cache
def _accepts(command: tuple[str, ...], flag: str) -> bool:
    """Whether the compiler takes a flag."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text("int probe(void) { return 0; }\n")
        trial = [*command, flag, "-Werror", "-c", str(source), "-o", str(Path(folder) / "probe.o")]
        return subprocess.run(trial, capture_output=True, check=False).returncode == 0
