"""The page: the fleet, a table of opportunities that sorts and filters, and a section for each of them."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from graphopt.machine import Machine
from graphopt.report import opportunities
from graphopt.report.html import chart, graph
from graphopt.report.html.elements import Child, element
from graphopt.report.html.frame import asset, page
from graphopt.report.html.source import highlighted
from graphopt.report.numbers import count, percent, plural, seconds, times
from graphopt.report.opportunity import MOST_SHAPES, signature
from graphopt.report.plan import chain
from graphopt.report.realised import Realised

MOST_RULED_OUT = 10
"""Patterns that the fleet's section shows of those ruled out; the table has all."""

MOST_SOURCE = 250_000
"""Characters of generated C in a page; those of the best opportunities are shown."""

SORTED_BY = (
    ("rank", "#"),
    ("pattern", "pattern"),
    ("share", "saving"),
    ("before", "before"),
    ("after", "after"),
    ("faster", "faster"),
    ("runs", "runs"),
    ("captures", "captures"),
    ("size", "operators"),
    ("verdict", "verdict"),
)
"""Columns of the table of opportunities: the key of a row's number, and the heading."""


def render(
    data: Mapping[str, Any],
    machine: Machine | None = None,
    *,
    realised: Mapping[str, Realised] | None = None,
    sources: Mapping[str, str] | None = None,
) -> str:
    """The page of an opportunities file.

    Args:
        data: JSON of kind ``opportunities``.
        machine: the roofline behind it, for the charts' ceilings.
        realised: by digest, what was measured.
        sources: by digest, the generated C.
    """
    entries = [*data["opportunities"], *data["ruled_out"]]
    title = f"{plural(len(data['opportunities']), 'opportunity', 'opportunities')} of a fleet"
    room = MOST_SOURCE
    sections = []
    for number, entry in enumerate(entries, 1):
        source = (sources or {}).get(entry["digest"], "")
        room -= len(source)
        measured = (realised or {}).get(entry["digest"])
        sections.append(_section(number, entry, machine, measured, source if room >= 0 else ""))
    return page(
        title,
        element("a", "Skip to the opportunities", href="#opportunities", class_="skip"),
        element("header", element("h1", title), element("p", _about(data))),
        element(
            "main",
            _fleet(data),
            element("h2", "Opportunities", id="opportunities"),
            _table(entries),
            *sections,
        ),
        element("script", asset("page.js")),
    )


def _about(data: Mapping[str, Any]) -> str:
    return (
        f"{plural(data['captures'], 'capture')} of {plural(data['graphs'], 'graph')}, "
        f"{plural(data['executions'], 'execution')}, {seconds(data['seconds'])} by the roofline of {data['machine']}. "
        f"Patterns of 2 to {data['max_size']} operators with a support of {count(data['min_support'])} or more."
    )


# ----------------------------------------------------------------------------------------------------------- the fleet


def _fleet(data: Mapping[str, Any]) -> Element:
    total = data["seconds"] or 1.0
    shares = [entry["share"] for entry in data["opportunities"]]
    parts: list[Child] = [element("h2", "Fleet")]
    figures: list[Child] = []
    if data.get("classes"):
        rows = [
            (entry["fusion_class"], entry["seconds"] / total, plural(entry["operators"], "operator"))
            for entry in data["classes"]
        ]
        figures.append(_figure("Where the time goes, by class of operator", _bars(rows)))
    if shares:
        figures.append(_figure("What the first k opportunities save", chart.cumulative(shares)))
    parts.append(element("div", *figures, class_="figures"))
    parts.append(element("ul", *(element("li", line) for line in opportunities.coverage(data))))
    if data["ruled_out"]:
        worth = sorted(data["ruled_out"], key=lambda entry: -entry["share"])[:MOST_RULED_OUT]
        rows = [(chain(entry["operators"]), entry["share"], entry["rule"]) for entry in worth]
        among = f" ({len(rows)} of {len(data['ruled_out'])})" if len(rows) < len(data["ruled_out"]) else ""
        parts.append(_figure(f"Ruled out, by what it would be worth{among}", _bars(rows)))
    return element("section", *parts, id="fleet")


def _figure(caption: str, drawn: Element) -> Element:
    return element("figure", element("figcaption", caption), drawn)


def _bars(rows: Sequence[tuple[str, float, str]]) -> Element:
    """A table of (what, share, remark) with a bar for each share."""
    greatest = max((share for _, share, _ in rows), default=0.0) or 1.0
    lines = [
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", element("div", class_="bar", style=f"width:{100 * share / greatest:.1f}%")),
            element("td", percent(share), class_="number"),
            element("td", remark),
        )
        for name, share, remark in rows
    ]
    return element("table", element("tbody", *lines), class_="bars")


# ----------------------------------------------------------------------------------------------------------- the table


def _table(entries: Sequence[Mapping[str, Any]]) -> Element:
    headings = [
        element("th", element("button", heading, type="button", data_key=key), scope="col", class_=f"c-{key}")
        for key, heading in SORTED_BY
    ]
    search = element("input", id="filter", type="search", placeholder="operator, model, rule, digest …")
    rows = [_row(number, entry) for number, entry in enumerate(entries, 1)]
    return element(
        "div",
        element("p", element("label", "Filter ", search), " ", element("output", id="shown")),
        element(
            "div",
            element("table", element("thead", element("tr", *headings)), element("tbody", *rows), id="table"),
            class_="scroll",
        ),
    )


