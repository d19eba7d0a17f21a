"""The HTML report: one page, the numbers of the JSON in it, names as data; and in a browser: sorts and filters."""

import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt import machine
from graphopt.cli.environment import Exit
from graphopt.report import html
from graphopt.report.html.elements import element, text
from graphopt.report.html.graph import layout
from graphopt.report.html.source import highlighted
from graphopt.report.realised import realised
from tests.command_line import CommandLine
from tests.mined_report import HOSTILE, opportunities

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, and its text."""

    VOID = frozenset({"meta", "input", "br", "link"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return opportunities()


@pytest.fixture(scope="module")
def page(data: dict[str, Any]) -> str:
    return html.render(data, machine.load(data["machine"]))


def test_the_page_holds_the_numbers_of_the_json(data: dict[str, Any], page: str) -> None:
    rows = [row for row in Page(page).all("tr") if "data-digest" in row]
    entries = [*data["opportunities"], *data["ruled_out"]]
    assert [row["data-digest"] for row in rows] == [entry["digest"] for entry in entries]
    for row, entry in zip(rows, entries, strict=True):
        assert float(row["data-share"] or "") == entry["share"]
        assert int(row["data-runs"] or "") == entry["executions"]
        assert float(row["data-before"] or "") == pytest.approx(entry["seconds_before"] / entry["executions"])


def test_the_page_loads_nothing_and_is_the_same_each_time(data: dict[str, Any], page: str) -> None:
    found = Page(page)
    assert not any("src" in attributes for _, attributes in found.elements)
    assert not found.all("link")
    assert all((link["href"] or "").startswith("#") for link in found.all("a"))
    assert page == html.render(opportunities(), machine.load(data["machine"]))


def test_names_of_models_are_text(page: str) -> None:
    found = Page(page)
    assert len(found.all("script")) == 1
    assert any(HOSTILE in words for words in found.words)


def test_each_opportunity_has_its_pattern_and_its_roofline(data: dict[str, Any], page: str) -> None:
    entries = [*data["opportunities"], *data["ruled_out"]]
    found = Page(page)
    kinds = [drawing.get("class") for drawing in found.all("svg")]
    assert kinds.count("pattern") == kinds.count("roofline") == len(entries)
    assert sum(group.get("class") == "operator" for group in found.all("g")) == sum(e["size"] for e in entries)
    edges = [line for line in found.all("path") if line.get("class") == "edge"]
    assert len(edges) == sum(len(entry["edges"]) for entry in entries)


def test_without_a_known_machine_there_are_no_ceilings(data: dict[str, Any]) -> None:
    lines = Page(html.render(data, None)).all("line")
    assert lines
    assert not any(line.get("class") == "ceiling" for line in lines)


def test_an_empty_report_is_a_page(data: dict[str, Any]) -> None:
    empty = {**data, "opportunities": [], "ruled_out": []}
    assert "0 opportunities" in " ".join(Page(html.render(empty)).words)


def test_two_hundred_opportunities_are_under_three_megabytes(data: dict[str, Any]) -> None:
    entry = max(data["opportunities"], key=lambda one: one["size"])
    shapes = entry["shapes"][:1] * 32
    many = [{**entry, "digest": f"{number:064x}", "shapes": shapes} for number in range(200)]
    source = "int main(void) { return 0; } /* a kernel */\n" * 300
    sources = {one["digest"]: source for one in many}
    page = html.render({**data, "opportunities": many}, machine.load(data["machine"]), sources=sources)
    assert len(page.encode()) < 3_000_000


def test_measured_times_stand_beside_predicted_ones(data: dict[str, Any]) -> None:
    entry, other = data["opportunities"][:2]
    example = entry["shapes"][0]
    example["model"] = "swish"
    won = {
        "occurrences": [example["nodes"]] * 2,
        "measured_seconds": {"before": 4e-3, "after": 1e-3, "interval": [3.5, 4.5]},
    }
    lost = {
        "nodes": [other["shapes"][0]["nodes"]],
        "occurrences": 1,
        "reason": "slower",
        "measured_seconds": {"before": 1e-3, "after": 2e-3},
    }
    plans = [
        {"model": "swish.onnx", "fused": [won], "not_fused": []},
        {"model": "products.onnx", "fused": [], "not_fused": [lost]},
    ]
    found = realised(data, plans)
    assert found[entry["digest"]].before == 2e-3
    assert found[entry["digest"]].kept and not found[other["digest"]].kept
    words = " ".join(Page(html.render(data, realised=found)).words)
    assert "2.00 ms → 500 µs, 4.00× (3.50× – 4.50×) in swish" in words
    assert "1.00 ms → 2.00 ms, 0.50× in products; not kept: slower" in words


def test_source_is_highlighted_and_whole() -> None:
    source = '#include <math.h>\nstatic const float two = 2.0f; /* <b> & */ const char *s = "</pre>";\n'
    pre = highlighted(source)
    assert "".join(pre.itertext()) == source
    assert {part.get("class") for part in pre.iter("span")} == {"c", "k", "n", "s"}
    assert "<b>" not in text(pre)


@given(st.text(), st.text())
def test_elements_escape_whatever_they_hold(words: str, name: str) -> None:
    made = Page(text(element("p", words, element("b", words), words, title=name)))
    assert [tag for tag, _ in made.elements] == ["p", "b"]


@given(st.integers(1, 8), st.randoms(use_true_random=False))
def test_layout_keeps_boxes_apart_and_edges_down(count: int, random: Any) -> None:
    edges = [(i, 0, j, 0) for i in range(count) for j in range(i + 1, count) if random.random() < 0.4]
    widths = [random.uniform(20, 90) for _ in range(count)]
    found = layout(widths, edges)
    layer = {place[0]: at for at, places in enumerate(found.layers) for place in places if place[1] < 0}
    assert sorted(layer) == list(range(count))
    assert all(layer[edge[0]] < layer[edge[2]] for edge in edges)
    for places in found.layers:
        for left, right in pairwise(places):
            gap = found.centres[right] - found.centres[left]
            assert gap >= (found.widths[left] + found.widths[right]) / 2
    assert all(0 <= found.centres[p] - found.widths[p] / 2 <= found.width for places in found.layers for p in places)


def test_report_writes_the_page(graphopt: CommandLine, tmp_path: Path, data: dict[str, Any]) -> None:
    source, target = tmp_path / "opportunities.json", tmp_path / "report.html"
    source.write_text(json.dumps(opportunities()))
    outcome = graphopt("report", source, "--format", "html", "-o", target)
    assert outcome.code == Exit.DONE, outcome.err
    assert target.read_text("utf-8") == html.render(opportunities(), machine.load(data["machine"]))
    broken = opportunities()
    del broken["opportunities"][0]["labels"]
    source.write_text(json.dumps(broken))
    outcome = graphopt("report", source, "--format", "html")
    assert outcome.code == Exit.BAD_INPUT
    assert "'labels' is missing" in outcome.err
    assert graphopt("report", source, "--plan", source).code == Exit.USAGE


# ------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, page: str) -> Iterator[Any]:
    """The page in Chromium, with the list of what its console said."""
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page, encoding="utf-8")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        opened = chromium.new_page(viewport={"width": 1200, "height": 900})
        said: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.goto(path.as_uri())
        yield opened, said
        chromium.close()


DIGESTS = "[...document.querySelectorAll('#table tbody tr:not([hidden])')].map(row => row.dataset.digest)"


def test_the_page_sorts_in_a_browser(browser: Any, data: dict[str, Any]) -> None:
    opened, said = browser
    entries = [*data["opportunities"], *data["ruled_out"]]
    for key, of in (("share", "share"), ("size", "size"), ("runs", "executions")):
        button = opened.locator(f"th button[data-key={key}]")
        button.focus()
        opened.keyboard.press("Enter")
        rising = [entry["digest"] for entry in sorted(entries, key=lambda entry: entry[of])]
        assert opened.evaluate(DIGESTS) == rising
        assert opened.locator(f"th.c-{key}").get_attribute("aria-sort") == "ascending"
        button.click()
        falling = [entry["digest"] for entry in sorted(entries, key=lambda entry: -entry[of])]
        assert opened.evaluate(DIGESTS) == falling
    opened.locator("th button[data-key=rank]").click()
    assert opened.evaluate(DIGESTS) == [entry["digest"] for entry in entries]
    assert said == []


def test_the_page_filters_in_a_browser(browser: Any, data: dict[str, Any]) -> None:
    opened, said = browser
    entries = [*data["opportunities"], *data["ruled_out"]]
    opened.fill("#filter", "MATMUL ruled")
    wanted = [e["digest"] for e in entries if "MatMul" in e["operators"] and e["rule"]]
    assert wanted and opened.evaluate(DIGESTS) == wanted
    assert opened.locator("#shown").inner_text() == f"{len(wanted)} of {len(entries)}"
    opened.fill("#filter", "")
    assert len(opened.evaluate(DIGESTS)) == len(entries)
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_light_and_dark(browser: Any, scheme: str) -> None:
    opened, said = browser
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": 390, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    text_colour, back = opened.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert text_colour != back
    assert said == []
