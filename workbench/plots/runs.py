"""Figures that compare fine-tuning runs: each function takes runs, or rows of runs, and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.layout_engine import ConstrainedLayoutEngine

from workbench.plots.style import PALETTE, Figure, Look, described, legend_below, new_figure, style
from workbench.training.runs import Run

METHOD_STYLE: dict[str, Look] = {
    "starved": {"color": PALETTE["pink"], "marker": "D", "linestyle": (0, (1, 2))},
    "base": {"color": PALETTE["grey"], "marker": "x"},
    "lora": {"color": PALETTE["blue"], "marker": "o", "linestyle": "-"},
    "qlora": {"color": PALETTE["sky"], "marker": "v", "linestyle": ":"},
    "hybrid": {"color": PALETTE["green"], "marker": "^", "linestyle": "-."},
    "full": {"color": PALETTE["orange"], "marker": "s", "linestyle": "--"},
}


def costs(runs: Sequence[Run]) -> Figure:
    """Step time, peak memory and artifact size of each run, as bars with their numbers."""
    measures = [
        ("Seconds a step", [run.step_seconds for run in runs], "{:.2f}"),
        ("Memory, MB", [run.peak_memory_bytes and run.peak_memory_bytes / 1e6 for run in runs], "{:,.0f}"),
        ("File, MB", [run.artifact_bytes and run.artifact_bytes / 1e6 for run in runs], "{:,.0f}"),
    ]
    # The tick labels of neighbours must not touch.
    figure = new_figure(10.0, 0.9 + 0.45 * len(runs), ConstrainedLayoutEngine(wspace=0.06))
    columns = figure.subplots(1, len(measures), sharey=True)
    for axes, (title, values, form) in zip(columns, measures, strict=True):
        style(axes, title + _ratio_in_words(runs, values), "", "")
        axes.grid(axis="y", visible=False)
        colours = [METHOD_STYLE[run.method["name"]]["color"] for run in runs]
        # Positions, because two runs may have the same label.
        bars = axes.barh(range(len(runs)), [value or 0 for value in values], color=colours)
        axes.set_yticks(range(len(runs)), [run.label for run in runs])
        texts = ["not measured" if value is None else form.format(value) for value in values]
        axes.bar_label(bars, labels=texts, padding=4, fontsize=10)
        axes.margins(x=0.3)
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=4)
    columns[0].invert_yaxis()
    words = "; ".join(
        f"{run.label}: {run.step_seconds or 0:.2f} s a step, {(run.peak_memory_bytes or 0) / 1e6:,.0f} MB at the peak, "
        f"{(run.artifact_bytes or 0) / 1e6:,.0f} MB saved"
        for run in runs
    )
    return described(figure, f"Costs of each method. {words}.")


def _ratio_in_words(runs: Sequence[Run], values: Sequence[float | None]) -> str:
    """How many times LoRA's value full fine-tuning has, for a title; nothing if one of the two is missing."""
    found = {run.method["name"]: value for run, value in zip(runs, values, strict=True) if value}
    return f": full {found['full'] / found['lora']:.2g}x" if {"lora", "full"} <= found.keys() else ""


def pareto(before: Mapping[str, float], runs: Sequence[Run], measure: str, stored: Sequence[Mapping] = ()) -> Figure:
    """A task score against the loss gained on general text: gain against forgetting; up and left is better.

    stored: rows of `reference`, with "name", "forgetting" and the measure; drawn small and hollow behind the runs.
    """
    figure = new_figure(8.0, 4.2)
    axes = style(
        figure.add_subplot(),
        "Gain against forgetting: up and left is better",
        "loss gained on general text (nats per token)",
        measure.replace("_", " "),
    )
    axes.axvline(0, color=PALETTE["silver"], linewidth=1)
    points = [("base", "base", 0.0, before[measure])]
    points += [(run.label, run.method["name"], run.forgetting["general_loss"], run.metrics[measure]) for run in runs]
    for label, method, x, y in points:
        look = METHOD_STYLE[method]
        axes.plot(x, y, look["marker"], color=look["color"], markersize=11, linestyle="none", label=label)
    for name in dict.fromkeys(row["name"] for row in stored):
        own = [(row["forgetting"], row[measure]) for row in stored if row["name"] == name]
        look = METHOD_STYLE[name] | {"linestyle": "none", "markerfacecolor": "none", "markersize": 6, "zorder": 1}
        axes.plot(*zip(*own, strict=True), label=f"{name}, stored", **look)
    axes.set_ylim(-0.06, 1.06)
    axes.margins(x=0.1)
    legend_below(figure, axes, columns=5)
    words = [f"{label} {y:.0%} at {x:+.3f} nats" for label, _, x, y in points]
    words += [f"{row['name']}, stored, {row[measure]:.0%} at {row['forgetting']:+.2f}" for row in stored]
    return described(figure, f"Task score against loss gained on general text: {'; '.join(words)}.")
