"""``graphopt mine``, ``report``, ``apply``, ``passes`` and ``machines``, on real graphs."""

import json
import os
import re
import shutil
from pathlib import Path

import onnx
import pytest

from graphopt.cli import mine as mine_command
from graphopt.cli.environment import Exit
from graphopt.runtime.session import read_metadata
from tests.command_line import CommandLine, Outcome
from tests.test_cli_models import hard_swish

FLEET = ("dlrm", "wide_and_deep", "mobilenet_v3_large")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of the sample graphs, with their captures."""
    source = Path(__file__).parent.parent / "sample_graphs"
    folder = tmp_path_factory.mktemp("fleet")
    for name in FLEET:
        shutil.copy(source / f"{name}.onnx", folder)
    (folder / "captures.toml").write_text(captures_of(source, FLEET))
    return folder


def captures_of(source: Path, names: tuple[str, ...]) -> str:
    head, *captures = re.split(r"^(?=\[\[capture\]\])", (source / "captures.toml").read_text(), flags=re.MULTILINE)
    wanted = {name: [c for c in captures if f'model = "{name}.onnx"' in c] for name in names}
    return "\n".join([head, *(capture for name in names for capture in wanted[name])])


@pytest.fixture(scope="module")
def mining(fleet: Path, tmp_path_factory: pytest.TempPathFactory, graphopt: CommandLine) -> tuple[Path, Outcome]:
    """The opportunities file, and what was printed."""
    path = tmp_path_factory.mktemp("mined") / "opportunities.json"
    return path, graphopt("mine", fleet, "-k", "5", "-o", path)


@pytest.fixture
def mined(mining: tuple[Path, Outcome]) -> Path:
    return mining[0]


def test_mine_prints_a_table_with_its_coverage(mining: tuple[Path, Outcome]) -> None:
    outcome = mining[1]
    assert outcome.code == Exit.DONE, outcome.err
    assert outcome.err == ""
    assert outcome.out.startswith("5 opportunities, ")
    assert "Gather → " in outcome.out
    words = " ".join(outcome.out.split())
    assert re.search(r"Coverage: these patterns take [\d.]+ % of the fleet's predicted time", words)
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "\x1b" not in outcome.out


def test_mine_gives_the_same_bytes_for_any_jobs_and_order(fleet: Path, tmp_path: Path, graphopt: CommandLine) -> None:
    written = tmp_path / "opportunities.json"
    first = graphopt("mine", fleet, "--json", "--jobs", "1", "-o", written)
    other = tmp_path / "other"
    other.mkdir()
    for name in reversed(FLEET):
        shutil.copy(fleet / f"{name}.onnx", other)
    (other / "captures.toml").write_text(captures_of(fleet, tuple(reversed(FLEET))))
    second = graphopt("mine", other, "--json", "--jobs", "3")
    assert (first.code, second.code) == (Exit.DONE, Exit.DONE), first.err + second.err
    assert first.out == second.out == written.read_text()
    report = json.loads(first.out)
    digests = [entry["digest"] for entry in report["opportunities"]]
    assert len(digests) == len(set(digests)) >= 5
    assert all(entry["verdict"] == "fusible" for entry in report["opportunities"])


def test_mine_lists_what_rules_stop(fleet: Path, graphopt: CommandLine) -> None:
    outcome = graphopt("mine", fleet, "--ruled-out", "-k", "2")
    assert outcome.code == Exit.DONE
    assert "Ruled out, with what they would be worth:" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80


def test_mine_of_one_model_needs_no_corpus(tmp_path: Path, graphopt: CommandLine) -> None:
    onnx.save(hard_swish(), tmp_path / "model.onnx")
    outcome = graphopt("mine", tmp_path / "model.onnx", "--view", "raw")
    assert outcome.code == Exit.DONE, outcome.err
    assert outcome.out.startswith("1 opportunity, ")
    assert "Add → Clip → Mul" in outcome.out


def test_mine_says_which_models_it_cannot_use(tmp_path: Path, graphopt: CommandLine) -> None:
    onnx.save(hard_swish(), tmp_path / "good.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    outcome = graphopt("mine", tmp_path)
    assert outcome.code == Exit.DONE
    assert re.fullmatch(r"graphopt: [^\n]*bad\.onnx: not an ONNX file[^\n]*\n", outcome.err)
    assert graphopt("mine", tmp_path, "-q").err == ""


@pytest.mark.parametrize(("text", "executions"), [("7", 7), ("5%", None), ("0.25", None), ("1/3", None)])
def test_support_is_a_number_or_a_share(text: str, executions: int | None) -> None:
    found = mine_command.support(text)
    assert found == executions if executions is not None else 0 < found < 1


@pytest.mark.parametrize("text", ["-1", "0.0", "150%", "many", "1/0"])
def test_support_that_is_none(text: str, tmp_path: Path, graphopt: CommandLine) -> None:
    assert graphopt("mine", tmp_path, "--min-support", text).code == Exit.USAGE


def empty(folder: Path) -> None:
    folder.mkdir()


def without_models(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("no models here")


def only_broken_models(folder: Path) -> None:
    folder.mkdir()
    (folder / "bad.onnx").write_bytes(b"nonsense")


def listing_a_missing_model(folder: Path) -> None:
    folder.mkdir()
    (folder / "captures.toml").write_text('schema_version = 1\n[[capture]]\nmodel = "missing.onnx"\n')


def with_a_broken_listing(folder: Path) -> None:
    folder.mkdir()
    onnx.save(hard_swish(), folder / "good.onnx")
    (folder / "captures.toml").write_text("this is no TOML")


def absent(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    "make", [empty, without_models, only_broken_models, listing_a_missing_model, with_a_broken_listing, absent]
)
def test_a_corpus_that_cannot_be_mined(make: object, tmp_path: Path, graphopt: CommandLine) -> None:
    make(tmp_path / "corpus")  # type: ignore[operator]
    outcome = graphopt("mine", tmp_path / "corpus", "-o", tmp_path / "new" / "opportunities.json")
    assert outcome.code == Exit.BAD_INPUT
    assert outcome.out == ""
    assert re.fullmatch(r"graphopt: error: [^\n]*corpus[^\n]*\n", outcome.err), outcome.err
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every folder")
def test_an_unreadable_folder(tmp_path: Path, graphopt: CommandLine) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    outcome = graphopt("mine", folder)
    assert outcome.code == Exit.BAD_INPUT
    assert re.fullmatch(r"graphopt: error: [^\n]*closed[^\n]*\n", outcome.err)


@pytest.mark.parametrize("words", [["mine", "{fleet}"], ["apply", "{fleet}/dlrm.onnx"]], ids=["mine", "apply"])
@pytest.mark.parametrize("machine", ["nonsense", "missing.toml", "{folder}/broken.toml"])
def test_an_unknown_machine(words: list[str], machine: str, fleet: Path, tmp_path: Path, graphopt: CommandLine) -> None:
    (tmp_path / "broken.toml").write_text("name = 'x'")
    name = machine.format(folder=tmp_path)
    target = tmp_path / "new" / "output"
    outcome = graphopt(*(word.format(fleet=fleet) for word in words), "--machine", name, "-o", target)
    assert outcome.code == Exit.BAD_INPUT
    assert re.fullmatch(rf"graphopt: error: [^\n]*{re.escape(Path(name).name)}[^\n]*\n", outcome.err), outcome.err
    assert not target.parent.exists()


def test_report_in_every_format(mined: Path, tmp_path: Path, graphopt: CommandLine) -> None:
    table = graphopt("report", mined)
    assert table.code == Exit.DONE, table.err
    assert table.out.startswith("5 opportunities, ")
    markdown = graphopt("report", mined, "--format", "markdown")
    assert markdown.out.startswith("## 5 opportunities, ")
    assert "| # | saving | before | after | faster | runs | captures | ops | pattern |" in markdown.out
    data = json.loads(graphopt("report", mined, "--format", "json").out)
    assert data == json.loads(mined.read_text())
    target = tmp_path / "report.md"
    assert graphopt("report", mined, "--format", "markdown", "-o", target).out == ""
    assert target.read_text() == markdown.out
    assert graphopt("report", "-", stdin=mined.read_bytes()).out == table.out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_report_fits_the_terminal(width: int, mined: Path, graphopt: CommandLine) -> None:
    outcome = graphopt("report", mined, width=width)
    assert max(map(len, outcome.out.splitlines())) <= max(width, 75)


def test_report_has_colour_on_a_terminal_only(mined: Path, graphopt: CommandLine) -> None:
    drawn = graphopt("report", mined, terminal=True).out
    assert "\x1b[" in drawn
    assert re.sub(r"\x1b\[[\d;]*m", "", drawn) == graphopt("report", mined).out


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        '{"kind": "nonsense", "schema_version": 1}',
        '{"kind": "opportunities", "schema_version": 99}',
        '{"kind": "opportunities", "schema_version": 1}',
        '{"kind": "plan", "schema_version": 1, "nodes": 3}',
        '{"kind": "benchmark", "schema_version": 1, "timings": [], "inputs": {}, "ratios": [], "threads": 1}',
        '{"kind": "verification", "schema_version": 1, "cases": 3}',
        '{"kind": "run", "schema_version": 1, "outputs": []}',
    ],
)
def test_report_of_what_is_none(text: str, tmp_path: Path, graphopt: CommandLine) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    outcome = graphopt("report", path)
    assert outcome.code == Exit.BAD_INPUT
    assert re.fullmatch(r"graphopt: error: [^\n]*result\.json: not [^\n]*\n|.*schema_version.*\n", outcome.err)


def test_apply_writes_a_model_its_kernels_and_a_plan(tmp_path: Path, graphopt: CommandLine) -> None:
    model, fused = tmp_path / "model.onnx", tmp_path / "fused.onnx"
    onnx.save(hard_swish(), model)
    outcome = graphopt("apply", model, "--shape", "x=64x16", "--accept", "all", "-o", fused)
    assert outcome.code == Exit.DONE, outcome.err
    assert outcome.out.startswith("model.onnx → fused.onnx\n")
    assert "1 fused operator in 1 place, kernels in fused.so" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.onnx",
        "fused.onnx",
        "fused.c",
        "fused.so",
        "fused.plan.json",
    }
    assert read_metadata(fused)["graphopt.kernels"] == "fused.so"
    plan = graphopt("report", tmp_path / "fused.plan.json")
    assert plan.out == outcome.out
    assert graphopt("verify", model, fused, "--shape", "x=64x16", "--batch", "1", "--batch", "3").code == Exit.DONE
    reference = json.loads(graphopt("run", fused, "--runtime", "reference", "--json").out)
    assert reference["executed"]["kernels"] == 1
    bodies = json.loads(graphopt("run", fused, "--runtime", "reference", "--no-kernels", "--json").out)
    assert bodies["executed"]["bodies"] == 1
    assert bodies["outputs"]["y"]["mean"] == pytest.approx(reference["outputs"]["y"]["mean"], rel=1e-4)
    (tmp_path / "fused.so").unlink()
    alone = graphopt("verify", model, fused)
    assert alone.code == Exit.DONE
    assert re.fullmatch(r"graphopt: warning: [^\n]*runs without its kernels[^\n]*\n", alone.err)


def test_apply_takes_opportunities(tmp_path: Path, graphopt: CommandLine) -> None:
    model, found = tmp_path / "model.onnx", tmp_path / "opportunities.json"
    chain = hard_swish()
    del chain.graph.node[0]  # the matrix product: what is left is element-wise
    for node in chain.graph.node:
        node.input[0] = node.input[0].replace("h", "x")
    onnx.save(chain, model)
    assert graphopt("mine", model, "-o", found).code == Exit.DONE
    words = ("apply", model, "--opportunities", found, "--accept", "all", "-o", tmp_path / "fused.onnx", "--json")
    plan = json.loads(graphopt(*words).out)
    assert plan["kind"] == "plan"
    assert len(plan["fused"]) == 1
    (tmp_path / "none.json").write_text("{}")
    words = ("apply", model, "--opportunities", tmp_path / "none.json", "-o", tmp_path / "other.onnx")
    outcome = graphopt(*words)
    assert outcome.code == Exit.BAD_INPUT
    assert "none.json" in outcome.err
    assert not (tmp_path / "other.onnx").exists()


@pytest.mark.parametrize("spec", ["nonsense", "fuse{top-k=many}", "fuse{nonsense=1}", "fuse{"])
def test_apply_with_a_pipeline_that_is_none(spec: str, tmp_path: Path, graphopt: CommandLine) -> None:
    onnx.save(hard_swish(), tmp_path / "model.onnx")
    outcome = graphopt("apply", tmp_path / "model.onnx", "--passes", spec, "-o", tmp_path / "fused.onnx")
    assert outcome.code == Exit.BAD_INPUT
    assert len(list(tmp_path.iterdir())) == 1


def test_passes_lists_every_pass_with_its_options(graphopt: CommandLine) -> None:
    listing = json.loads(graphopt("passes", "--json").out)
    drawn = graphopt("passes").out
    assert {"drop-initializer-inputs", "remove-dead-nodes", "fuse"} <= {entry["name"] for entry in listing}
    for entry in listing:
        assert entry["name"] in drawn
        assert all(option["name"] in drawn for option in entry["options"])


def test_machines(tmp_path: Path, graphopt: CommandLine) -> None:
    listing = json.loads(graphopt("machines", "list", "--json").out)
    assert "xeon-e5-2680-v4" in {machine["name"] for machine in listing}
    drawn = graphopt("machines").out
    for machine in listing:
        assert machine["name"] in drawn
        shown = graphopt("machines", "show", machine["name"])
        assert shown.code == Exit.DONE
        assert "peak float32" in shown.out
        assert max(map(len, shown.out.splitlines())) <= 80
        assert graphopt("machines", "validate", machine["source"]).code == Exit.DONE
    (tmp_path / "broken.toml").write_text("schema_version = 1\nname = 'x'\n")
    broken = graphopt("machines", "validate", tmp_path / "broken.toml")
    assert broken.code == Exit.BAD_INPUT
    assert re.fullmatch(r"graphopt: error: [^\n]*broken\.toml[^\n]*\n", broken.err)
    assert graphopt("machines", "show").code == Exit.USAGE
    assert graphopt("machines", "list", "x").code == Exit.USAGE
