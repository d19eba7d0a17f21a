"""Figures 3, 4 and 5 of a characterization, drawn by matplotlib (extra ``figures``) as SVG."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphopt import files
from graphopt.errors import GraphoptError
from graphopt.report.numbers import inputs_text

MOST_CURVES = 12
"""Models in the figure of projections: those that run longest."""

_MARKS = {
    "FC": ("o", "#1f5fa8"),
    "group convolution": ("^", "#c4511d"),
    "convolution": ("s", "#3c8d3c"),
    "recurrent": ("D", "#7a4fa3"),
}


def write(data: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw a characterization's figures into a folder: operators.svg, shapes.svg, projection.svg.

    The same data gives the same bytes.

    Args:
        data: JSON of kind ``characterization``.
        folder: made when missing.

    Returns:
        The files.

    Raises:
        GraphoptError: matplotlib is not installed, or the folder cannot be written.
    """
    try:
        import matplotlib
    except ImportError:
        raise GraphoptError("figures need matplotlib: pip install 'graphopt[figures]'") from None
    matplotlib.use("svg")
    figures: dict[str, Callable[[Mapping[str, Any]], Any]] = {
        "operators.svg": _operators,
        "shapes.svg": _shapes,
        "projection.svg": _projection,
    }
    settings: dict[Any, Any] = {"svg.hashsalt": "graphopt", "svg.fonttype": "none", "font.size": 9.0}
    written = []
    for name, draw in figures.items():
        with matplotlib.rc_context(settings):
            figure = draw(data)
            text = io.StringIO()
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "graphopt"})
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GraphoptError(f"{folder}: cannot make the folder: {error.strerror or error}") from None
        files.write_text(folder / name, text.getvalue())
        written.append(folder / name)
    return written


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _operators(data: Mapping[str, Any]) -> Any:
    """Figure 4: share of the fleet's time by operator class."""
    predicted, measured = data["time"]["predicted"], data["time"]["measured"]
    names = sorted({*predicted, *(measured or {})}, key=lambda name: ((measured or predicted).get(name, 0.0), name))
    figure, ((axes,),) = _figure(6.4, 0.32 * len(names) + 1.0)
    places = range(len(names))
    both = measured is not None
    axes.barh(
        [place + 0.2 * both for place in places],
        [100 * predicted.get(name, 0.0) for name in names],
        height=0.4 if both else 0.7,
        color="#1f5fa8",
        label=f"predicted ({data['machine']})",
    )
    if both:
        shares = [100 * measured.get(name, 0.0) for name in names]
        axes.barh([place - 0.2 for place in places], shares, height=0.4, color="#c4511d", label="measured")
    axes.set_yticks(list(places), names)
    axes.set_xlabel("share of the time of all executions (%)")
    axes.legend(loc="lower right", frameon=False)
    return figure


def _shapes(data: Mapping[str, Any]) -> Any:
    """Figure 5: activations m × k and weights k × n of the layers."""
    figure, ((left, right),) = _figure(7.6, 3.6, 1, 2)
    for kind, (mark, colour) in _MARKS.items():
        of_kind = [shape for shape in data["shapes"] if shape["kind"] == kind]
        if not of_kind:
            continue
        style = {"s": 14, "marker": mark, "facecolors": "none", "edgecolors": colour, "linewidths": 0.8}
        k = [shape["k"] for shape in of_kind]
        left.scatter([shape["m"] for shape in of_kind], k, label=kind, **style)
        right.scatter([shape["n"] for shape in of_kind], k, label=kind, **style)
    for axes, label in ((left, "m (rows of activations)"), (right, "n (columns of weights)")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel("k (summed over)")
        axes.grid(alpha=0.3)
    left.set_title("activations m × k")
    right.set_title("weights k × n")
    left.legend(loc="best", fontsize=7)
    return figure


def _projection(data: Mapping[str, Any]) -> Any:
    """Figure 3: projected performance over the capacity on the chip; full lines 1 TB/s, dashed ones 10 TB/s."""
    ranked = sorted(data["models"], key=lambda m: (-m["seconds"] * m["executions"], m["name"]))
    first = {model["name"]: model for model in reversed(ranked)}  # the capture of each that runs longest
    models = sorted(sorted(first.values(), key=ranked.index)[:MOST_CURVES], key=lambda m: m["name"])
    figure, ((axes,),) = _figure(7.2, 4.4)
    for number, model in enumerate(models):
        for style, fast in zip(
            ("-", "--"), dict.fromkeys(p["on_chip_bandwidth"] for p in model["projection"]), strict=False
        ):
            points = [p for p in model["projection"] if p["on_chip_bandwidth"] == fast]
            axes.plot(
                [p["on_chip_bytes"] / 1e6 for p in points],
                [p["operations_per_second"] / 1e12 for p in points],
                style,
                color=f"C{number % 10}",
                linewidth=1.2 if number < 10 else 0.8,
                label=f"{model['name']} ({inputs_text(model['inputs'], most=1)})" if style == "-" else None,
            )
    axes.set_xlabel("memory on the chip (MB)")
    axes.set_ylabel("projected TOP/s")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
