"""The C of the kernels: free of warnings and of a model's names, the same every time, vectorised, sanitised."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper

import graphopt.kernels
from graphopt.errors import GraphoptError
from graphopt.graph import Node, OperatorGraph, Tensor
from graphopt.kernels import FusedOperator, build_library, find_compiler, lowerable, write_source
from graphopt.kernels.compile import FLAGS
from graphopt.operators import table
from graphopt.operators.blocked import block_size
from graphopt.operators.lowering import Elementwise
from tests import sanitized
from tests.kernel_checks import BLOCKED, DTYPES, FUSED, Case, Feeds, open_session, random_values
from tests.kernel_patterns import random_pattern

THREE = ("Clip", "Where")
TWO = {"Add", "Sub", "Mul", "Div", "Mod", "Pow", "Sum", "Max", "Min", "Mean", "Equal", "Less", "LessOrEqual", "Greater"}
TWO |= {"GreaterOrEqual", "And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "PRelu", "BiasGelu"}
BOOLEAN_RESULT = {
    "Equal",
    "Less",
    "LessOrEqual",
    "Greater",
    "GreaterOrEqual",
    "IsNaN",
    "IsInf",
    "And",
    "Or",
    "Xor",
    "Not",
}
BOOLEAN = {"And", "Or", "Xor", "Not"}
BITS = {"BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift"}
SCALAR = {"Pow", "Mod", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"}
"""Operators that call a function of libm for each element."""


@pytest.fixture(scope="module")
def compiler() -> list[str]:
    found = find_compiler()
    if found is None:
        pytest.skip("no C compiler")
    return found


def _single(key: str, dtype: str, name: str) -> FusedOperator:
    """A body of one element-wise operator."""
    domain, _, op_type = key.rpartition(".")
    count = 3 if op_type in THREE else 2 if op_type in TWO else 1
    inputs = tuple(f"x{slot}" for slot in range(count))
    tensors = {x: Tensor(x, dtype, 2) for x in inputs}
    if op_type == "Where":
        tensors["x0"] = Tensor("x0", "bool", 2)
    if op_type == "CastLike":
        inputs = ("x0", "x1")
        tensors["x1"] = Tensor("x1", dtype, 2)
    tensors["y"] = Tensor("y", "bool" if op_type in BOOLEAN_RESULT else dtype, 2)
    attributes = {"to": int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))} if op_type == "Cast" else {}
    if op_type == "Mod":
        attributes = {"fmod": 1}
    node = Node("n", domain, op_type, 21, inputs, ("y",), {**attributes, "direction": "LEFT"})
    body = OperatorGraph("b", (node,), tensors, tuple(x for x in inputs if op_type != "CastLike" or x == "x0"), ("y",))
    return FusedOperator(name, body)


def _lowered(dtypes: tuple[str, ...]) -> list[FusedOperator]:
    """Every element-wise operator for every dtype that it has a kernel for."""
    keys = [key for key, operator in sorted(table().items()) if isinstance(operator.lowering, Elementwise)]
    found = [_single(key, dtype, f"{key.replace('.', '_')}_{dtype}") for key in keys for dtype in dtypes]
    return [fused for fused in found if lowerable(fused.body) is None]


def _patterns(count: int, first: int = 50_000) -> list[Case]:
    cases = [
        random_pattern(f"pattern{seed}", seed).case(0, shaped=seed % 2 == 0) for seed in range(first, first + count)
    ]
    return [case for case in cases if lowerable(case.body()) is None]


def _meaningful(fused: FusedOperator) -> bool:
    """Whether the operator exists for the dtype (a table row does not say so)."""
    op_type, dtype = fused.body.nodes[0].op_type, fused.body.tensors[fused.body.inputs[-1]].dtype
    if op_type in BOOLEAN:
        return dtype == "bool"
    if op_type in BITS:
        return dtype in (*DTYPES["signed"], *DTYPES["unsigned"])
    if op_type in ("Where", "Identity", "Cast", "Equal"):
        return True
    if op_type in ("Relu", "Neg"):
        return dtype in (*DTYPES["real"], *DTYPES["signed"])
    arithmetic = {"Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "Abs", "Sign", "Clip"}
    if op_type in arithmetic | {"Less", "LessOrEqual", "Greater", "GreaterOrEqual"}:
        return dtype != "bool"
    return dtype in DTYPES["real"]


def test_no_warnings(tmp_path: Path, compiler: list[str]) -> None:
    dtypes = ("float32", "float64", "float16", "int8", "int64", "uint16", "uint64", "bool")
    operators = [fused for fused in _lowered(dtypes) if _meaningful(fused)]
    assert len(operators) > 200
    write_source([*operators, *(case.fused() for case in _patterns(30))], tmp_path / "all.c", "all kernels")
    flags = ["-std=gnu99", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-c", "-pthread"]
    done = subprocess.run(
        [*compiler, *flags, "all.c", "-o", "all.o"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[:3000]


@pytest.mark.skipif(shutil.which("clang") is None, reason="no clang")
def test_no_warnings_from_clang(tmp_path: Path) -> None:
    test_no_warnings(tmp_path, ["clang"])


def test_loops_vectorise(tmp_path: Path, compiler: list[str]) -> None:
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False).stdout
    if "clang" in version or not ("gcc" in version.lower() or "Free Software Foundation" in version):
        pytest.skip("the compiler is not gcc")
    operators = [f for f in _lowered(("float32", "bool", "uint32")) if _meaningful(f)]
    real = [f for f in operators if f.name.endswith("float32") or f.body.nodes[0].op_type in BOOLEAN | BITS]
    write_source(real, tmp_path / "v.c", "vectorised")
    command = [
        *compiler,
        *FLAGS,
        "-shared",
        "-march=native",
        "-fno-ipa-icf",
        "-fopt-info-vec-optimized",
        "v.c",
        "-o",
        "v.so",
        "-lm",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    vectorised = {int(line) for line in re.findall(r"v\.c:(\d+):\d+: optimized: loop vectorized", done.stderr)}
    kernel, wrong = "", []
    for line, text in enumerate((tmp_path / "v.c").read_text().splitlines(), 1):
        found = re.match(r"static void (\w+)_nest0_compute0\(", text)
        kernel = found.group(1) if found else kernel
        if text.strip() == "VECTORISED" and kernel:
            if not vectorised & {line, line + 1, line + 2}:
                wrong.append(kernel)
            kernel = ""
    scalar = {name for name in wrong if name.rpartition("_")[0].rpartition("_")[2] not in SCALAR}
    assert not scalar, sorted(scalar)


HOSTILE = (
    "*/ int evil(void) { return 1; } /*",
    'quote " and \\ backslash',
    "new\nline #include <evil.h>",
    "??/ trigraph",
    "\u202e right to left",
    "per%cent %s %n",
    "x" * 5000,
)


def test_no_name_of_a_model_reaches_the_source(tmp_path: Path, compiler: list[str]) -> None:
    for number, evil in enumerate(HOSTILE):
        x, y, hidden, gone = (f"{evil}{part}" for part in ("x", "y", "hidden", "gone"))
        nodes = (
            helper.make_node("Relu", [x], [hidden], name=evil),
            helper.make_node("Split", [hidden], [y, gone], axis=0, num_outputs=2),
        )
        case = Case("kernel", nodes, {x: random_values((4, 2), "float32", 0)}, (y, gone))
        source = tmp_path / f"hostile{number}.c"
        write_source([case.fused()], source, "library")
        text = source.read_text()
        assert "evil" not in text
        assert evil[:6] not in text[text.index("KERNELS */") :]
        write_source([case.fused()], source, f"library of {evil}")
        assert max(len(line) for line in text.splitlines()) < 1000
        done = subprocess.run(
            [*compiler, "-fsyntax-only", "-Wall", "-Werror", source], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_names_do_not_change_the_source(tmp_path: Path) -> None:
    texts = []
    for prefix in ("a", "some/model/layer.7/"):
        x, t, y = (prefix + part for part in "xty")
        nodes = (helper.make_node("Neg", [x], [t]), helper.make_node("Add", [t, x], [y]))
        write_source(
            [Case("kernel", nodes, {x: np.array([1, 2], np.float32)}, (y,)).fused()], tmp_path / "k.c", "title"
        )
        texts.append((tmp_path / "k.c").read_bytes())
    assert texts[0] == texts[1]


def test_a_name_that_is_no_identifier_is_refused(tmp_path: Path) -> None:
    body = Case("k", (helper.make_node("Neg", ["x"], ["y"]),), {"x": np.array([1], np.float32)}, ("y",)).body()
    for name in ("", "a b", "é", 'x"', "1x"):
        with pytest.raises(Exception, match="identifier"):
            write_source([FusedOperator(name, body)], tmp_path / "k.c", "title")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.test_kernels_c import _patterns;"
        "from graphopt.kernels import write_source;"
        "write_source([c.fused() for c in _patterns(12)], Path(sys.argv[1]), 'same')"
    )
    sources = []
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.c"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        root = Path(__file__).parent.parent
        subprocess.run([sys.executable, "-c", program, str(path)], check=True, cwd=root, env=environment)
        sources.append(path.read_bytes())
    assert sources[0] == sources[1]


def test_a_missing_compiler_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc")
    fused = Case("k", (helper.make_node("Neg", ["x"], ["y"]),), {"x": np.array([1], np.float32)}, ("y",)).fused()
    assert find_compiler() is None
    with pytest.raises(GraphoptError, match=r"no C compiler found: .*CC") as error:
        build_library([fused], tmp_path, "k")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "k.so").exists()


def test_a_compiler_that_fails_is_one_clear_line(tmp_path: Path) -> None:
    fused = Case("k", (helper.make_node("Neg", ["x"], ["y"]),), {"x": np.array([1], np.float32)}, ("y",)).fused()
    with pytest.raises(GraphoptError) as error:
        build_library([fused], tmp_path, "k", compiler=["false"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("first", "count", "kind"),
    [
        (70_000, 30, ""),
        (70_000, 6, "contraction"),
        *(pytest.param(71_000 + 100 * n, 100, "", marks=pytest.mark.slow) for n in range(20)),
        *(pytest.param(71_000 + 100 * n, 100, "contraction", marks=pytest.mark.slow) for n in range(5)),
    ],
)
def test_sanitizers_find_nothing(tmp_path: Path, compiler: list[str], first: int, count: int, kind: str) -> None:
    runtime = subprocess.run([*compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    preload = runtime.stdout.strip()
    if not Path(preload).is_file():
        pytest.skip("no address sanitizer to preload")
    chosen = sanitized.contractions(first, count) if kind else sanitized.cases(first, count)
    write_source([case.fused() for _, case in chosen], tmp_path / "s.c", "sanitized")
    with (tmp_path / "s.c").open("a") as file:
        file.write(sanitized.DRIVER)
    flags = ["-std=gnu99", "-O1", "-g", "-fPIC", "-shared", "-pthread", "-ffp-contract=off"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([*compiler, *flags, "s.c", "-o", "s.so", "-lm"], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.sanitized", str(tmp_path / "s.so"), str(first), str(count), "6", *kind.split()],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.strip() == "clean", (done.stdout + done.stderr)[-6000:]


# ------------------------------------------------------------------ storage shared with an input


def _chain_model(case: Case, between: list[str], feeds: Feeds) -> bytes:
    """A copy of the input, operators that look at it, then the kernel: the last use, so it may take the storage."""
    shape, (first, *others) = feeds["x"].shape, case.outputs
    tensors = [helper.make_tensor_value_info(name, 1, shape) for name in ("copy", first)]
    nodes = [
        helper.make_node("Neg", ["x"], ["copy"]),
        *(helper.make_node(op, ["copy"], [f"seen{n}"]) for n, op in enumerate(between)),
        helper.make_node(case.name, ["copy", *list(feeds)[1:]], list(case.outputs), domain=FUSED),
        helper.make_node("Abs", [first], ["absolute"]),
    ]
    inputs = [helper.make_tensor_value_info(name, 1, value.shape) for name, value in feeds.items()]
    seen = (f"seen{n}" for n in range(len(between)))
    outputs = [helper.make_tensor_value_info(name, 1, None) for name in ("absolute", *others, *seen)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, value_info=tensors)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(FUSED, 1)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())


def _in_place_cases() -> list[tuple[Case, list[Feeds]]]:
    """Cases with the inputs that they are run on."""
    x, large = random_values((6, 6), "float32", 0), random_values((300, 300), "float32", 3)
    bias, long = random_values((6,), "float32", 1), random_values((300,), "float32", 4)
    row = random_values((1, 6), "float32", 5)
    blocked = random_values((2, 2 * block_size(), 2 * block_size(), 2 * block_size()), "float32", 6)
    node = helper.make_node
    plain = [{"x": x, "b": bias}, {"x": large, "b": long}]
    turned = (
        node("ReorderOutput", ["x"], ["t"], domain=BLOCKED, channels=blocked.shape[1], channels_last=1),
        node("ReorderInput", ["t"], ["y"], domain=BLOCKED),
    )
    return [
        (Case("chain", (node("Add", ["x", "b"], ["t"]), node("Mul", ["t", "x"], ["y"])), plain[0], ("y",)), [*plain]),
        (
            Case("flipped", (node("Transpose", ["x"], ["t"]), node("Add", ["x", "t"], ["y"])), {"x": x}, ("y",)),
            [{"x": large}],
        ),
        (Case("broadcast", (node("Add", ["x", "b"], ["y"]),), {"x": row, "b": bias}, ("y",)), [*plain]),
        # the same shape, but other places: the kernel must notice and read from a copy
        (Case("turned", turned, {"x": blocked}, ("y",)), [{"x": blocked}]),
        # outputs of one shape in the example and of two when it runs: the second is computed after the first is written
        (
            Case(
                "two",
                (node("Add", ["x", "b"], ["y"]), node("Mul", ["x", "c"], ["z"])),
                {"x": x, "b": bias, "c": x},
                ("y", "z"),
            ),
            [{"x": x, "b": bias, "c": -x}, {"x": row, "b": bias, "c": x}],
        ),
    ]


IN_PLACE = {case.name: (case, feeds) for case, feeds in _in_place_cases()}


@pytest.fixture(scope="module")
def in_place(tmp_path_factory: pytest.TempPathFactory, compiler: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("in_place")
    return build_library([case.fused() for case, _ in IN_PLACE.values()], folder, "in_place")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("between", [[], ["Exp"], ["Identity", "Relu"]])
@pytest.mark.parametrize("name", IN_PLACE)
def test_an_output_in_the_storage_of_an_input(in_place: Path, name: str, between: list[str], threads: int) -> None:
    case, runs = IN_PLACE[name]
    for feeds in runs:
        session = open_session(_chain_model(case, between, feeds), in_place, threads)
        values = case.expected({**feeds, "x": -feeds["x"]})
        for _ in range(3):
            first, *found = session.run(None, dict(feeds))
            np.testing.assert_array_equal(first, np.abs(values[case.outputs[0]]))
            for output in case.outputs[1:]:
                np.testing.assert_array_equal(found.pop(0), values[output])
            for op, seen in zip(between, found, strict=True):
                x = values["x"]
                right = np.exp(x) if op == "Exp" else np.maximum(x, 0) if op == "Relu" else x
                np.testing.assert_allclose(seen, right, rtol=1e-6)


def test_which_kernels_offer_to_overwrite(tmp_path: Path) -> None:
    write_source([case.fused() for case, _ in IN_PLACE.values()], tmp_path / "k.c", "k")
    row = r'\{"(\w+)", \d+, \d+,[^}]*\},[^}]*\}, [^}]*\},\s*\(const int\[\]\)\{([-0-9, ]+)\}'
    rows = re.findall(row, (tmp_path / "k.c").read_text())
    offered = {name: int(overwrites.split(",")[0]) for name, overwrites in rows}
    assert offered == {"chain": 0, "flipped": -1, "broadcast": 0, "turned": 0, "two": 0}


def test_an_older_runtime_is_named() -> None:
    """The library asks for an interface that this onnxruntime has; the version it needs stands in its message."""
    assert tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) >= (1, 18)


def test_no_part_lets_the_compiler_fuse_the_rounding_of_what_follows() -> None:
    """clang keeps a pragma of file scope until the next: each that allows contraction is taken back."""
    for path in (Path(graphopt.kernels.__file__).parent / "c").glob("*.h"):
        said = re.findall(r"#pragma clang fp contract\((\w+)\)", path.read_text())
        assert said == ["fast", "off"] * (len(said) // 2), path.name
