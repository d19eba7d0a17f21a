"""Kernels of random programs, run outside of onnxruntime and held against their operators one by one.

A kernel must give what the operators give one by one (``kernel_checks.compute``: the onnx reference evaluator, or
onnxruntime for its own operators). How far apart the numbers may lie follows from the program itself: each tensor is
changed by a few units in the last place, and what that does to the outputs is added up. Each kernel runs twice, the
second time with its units of work in reverse order and cut otherwise: the bytes must be the same. Constants of the
model are constants of the first plan, and no constants of another one.

``python -m tests.fuzzing LIBRARY`` runs a library built with sanitizers or under valgrind: the kernels of the programs
that ``write_programs`` left beside it.
``python -m tests.fuzzing coverage FIRST COUNT`` says what of the kernels' C the programs reach.
"""

import ctypes
import json
import pickle
import re
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from onnx import NodeProto

from graphopt.kernels import emit_library, find_compiler
from graphopt.kernels.compile import Level, flags_of, level_parts, levels
from graphopt.kernels.emit import KERNEL_SUPPORT, schedules_of, support
from graphopt.kernels.lower import lower
from graphopt.operators import table
from tests.kernel_checks import Array, Case, attributes, compute, random_values
from tests.random_programs import programs
from tests.sanitized import DRIVER

ULPS = 8
"""Units in the last place by which each tensor is changed."""
TOGETHER = 64
"""Kernels in one file."""

# ------------------------------------------------------------------ how far apart numbers may lie


def allowed(case: Case, expected: Mapping[str, Array]) -> dict[str, Array]:
    """For each output, how far from the expected value each element may lie: see the module's text."""
    random = np.random.default_rng(0)
    total = {name: np.zeros(expected[name].shape) for name in case.outputs}
    scale = {
        name: np.maximum(np.abs(expected[name]), max(1.0, _largest(expected[node.input[0]])))
        for node in case.nodes
        if node.op_type in CANCELLING
        for name in node.output
    }
    scale |= {node.output[0]: _absolute(case, node, expected) for node in case.nodes if node.op_type in SUMMING}
    scale |= {node.output[0]: _centred(node, expected) for node in case.nodes if node.op_type in CENTRING}
    for source in [name for name, value in expected.items() if value.dtype.kind == "f"]:
        worst = {name: np.zeros(expected[name].shape) for name in case.outputs}
        for changed in _perturbed(expected[source], scale.get(source, np.abs(expected[source])), random):
            with np.errstate(all="ignore"):
                found = _again(case, expected, {source: changed})
                for name in case.outputs:
                    apart = np.abs(found[name].astype(np.float64) - expected[name].astype(np.float64))
                    apart = np.where(np.isfinite(apart), apart, np.inf)  # at the edge of a domain anything comes out
                    same = (found[name] == expected[name]) | (np.isnan(found[name]) & np.isnan(expected[name]))
                    worst[name] = np.maximum(worst[name], np.where(same, 0, apart))
        for name in case.outputs:
            total[name] += worst[name]
    return total


def _perturbed(value: Array, scale: Array, random: np.random.Generator) -> Iterator[Array]:
    """A tensor with errors of some units in the last place; what they may make zero is zero once."""
    with np.errstate(all="ignore"):
        unit = ULPS * np.finfo(value.dtype).eps * scale
        # up or down at random, and all up: of two elements that cancel, errors may cancel as well
        for signs in (random.choice([-1.0, 1.0], value.shape), 1.0):
            yield np.asarray(value + signs * unit).astype(value.dtype)
        yield np.where((np.abs(value) <= unit) | np.isposinf(unit), np.zeros_like(value), value)
    if value.dtype == np.float16 and np.isinf(value).any():  # kernels keep in float32 what float16 cannot hold
        yield np.clip(value, np.finfo(value.dtype).min, np.finfo(value.dtype).max)