def _row(number: int, entry: Mapping[str, Any]) -> Element:
    before, after = opportunities.mean_seconds(entry)
    ratio = before / after if after else 0.0
    name = chain(entry["operators"])
    verdict = f"{entry['verdict']}: {entry['rule']}" if entry["rule"] else entry["verdict"]
    models = " ".join(model["name"] for model in entry["models"])
    texts = {
        "rank": str(number),
        "share": percent(entry["share"]),
        "before": seconds(before),
        "after": seconds(after),
        "faster": times(ratio),
        "runs": count(entry["executions"]),
        "captures": str(entry["captures"]),
        "size": str(entry["size"]),
        "verdict": verdict,
    }
    cells = []
    for key, _ in SORTED_BY:
        if key == "pattern":
            cells.append(element("td", element("a", name, href=f"#{_anchor(entry)}"), class_="c-pattern"))
        else:
            cells.append(element("td", texts[key], class_=f"c-{key}"))
    return element(
        "tr",
        *cells,
        data_digest=entry["digest"],
        data_rank=number,
        data_pattern=name,
        data_share=float(entry["share"]),
        data_before=before,
        data_after=after,
        data_faster=ratio,
        data_runs=entry["executions"],
        data_captures=entry["captures"],
        data_size=entry["size"],
        data_verdict=verdict,
        data_words=f"{name} {entry['digest']} {verdict} {models}".lower(),
    )


def _anchor(entry: Mapping[str, Any]) -> str:
    return f"pattern-{entry['digest'][:16]}"


# --------------------------------------------------------------------------------------------------- one opportunity


def _section(
    number: int,
    entry: Mapping[str, Any],
    machine: Machine | None,
    realised: Realised | None,
    source: str,
) -> Element:
    before, after = opportunities.mean_seconds(entry)
    verdict = f"ruled out by {entry['rule']}: {entry['reason']}" if entry["rule"] else "fusible by every rule"
    facts = [
        ("saving", f"{percent(entry['share'])} of the fleet's time"),
        ("one run, predicted", f"{seconds(before)} → {seconds(after)}, {times(before / after if after else None)}"),
        ("one run, measured", _measured(realised)),
        ("verdict", verdict),
        ("support", f"{plural(entry['support'], 'execution')} of {plural(entry['captures'], 'capture')}"),
        (
            "occurrences",
            f"{count(entry['occurrences'])}, of which {count(entry['disjoint_occurrences'])} disjoint ones count here",
        ),
        ("digest", entry["digest"]),
    ]
    listed = [part for name, value in facts for part in (element("dt", name), element("dd", value))]
    examples = [example for example in entry["shapes"] if example.get("costs")]
    drawn = graph.drawing(entry["labels"], entry["edges"])
    figures = [_figure("Pattern; the dashed line is the kernel's boundary", drawn)]
    if examples:
        caption = (
            f"Roofline at {signature(examples[0])} in {examples[0]['model']}: circles are the operators, "
            "the dot is the kernel"
        )
        figures.append(_figure(caption, chart.roofline(entry["labels"], examples[0], machine)))
    parts: list[Child] = [
        element("h3", f"{number}. {chain(entry['operators'])}"),
        element("dl", *listed),
        element("div", *figures, class_="figures"),
        _shapes(entry["shapes"]),
        _models(entry["models"]),
    ]
    if source:
        parts.append(element("details", element("summary", "Generated C"), highlighted(source)))
    parts.append(element("p", "Again: ", element("code", _command(entry)), class_="again"))
    parts.append(element("p", element("a", "back to the table", href="#opportunities")))
    return element("section", *parts, id=_anchor(entry), class_="opportunity")


def _measured(realised: Realised | None) -> str:
    if realised is None:
        return "not measured"
    ratio = times(realised.before / realised.after if realised.after else None)
    if realised.interval is not None:
        low, high = realised.interval
        ratio += f" ({times(low)} – {times(high)})"
    text = f"{seconds(realised.before)} → {seconds(realised.after)}, {ratio} in {realised.model}"
    return text if realised.kept else f"{text}; not kept: {realised.reason}"


def _command(entry: Mapping[str, Any]) -> str:
    digest = entry["digest"][:12]
    if entry["rule"]:
        return f"graphopt show opportunities.json {digest}"
    return f"graphopt extract opportunities.json {digest} --corpus CORPUS -o {digest} && graphopt check {digest}"


def _shapes(examples: Sequence[Mapping[str, Any]]) -> Element:
    rows = []
    for example in examples[:MOST_SHAPES]:
        before, after = example["seconds_before"], example["seconds_after"]
        rows.append(
            element(
                "tr",
                element("td", signature(example)),
                element("td", count(example["executions"]), class_="number"),
                element("td", seconds(before), class_="number"),
                element("td", seconds(after), class_="number"),
                element("td", times(before / after if after else None), class_="number"),
                element("td", count(example["bytes_before"]), class_="number"),
                element("td", count(example["bytes_after"]), class_="number"),
                element("td", f"{example['model']}: {', '.join(example['nodes'])}"),
            )
        )
    more = f" ({len(rows)} of {len(examples)})" if len(rows) < len(examples) else ""
    titles = ("shapes" + more, "runs", "before", "after", "faster", "bytes before", "bytes after", "for example")
    return _wide_table(titles, rows)


def _models(models: Sequence[Mapping[str, Any]]) -> Element:
    rows = [
        element(
            "tr",
            element("td", model["name"]),
            element("td", count(model["occurrences"]), class_="number"),
            element("td", count(model["executions"]), class_="number"),
        )
        for model in models
    ]
    return _wide_table(("model", "places", "executions"), rows)


def _wide_table(titles: Sequence[str], rows: Sequence[Element]) -> Element:
    kinds = [cell.get("class") or False for cell in rows[0]] if rows else [False] * len(titles)
    cells = [element("th", title, scope="col", class_=kind) for title, kind in zip(titles, kinds, strict=True)]
    table = element("table", element("thead", element("tr", *cells)), element("tbody", *rows))
    return element("div", table, class_="scroll")
