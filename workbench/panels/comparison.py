"""Stored runs as points: choose what goes on each axis. Used in lesson 06."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

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
    """A panel over the finished ones of `runs`; ValueError in the panel when nothing can be drawn."""
    rows = [row for row in table(runs) if row["status"] == "finished"]
    methods = [run.method["name"] for run in runs if run.status == "finished"]

    def view(x: str, y: str) -> View:
        return comparison_view(rows, methods, x, y)

    options = list(MEASURES.items())
    controls = {"x": choice("across", "peak_memory_mb", options), "y": choice("up", "exact_match", options)}
    return Panel(f"{len(rows)} stored runs, side by side", controls, view)


def comparison_view(rows: Sequence[dict], methods: Sequence[str], x: str, y: str) -> View:
    """Points of measure `y` against measure `x`. rows: from `runs.table`; methods: the method's name of each row."""
    names = {measure: name for name, measure in MEASURES.items()}
    points = [
        (row["method"], method, row[x], row[y])
        for row, method in zip(rows, methods, strict=True)
        if row[x] is not None and row[y] is not None
    ]
    if not points:
        raise ValueError("No stored run has both of these measures yet; choose others, or train with evaluate=True.")
    figure = new_figure(8.5, 4.0)
    axes = style(figure.add_subplot(), "", names[x], names[y])
    for method, own in grouped(points, itemgetter(1)).items():
        drawing = METHOD_STYLE[method]
        labels, _, across, up = zip(*own, strict=True)
        axes.plot(
            across,
            up,
            drawing["marker"],
            color=drawing["color"],
            markersize=10,
            linestyle="none",
            label=method,
        )
        if len(set(labels)) > 1:  # ranks of one method look alike
            for label, *place in zip(labels, across, up, strict=True):
                words = label.removeprefix(method).strip()
                axes.annotate(words, place, (0, 8), textcoords="offset points", ha="center", fontsize="small")
    axes.margins(0.12)
    for axis, measure, place in (("x", x, 2), ("y", y, 3)):
        values = [point[place] for point in points]
        if measure == "exact_match":  # from nothing to all, as in the other figures: two points must look like two
            axes.set(**{f"{axis}lim": (-0.04, 1.12)})
        elif measure in LOGARITHMIC and max(values) > 3 * min(values) > 0:  # else its labels would be 3.366 x 10^1
            axes.set(**{f"{axis}scale": "log"})
    legend_below(figure, axes, columns=5)
    text = "; ".join(f"{label}: {names[y]} {up:.3g} at {names[x]} {across:.3g}" for label, _, across, up in points)
    numbers = {
        f"{axis}{index}": float(point[at]) for index, point in enumerate(points) for axis, at in (("x", 2), ("y", 3))
    }
    return View(described(figure, text), text, numbers)