CANCELLING = {
    *("Gelu", "FastGelu", "HardSwish", "HardSigmoid", "Celu", "Elu", "Selu", "Mish", "LogSoftmax", "Sinh"),
    *("BiasGelu", "GRU", "LSTM"),
}
"""Operators that add up terms inside, of the size of one or of their operand, which may cancel."""
CONVOLUTIONS = {"Conv", "FusedConv"}
SUMMING = {"MatMul", "FusedMatMul", "TransposeMatMul", "Gemm", "FusedGemm"} | CONVOLUTIONS
"""Operators whose results have errors of the size of the sum of absolute products."""


def _absolute(case: Case, node: NodeProto, expected: Mapping[str, Array]) -> Array:
    """The sum of absolute products for each result; of a convolution the largest, which may be in the same tile.

    Infinite where finite products overflow: what comes out then follows from their order.
    """
    plain = NodeProto()
    plain.CopyFrom(node)
    del plain.attribute[:]
    plain.attribute.extend(a for a in node.attribute if not a.name.startswith("activation"))
    if node.op_type == "FusedGemm":  # needs an activation
        plain.op_type, plain.domain = "Gemm", ""
    known = [expected[name] if name else None for name in node.input]
    operands = [None if x is None else np.where(np.isfinite(x), np.abs(x), np.zeros_like(x)) for x in known]
    with np.errstate(all="ignore"):
        sums = compute(plain, operands, case.opset)[0]
    return np.full_like(sums, sums.max(initial=0)) if node.op_type in CONVOLUTIONS else sums


CENTRING = {"GroupNormalization", "InstanceNormalization"}
"""Operators whose results have errors of the size of their operands over the deviation: the mean is rounded."""


def _centred(node: NodeProto, expected: Mapping[str, Array]) -> Array:
    """What an operand as large as the largest of its group would give, less no mean."""
    x, factor = (expected[name].astype(np.float64) for name in node.input[:2])
    groups = int(attributes(node).get("num_groups", x.shape[1]))  # type: ignore[arg-type]
    flat = x.reshape(x.shape[0], groups, -1)
    with np.errstate(all="ignore"):
        each = np.abs(flat).max(2) / np.sqrt(flat.var(2) + 1e-5)
    each = np.repeat(each, x.shape[1] // groups, axis=1) * np.abs(np.repeat(factor, x.shape[1] // factor.size))
    return np.broadcast_to(each.reshape(*each.shape, *(1,) * (x.ndim - 2)), x.shape).astype(
        expected[node.output[0]].dtype
    )


def _largest(x: Array) -> float:
    finite = np.abs(x[np.isfinite(x)].astype(np.float64))
    return float(finite.max()) if finite.size else 0.0


def _again(case: Case, expected: Mapping[str, Array], changed: Mapping[str, Array]) -> dict[str, Array]:
    """All tensors where some are changed; what does not depend on them stays."""
    values = {**expected, **changed}
    touched = set(changed)
    for node in case.nodes:
        if touched.isdisjoint(node.input) or not touched.isdisjoint(node.output):
            continue
        results = compute(node, [values[name] if name else None for name in node.input], case.opset)
        values.update(zip(node.output, results, strict=True))
        touched.update(node.output)
    return values


def check(case: Case, expected: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    """What a kernel computed lies where it may."""
    bounds: dict[str, Array] | None = None
    for name in case.outputs:
        right, seen = expected[name], found[name]
        message = f"{case.name}, {name}: {[n.op_type for n in case.nodes]} on {right.dtype} {right.shape}"
        assert seen.dtype == right.dtype and seen.shape == right.shape, message
        same = (seen == right) | ((seen != seen) & (right != right))
        if same.all():
            continue
        assert right.dtype.kind == "f", f"{message}: {seen[~same][:4]} for {right[~same][:4]}"
        with np.errstate(all="ignore"):
            apart = np.abs(seen.astype(np.float64) - right.astype(np.float64))
            unit = np.maximum(np.abs(right.astype(np.float64)) * np.finfo(right.dtype).eps, np.finfo(right.dtype).tiny)
        if (same | (apart <= ULPS * unit)).all():
            continue
        bounds = allowed(case, expected) if bounds is None else bounds
        with np.errstate(all="ignore"):
            wrong = ~same & ~(apart <= 2 * bounds[name] + ULPS * unit) & ~np.isinf(bounds[name])
        assert not wrong.any(), f"{message}: {seen[wrong][:4]} for {right[wrong][:4]}, {bounds[name][wrong][:4]}"


# ------------------------------------------------------------------ running


class KernelError(Exception):
    """What a kernel says of inputs that it refuses."""


def build(
    cases: Sequence[Case],
    folder: Path,
    flags: Sequence[str] | None = None,
    compiler: Sequence[str] | None = None,
    most_pieces: int | None = None,
) -> Path:
    """A library of the programs' kernels with a function that runs them, made of parts of many kernels each.

    Args:
        cases: the programs.
        folder: where the library and its parts go.
        flags: of the compiler; None for those of a library that is used.
        compiler: its command; one is looked for when left out.
        most_pieces: boxes of loops that a plan keeps, where it is not as in libraries that are used.
    """
    command = list(compiler or find_compiler() or ["cc"])
    level = levels(command, portable=False)[0] if flags is None else Level("plain", ())
    chosen = list(flags_of(command, level) if flags is None else flags)
    fused = [case.fused() for case in cases]
    source = emit_library([lower(f.name, f.body, f.shapes) for f in fused], "fuzzing")
    parts = list(level_parts(source, level, TOGETHER))
    parts[0] += DRIVER
    if most_pieces is not None:
        parts = [re.sub(r"MAX_PIECES = [^,}]+", f"MAX_PIECES = {most_pieces} ", part) for part in parts]

    def compiled(number: int) -> str:
        part = folder / f"part{number}.c"
        part.write_text(parts[number])
        run = [*command, *chosen, "-c", part.name, "-o", f"part{number}.o"]
        subprocess.run(run, cwd=folder, check=True)
        return f"part{number}.o"

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, range(len(parts))))
    sanitizers = [flag for flag in chosen if flag.startswith("-fsanitize")]
    run = [*command, "-shared", "-pthread", *sanitizers, *objects, "-o", "fuzzing.so", "-lm"]
    subprocess.run(run, cwd=folder, check=True)
    return folder / "fuzzing.so"


