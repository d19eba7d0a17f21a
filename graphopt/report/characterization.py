"""The characterization of a corpus: rows of table 1, shares of time, matrix shapes, projected performance."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graphopt.report.document import Align, Block, Cell, Column, Document, Paragraph, Table
from graphopt.report.numbers import count, inputs_text, plural, seconds, significant

SECTIONS = ("models", "time", "shapes", "projection")
"""Parts of a characterization; each is a table."""

SHOWN_CAPACITIES = (0, 8, 32, 128)
"""Megabytes on the chip that the table of projections shows; JSON and CSV hold all."""


def document(data: Mapping[str, Any], sections: Sequence[str] = SECTIONS) -> Document:
    """Tables of a characterization.

    Args:
        data: JSON of kind ``characterization``.
        sections: which of SECTIONS.
    """
    models = data["models"]
    predicted = sum(model["seconds"] * model["executions"] for model in models)
    unknown = sum(model["unknown_operators"] for model in models)
    about = (
        f"{data['view']} view, {plural(sum(model['executions'] for model in models), 'execution')}, "
        f"{seconds(predicted)} predicted on {data['machine']}"
    )
    if unknown:
        about += f"; the time of {plural(unknown, 'operator')} is unknown and counts as none"
    makers = {"models": _models, "time": _time, "shapes": _shapes, "projection": _projection}
    blocks: list[Block] = [Paragraph(about)]
    for name in sections:
        blocks += makers[name](data)
    return Document(f"Characterization of {plural(len(models), 'capture')}", blocks)


def csv_text(data: Mapping[str, Any], section: str) -> str:
    """One section with all of its numbers, a line for each row.

    Cells that a spreadsheet would take for a formula begin with an apostrophe: names come from models.

    Args:
        data: JSON of kind ``characterization``.
        section: one of SECTIONS.
    """
    rows = {"models": _model_rows, "time": _time_rows, "shapes": _shape_rows, "projection": _projection_rows}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows[section](data):
        writer.writerow([f"'{v}" if isinstance(v, str) and v[:1] in ("=", "+", "-", "@", "\t") else v for v in row])
    return text.getvalue()


# ------------------------------------------------------------------ tables


def _right(*titles: str) -> list[Column]:
    return [Column(title, Align.RIGHT) for title in titles]


def _models(data: Mapping[str, Any]) -> list[Block]:
    sizes = ("parameters", "live_activations", "live_activations_in_place")
    rows = [
        [model["name"], inputs_text(model["inputs"], most=1), *(count(model[key]) for key in sizes)]
        for model in data["models"]
    ]
    columns = [Column("model", flexible=True), Column("inputs", flexible=True)]
    return [
        Paragraph("Parameters, and most activations live at once (in place: element-wise operators overwrite):"),
        Table([*columns, *_right("parameters", "live", "in place")], rows),
        Paragraph(
            "Operations per element of weights (w) and of weights and activations (w+a): of all layers but "
            "embeddings together, and of the layer where it is least:"
        ),
        _intensities(data),
    ]


_INTENSITIES = ("weights_average", "weights_least", "whole_average", "whole_least")


def _intensities(data: Mapping[str, Any]) -> Table:
    rows: list[list[Cell]] = []
    for model in data["models"]:
        found = model["intensity"]
        kinds = [kind for kind in found if kind != "all"]
        name = f"{model['name']} ({model['batch']})" if model["batch"] is not None else model["name"]
        for kind in kinds if len(kinds) == 1 else ["all", *kinds]:
            if kind in found:
                rows.append([name, kind, *(significant(found[kind][key]) for key in _INTENSITIES)])
                name = ""
    columns = [Column("model (batch)", flexible=True), Column("layers")]
    return Table([*columns, *_right("w", "least w", "w+a", "least w+a")], rows)


def _time(data: Mapping[str, Any]) -> list[Block]:
    predicted, measured = data["time"]["predicted"], data["time"]["measured"]
    names = [*predicted, *(name for name in measured or {} if name not in predicted)]
    order = sorted(names, key=lambda name: (-(measured or predicted).get(name, 0.0), name))
    columns = [Column("operator class"), Column("predicted", bar=True)]
    rows: list[list[Cell]] = [[name, predicted.get(name, 0.0)] for name in order]
    if measured is not None:
        columns.append(Column("measured", bar=True))
        rows = [[*row, measured.get(str(row[0]), 0.0)] for row in rows]
    return [Paragraph("Time by operator class, weighted by executions:"), Table(columns, rows)]


def _shapes(data: Mapping[str, Any]) -> list[Block]:
    rows = []
    for kind in dict.fromkeys(shape["kind"] for shape in data["shapes"]):
        of_kind = [shape for shape in data["shapes"] if shape["kind"] == kind]
        sizes = (_span(shape[key] for shape in of_kind) for key in ("m", "k", "n", "count"))
        rows.append([kind, count(sum(shape["layers"] for shape in of_kind)), count(len(of_kind)), *sizes])
    return [
        Paragraph("Matrices of the layers, convolutions after im2col: activations m × k times weights k × n:"),
        Table([Column("layers"), *_right("number", "shapes", "m", "k", "n", "products")], rows),
    ]


def _span(values: Iterable[int]) -> str:
    found = sorted(values)
    return f"{count(found[0])} – {count(found[-1])}" if found[0] != found[-1] else count(found[0])


def _projection(data: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for fast in dict.fromkeys(p["on_chip_bandwidth"] for m in data["models"] for p in m["projection"]):
        title = (
            "Projected TOP/s on an accelerator of 100 TOP/s and 100 GB/s off the chip, one byte per element, by "
            f"capacity on the chip, at {fast / 1e12:g} TB/s there:"
        )
        rows = []
        for model in data["models"]:
            speeds = {
                p["on_chip_bytes"]: p["operations_per_second"] / 1e12
                for p in model["projection"]
                if p["on_chip_bandwidth"] == fast
            }
            batch = "" if model["batch"] is None else str(model["batch"])
            cells = (significant(speeds[size * 10**6]) for size in SHOWN_CAPACITIES)
            rows.append([model["name"], batch, *cells])
        columns = _right("batch", *(f"{size} MB" for size in SHOWN_CAPACITIES))
        blocks += [Paragraph(title), Table([Column("model", flexible=True), *columns], rows)]
    return blocks


# ------------------------------------------------------------------ CSV


def _model_rows(data: Mapping[str, Any]) -> Iterable[list[object]]:
    plain = ("name", "source", "executions", "batch", "parameters", "live_activations", "live_activations_in_place")
    numbers = ("layers", "operations", *_INTENSITIES)
    yield [*plain, "inputs", "seconds", "kind", *numbers]
    for model in data["models"]:
        inputs = inputs_text(model["inputs"], most=len(model["inputs"]))
        for kind, value in (model["intensity"] or {"": None}).items():
            row = [model[name] for name in plain]
            yield [*row, inputs, model["seconds"], kind, *(value[n] if value else "" for n in numbers)]


def _time_rows(data: Mapping[str, Any]) -> Iterable[list[object]]:
    yield ["model", "batch", "executions", "operator_class", "predicted_seconds", "measured_seconds"]
    for model in data["models"]:
        measured = model["measured"] or {}
        for name, value in model["predicted"].items():
            yield [model["name"], model["batch"], model["executions"], name, value, measured.get(name, "")]


def _shape_rows(data: Mapping[str, Any]) -> Iterable[list[object]]:
    columns = ("kind", "m", "k", "n", "count", "layers", "executions")
    yield list(columns)
    for shape in data["shapes"]:
        yield [shape[name] for name in columns]


def _projection_rows(data: Mapping[str, Any]) -> Iterable[list[object]]:
    bounds = ("arithmetic", "on-chip", "off-chip")
    columns = ("on_chip_bandwidth", "on_chip_bytes", "operations_per_second", "seconds", "resident_weight_bytes")
    yield ["model", "batch", *columns, *(f"{name.replace('-', '_')}_seconds" for name in bounds)]
    for model in data["models"]:
        for point in model["projection"]:
            row = [point[name] for name in columns]
            yield [model["name"], model["batch"], *row, *(point["bound"][name] for name in bounds)]
