"""Figures 3, 4 and 5 of a characterization, drawn by matplotlib (extra ``figures``) as SVG."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphopt import files
from graphopt.errors import GraphoptError

MOST_PANELS, PANELS_PER_ROW = 16, 4
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


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, *, share: bool = False) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share)


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
        for axes, key in ((left, "m"), (right, "n")):
            places = sorted({(shape[key], shape["k"]) for shape in of_kind})
            axes.scatter([x for x, _ in places], [k for _, k in places], label=kind, **style)
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
    """Figure 3: projected performance over the capacity on the chip, a panel for each model."""
    ranked = sorted(data["models"], key=lambda m: (-m["seconds"] * m["executions"], m["name"]))
    first = {model["name"]: model for model in reversed(ranked)}  # the capture of each that runs longest
    models = sorted(sorted(first.values(), key=ranked.index)[:MOST_PANELS], key=lambda m: m["name"])
    rows = -(-len(models) // PANELS_PER_ROW)
    figure, grid = _figure(8.0, 1.7 * rows + 0.6, rows, PANELS_PER_ROW, share=True)
    panels = [axes for row in grid for axes in row]
    for axes, model in zip(panels, models, strict=False):
        bandwidths = dict.fromkeys(point["on_chip_bandwidth"] for point in model["projection"])
        for style, fast in zip(("-", "--"), bandwidths, strict=False):
            points = [point for point in model["projection"] if point["on_chip_bandwidth"] == fast]
            axes.plot(
                [point["on_chip_bytes"] / 1e6 for point in points],
                [point["operations_per_second"] / 1e12 for point in points],
                style,
                color="#1f5fa8" if style == "-" else "#c4511d",
                label=f"{fast / 1e12:g} TB/s on the chip",
            )
        batch = "" if model["batch"] is None else f", batch {model['batch']}"
        axes.set_title(f"{model['name']}{batch}", fontsize=7)
        axes.set_ylim(0, 105)
        axes.set_xticks([0, 32, 64, 96, 128])
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.3)
    for axes in panels[len(models) :]:
        axes.set_axis_off()
    figure.supxlabel("memory on the chip (MB)")
    figure.supylabel("projected TOP/s")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", fontsize=7, ncols=2, frameon=False)
    return figure