@cache
def _loaded(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    loaded.sanitized_run.restype = ctypes.c_char_p
    return loaded


def run(
    library: Path, index: int, case: Case, expected: Mapping[str, Array], chunk: int, constant: Sequence[str] = ()
) -> dict[str, Array]:
    """What a kernel of the library computes from the case's inputs, so many units of work at a time.

    Args:
        library: of programs.
        index: of the kernel in the library.
        case: the program.
        expected: its tensors, for the shapes and types of the outputs.
        chunk: units of work at a time.
        constant: inputs that the plan may take as constants of the model.

    Raises:
        KernelError: when the kernel refuses the inputs.
    """
    inputs = [np.asarray(value, order="C") for value in case.feeds.values()]
    outputs = {name: np.empty(expected[name].shape, expected[name].dtype) for name in case.outputs}
    flat = [size for value in inputs for size in (value.ndim, *value.shape)]

    def pointers(arrays: Sequence[Array]) -> object:
        return (ctypes.c_void_p * max(1, len(arrays)))(*(array.ctypes.data for array in arrays))

    def sizes(arrays: Sequence[Array]) -> object:
        return (ctypes.c_int64 * max(1, len(arrays)))(*(array.nbytes for array in arrays))

    made = list(outputs.values())
    error = _loaded(library).sanitized_run(
        ctypes.c_int(index),
        (ctypes.c_int64 * max(1, len(flat)))(*flat),
        pointers(inputs),
        sizes(inputs),
        bytes(name in constant for name in case.feeds) or None,
        pointers(made),
        sizes(made),
        ctypes.c_int64(chunk),
    )
    if error is not None:
        raise KernelError(f"{case.name}: {error.decode()}")
    return outputs


def write_programs(library: Path, cases: Sequence[Case]) -> None:
    """Leave a library's programs beside it: another process may see another processor, and grow others."""
    (library.parent / PROGRAMS).write_bytes(pickle.dumps(list(cases)))


PROGRAMS = "programs.pickle"


def operators_of(cases: Sequence[Case]) -> set[str]:
    """The operators that stand in some programs, by their key in the table."""
    found = {f"{n.domain}.{n.op_type}" if n.domain else n.op_type for case in cases for n in case.nodes}
    return found & set(table())


def check_all(library: Path, cases: Sequence[Case]) -> None:
    """Every kernel of a library against its operators one by one."""
    for index, case in enumerate(cases):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check_one(library, index, case)


def check_one(library: Path, index: int, case: Case) -> None:
    """A kernel: with and without constants, at other shapes, with indices out of range."""
    expected, constant = case.expected(case.feeds), sorted(case.constant_inputs)
    check(case, expected, run(library, index, case, expected, 1 + index % 3, constant))
    if constant:
        check(case, expected, run(library, index, case, expected, 1 + index % 3))
    other = at_other_shapes(case, index)
    if other is not None:
        values = other.expected(other.feeds)
        check(other, values, run(library, index, other, values, 2, constant))
    refuses_what_is_out_of_range(library, index, case, expected)


def at_other_shapes(case: Case, seed: int) -> Case | None:
    """The program with another size wherever its most frequent one stands; None where it is no program then."""
    sizes = Counter(size for value in case.feeds.values() for size in value.shape if size > 1)
    if not sizes:
        return None
    ((size, _),) = sizes.most_common(1)
    picking = any(node.op_type == "Gather" for node in case.nodes)
    to = 1 if seed % 3 == 0 and not picking else size + 1
    feeds = {}
    for number, (name, value) in enumerate(case.feeds.items()):
        shape = [to if length == size else length for length in value.shape]
        again = random_values(shape, str(value.dtype), seed + number)
        kept = np.resize(value, shape) if value.dtype.kind in "iu" or not np.isfinite(value).all() else again
        feeds[name] = (kept / 8 if value.dtype == np.float32 else kept).astype(value.dtype)
    try:
        values = case.expected(feeds)
    except Exception:  # not the attributes for these sizes: evaluators say so in many ways
        return None
    if any(node.op_type.endswith(("Conv", "Pool")) and not values[node.output[0]].size for node in case.nodes):
        return None  # a window larger than its input
    for node in case.nodes:
        if node.op_type == "GroupNormalization" and values[node.input[0]].shape[1] % attributes(node)["num_groups"]:
            return None  # groups that channels do not fill, which the reference evaluator takes
    if any(node.op_type == "Pad" and _cuts_too_much(node, values) for node in case.nodes):
        return None  # pads that cut off more than there is, which onnxruntime refuses
    known = case.expected(case.feeds)
    same_ranks = all(values[name].ndim == known[name].ndim for name in case.outputs)
    return replace(case, feeds=feeds) if same_ranks else None


def _cuts_too_much(node: NodeProto, values: Mapping[str, Array]) -> bool:
    operands = [values[name] if name else None for name in (*node.input, "", "")]
    x, pads, axes = operands[0], operands[1], operands[3]
    assert x is not None and pads is not None
    along = range(x.ndim) if axes is None else axes.tolist()
    return any(
        x.shape[axis] + before + behind < 0 for axis, (before, behind) in zip(along, pads.reshape(2, -1).T, strict=True)
    )


def refuses_what_is_out_of_range(library: Path, index: int, case: Case, expected: Mapping[str, Array]) -> None:
    """An index outside of its table is an error, as in onnxruntime, wherever a result depends on it."""
    for node in case.nodes:
        if node.op_type != "Gather" or node.input[1] not in case.feeds or node.output[0] not in case.outputs:
            continue
        size = expected[node.input[0]].shape[dict(attributes(node)).get("axis", 0)]
        if not expected[node.output[0]].size:
            continue
        for wrong in (size, -size - 1, np.iinfo(np.int32).max):
            indices = case.feeds[node.input[1]].copy()
            indices.flat[-1] = wrong
            changed = replace(case, feeds={**case.feeds, node.input[1]: indices})
            try:
                run(library, index, changed, expected, 1)
            except KernelError as error:
                assert "outside of its tensor" in str(error), error
            else:
                raise AssertionError(f"{case.name}: takes index {wrong} of {size}")


# ------------------------------------------------------------------ what the programs reach

COVERED = ["-std=gnu99", "-O0", "-fPIC", "-pthread", "-ffp-contract=off", "--coverage"]
GCOV_DUMP = """
extern void __gcov_dump(void);
__attribute__((visibility("default"))) void write_coverage(void);
void write_coverage(void) { __gcov_dump(); }
"""
OWN_FILE = '#line 1 "kernels"'


def coverage(cases: Sequence[Case], folder: Path) -> Iterator[str]:
    """How often each kind of step stands in the kernels, and what of each C header ran: needs gcc and gcov."""
    lowered = [lower(f.name, f.body, f.shapes) for f in (case.fused() for case in cases)]
    steps = Counter(
        f"{type(step).__name__}, {'fitted' if schedule.guards or number else 'general'}"
        for program in lowered
        for number, schedule in enumerate(reversed(schedules_of(program)))
        for step in schedule.steps
    )
    yield from (f"{count:8d}  steps {kind}" for kind, count in sorted(steps.items()))
    flags = [*COVERED, *levels(["gcc"], portable=False)[0].flags]
    total: dict[str, dict[str, tuple[int, int, int]]] = {}
    for start in range(0, len(cases), TOGETHER):
        place = folder / f"from{start}"
        place.mkdir()
        source = emit_library(lowered[start : start + TOGETHER], "coverage").whole() + DRIVER + GCOV_DUMP
        for name in KERNEL_SUPPORT:
            text = support(name)
            source = source.replace(text, f'#line 1 "{name}"\n{text}\n{OWN_FILE}\n')
        (place / "k.c").write_text(source)
        subprocess.run(["gcc", *flags, "-c", "k.c", "-o", "k.o"], cwd=place, check=True)
        subprocess.run(["gcc", "-shared", "--coverage", "k.o", "-o", "k.so", "-lm"], cwd=place, check=True)
        check_all(place / "k.so", cases[start : start + TOGETHER])
        _loaded(place / "k.so").write_coverage()
        printed = subprocess.run(["gcov", "-j", "-t", "k.o"], cwd=place, check=True, capture_output=True)
        for file in json.loads(printed.stdout)["files"]:
            if file["file"] in KERNEL_SUPPORT:
                known = total.setdefault(file["file"], {})
                for function in file["functions"]:
                    runs, reached, blocks = known.get(function["name"], (0, 0, 0))
                    found = (runs + function["execution_count"], max(reached, function["blocks_executed"]))
                    known[function["name"]] = (*found, max(blocks, function["blocks"]))
    for name, functions in total.items():
        reached, blocks = (sum(f[k] for f in functions.values()) for k in (1, 2))
        ran = sum(1 for f in functions.values() if f[0])
        yield f"{name}: {ran} of {len(functions)} functions, {100 * reached // max(1, blocks)} % of blocks"
        never = sorted(name for name, f in functions.items() if not f[0])
        if never:
            yield f"    never: {', '.join(never)}"


if __name__ == "__main__":
    if sys.argv[1] == "coverage":
        chosen = programs(int(sys.argv[2]), int(sys.argv[3]))
        with tempfile.TemporaryDirectory() as name:
            print(*coverage(chosen, Path(name)), sep="\n")
    else:
        kernels = Path(sys.argv[1])
        check_all(kernels, pickle.loads((kernels.parent / PROGRAMS).read_bytes()))
        print("clean")
