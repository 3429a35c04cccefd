"""Stored runs as points, with a choice of the measure on each axis. Used in lesson 06."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from workbench.panels.base import Panel, View, choice
from workbench.plots.runs import METHOD_STYLE
from workbench.plots.style import described, legend_below, new_figure, style
from workbench.results.rows import grouped
from workbench.training.runs import Run, table

MEASURES = {
    "exact match (share of rows)": "exact_match",
    "test loss (nats a token)": "loss",
    "forgetting (nats a token)": "forgetting",
    "seconds a step": "step_seconds",
    "peak memory (MB)": "peak_memory_mb",
    "saved on disk (MB)": "artifact_mb",
    "trainable parameters": "trainable_parameters",
    "learning rate": "learning_rate",
}
LOGARITHMIC = {"artifact_mb", "trainable_parameters", "learning_rate", "peak_memory_mb"}


def comparison_panel(runs: Sequence[Run]) -> Panel:
    """A panel over the finished ones of `runs`. It shows an error if there is nothing to draw."""
    rows = [row for row in table(runs) if row["status"] == "finished"]
    methods = [run.method["name"] for run in runs if run.status == "finished"]

    def view(x: str, y: str) -> View:
        return comparison_view(rows, methods, x, y)

    options = list(MEASURES.items())
    controls = {"x": choice("across", "peak_memory_mb", options), "y": choice("up", "exact_match", options)}
    return Panel(f"{len(rows)} stored runs, side by side", controls, view)


class Point(NamedTuple):
    """One run in the figure."""

    label: str
    method: str
    x: float
    y: float


def comparison_view(rows: Sequence[dict], methods: Sequence[str], x: str, y: str) -> View:
    """Points of measure `y` against measure `x`.

    rows: from `runs.table`. methods: the name of each row's method. Raises ValueError if no row has both measures.
    """
    names = {measure: name for name, measure in MEASURES.items()}
    points = [
        Point(row["method"], method, row[x], row[y])
        for row, method in zip(rows, methods, strict=True)
        if row[x] is not None and row[y] is not None
    ]
    if not points:
        raise ValueError("No stored run has both of these measures yet; choose others, or train with evaluate=True.")
    figure = new_figure(8.5, 4.0)
    axes = style(figure.add_subplot(), "", names[x], names[y])
    for method, own in grouped(points, attrgetter("method")).items():
        look = METHOD_STYLE[method] | {"linestyle": "none", "markersize": 10, "label": method}
        axes.plot([point.x for point in own], [point.y for point in own], **look)
        if len({point.label for point in own}) > 1:  # the ranks of one method have the same marker
            for point in own:
                words = point.label.removeprefix(method).strip()
                place = point.x, point.y
                axes.annotate(words, place, (0, 8), textcoords="offset points", ha="center", fontsize="small")
    axes.margins(0.12)
    for axis, measure in (("x", x), ("y", y)):
        values = [getattr(point, axis) for point in points]
        if measure == "exact_match":  # the whole range, as in the other figures, so that small differences look small
            axes.set(**{f"{axis}lim": (-0.04, 1.12)})
        elif measure in LOGARITHMIC and max(values) > 3 * min(values) > 0:  # else its labels would be 3.366 x 10^1
            axes.set(**{f"{axis}scale": "log"})
    legend_below(figure, axes, columns=5)
    text = "; ".join(f"{point.label}: {names[y]} {point.y:.3g} at {names[x]} {point.x:.3g}" for point in points)
    numbers = {
        f"{axis}{index}": float(getattr(point, axis)) for index, point in enumerate(points) for axis in ("x", "y")
    }
    return View(lambda: described(figure, text), text, numbers)
