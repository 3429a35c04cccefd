"""Figures that compare fine-tuning runs: one function each, takes runs and returns a Figure (see `plots`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from workbench.plots.style import PALETTE, SERIES, finished, legend_below, new_figure, style
from workbench.training.runs import Run

RATE_AXES = {
    "exact_match": ("Score: each method at its own learning rates", "exact match (share of rows)"),
    "forgetting": ("Forgetting at the same rates: lower is better", "nats a token on general text"),
}
METHOD_STYLE = {
    "starved": {"color": PALETTE["pink"], "marker": "D", "linestyle": (0, (1, 2))},
    "base": {"color": PALETTE["grey"], "marker": "x"},
    "lora": {"color": PALETTE["blue"], "marker": "o", "linestyle": "-"},
    "qlora": {"color": PALETTE["sky"], "marker": "v", "linestyle": ":"},
    "hybrid": {"color": PALETTE["green"], "marker": "^", "linestyle": "-."},
    "full": {"color": PALETTE["orange"], "marker": "s", "linestyle": "--"},
}


def losses(histories: Mapping[str, tuple[str, Sequence[dict]]], steps: int, note: str = "") -> Figure:
    """Training loss against step. histories: label -> (method name, run.history); note: shown above the picture."""
    figure = new_figure(9.0, 3.8)
    axes = style(figure.add_subplot(), f"Training loss{note}", "step", "loss (nats per completion token)")
    for label, (method, history) in histories.items():
        drawing = METHOD_STYLE[method]
        axes.plot(
            [entry["step"] for entry in history],
            [entry["loss"] for entry in history],
            label=label,
            markevery=max(1, steps // 12),
            markersize=5,
            **drawing,
        )
    axes.set_xlim(0, steps + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    if histories:
        legend_below(figure, axes, columns=len(histories))
    ends = ", ".join(
        f"{label} ends at {history[-1]['loss']:.2f}" for label, (_, history) in histories.items() if history
    )
    return finished(figure, f"Training loss against step: {ends or 'the first step is still being taken'}.")


def training_panel(
    earlier: Mapping[str, Sequence[dict]],
    own: Mapping[str, tuple[Sequence[dict], Mapping[int, float]]],
    finals: Sequence[tuple[int, float]],
    steps: int,
    rows: int,
) -> Figure:
    """Loss while a run trains and, every few steps, its exact match on `rows` test rows.

    earlier: label -> history of runs from elsewhere, in grey. own: label -> (history, {step: exact match}); the last
    one is the run that trains, or that trained last. finals: (steps, exact match) of the runs from elsewhere.
    """
    figure = new_figure(10.5, 3.9)
    figure.get_layout_engine().set(wspace=0.05)
    left, right = figure.subplots(1, 2)
    style(left, "Training loss", "step", "loss (nats per completion token)")
    style(right, f"Exact match on {rows} test rows", "step", "share of rows")
    for place, history in enumerate(earlier.values()):
        path = [entry["step"] for entry in history], [entry["loss"] for entry in history]
        left.plot(*path, color=PALETTE["silver"], linewidth=1.2, label=None if place else "earlier runs")
    if finals:
        cross = {"marker": "x", "color": PALETTE["grey"], "markersize": 8, "linestyle": "none"}
        right.plot(*zip(*finals, strict=True), **cross)
        left.plot([], [], label="earlier runs, all scored rows", **cross)
    for place, (label, (history, scores)) in enumerate(own.items()):
        look = SERIES[place % len(SERIES)]
        path = [entry["step"] for entry in history], [entry["loss"] for entry in history]
        left.plot(*path, label=label, markevery=max(1, steps // 12), markersize=5, **look)
        right.plot(list(scores), list(scores.values()), label=label, markersize=6, **look)
    for axes in (left, right):
        axes.set_xlim(0, steps + 1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylim(bottom=0)
    right.set_ylim(-0.04, 1.04)
    if earlier or own:
        legend_below(figure, left, columns=3)
    ends = [f"{label} is at {history[-1]['loss']:.2f}" for label, (history, _) in own.items() if history]
    return finished(figure, f"Training loss by step, {len(earlier)} earlier runs in grey. {'; '.join(ends)}")


def costs(runs: Sequence[Run]) -> Figure:
    """Step time, peak memory and artifact size of each run, as bars with their numbers."""
    measures = [
        ("Seconds a step", [run.step_seconds for run in runs], "{:.2f}"),
        ("Peak memory, MB", [run.peak_memory_bytes and run.peak_memory_bytes / 1e6 for run in runs], "{:,.0f}"),
        ("File on disk, MB", [run.artifact_bytes and run.artifact_bytes / 1e6 for run in runs], "{:,.0f}"),
    ]
    figure = new_figure(10.0, 0.9 + 0.45 * len(runs))
    figure.get_layout_engine().set(wspace=0.06)  # tick labels of neighbours must not touch
    columns = figure.subplots(1, len(measures), sharey=True)
    for axes, (title, values, form) in zip(columns, measures, strict=True):
        style(axes, title, "", "")
        axes.grid(axis="y", visible=False)
        colours = [METHOD_STYLE[run.method["name"]]["color"] for run in runs]
        # By place, not by name: two runs may have one label.
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
    return finished(figure, f"Costs of each method. {words}.")


def scores(before: Mapping[str, float], runs: Sequence[Run], measure: str, error: Mapping[str, float]) -> Figure:
    """One measure before and after, one bar a run. error: run id -> two standard errors of the test sample."""
    figure = new_figure(9.0, 3.2)
    axes = style(figure.add_subplot(), f"{measure.replace('_', ' ').capitalize()} on unseen rows", "", "share of rows")
    labels = ["base", *(run.label for run in runs)]
    values = [before[measure], *(run.metrics[measure] for run in runs)]
    colours = [METHOD_STYLE["base"]["color"], *(METHOD_STYLE[run.method["name"]]["color"] for run in runs)]
    places = range(len(labels))  # not the labels: two runs may have the same
    bars = axes.bar(places, values, color=colours, width=0.6)
    axes.set_xticks(places, labels)
    noise = [0.0, *(error[run.id] for run in runs)]
    axes.errorbar(places[1:], values[1:], yerr=noise[1:], fmt="none", ecolor=PALETTE["ink"], capsize=5)
    # Inside the bar's foot or above all of it, clear of the error bar at its head.
    for bar, value, above in zip(bars, values, noise, strict=True):
        inside = value > 0.15
        axes.text(
            bar.get_x() + bar.get_width() / 2,
            0.03 if inside else value + above + 0.03,
            f"{value:.0%}",
            ha="center",
            va="bottom",
            fontsize=11,
            fontweight="bold",
            color="white" if inside else PALETTE["ink"],
        )
    axes.set_ylim(0, 1.08)
    axes.grid(axis="x", visible=False)
    words = ", ".join(f"{label} {value:.0%}" for label, value in zip(labels, values, strict=True))
    return finished(figure, f"{measure.replace('_', ' ')}: {words}; bars of two standard errors.")


def pareto(before: Mapping[str, float], runs: Sequence[Run], measure: str, stored: Sequence[Mapping] = ()) -> Figure:
    """Gain against forgetting: what a method wins on the task and what it costs elsewhere; up and left is better.

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
        drawing = METHOD_STYLE[method]
        axes.plot(x, y, drawing["marker"], color=drawing["color"], markersize=11, linestyle="none", label=label)
    for name in dict.fromkeys(row["name"] for row in stored):
        own = [(row["forgetting"], row[measure]) for row in stored if row["name"] == name]
        look = {"color": METHOD_STYLE[name]["color"], "marker": METHOD_STYLE[name]["marker"], "markerfacecolor": "none"}
        axes.plot(*zip(*own, strict=True), linestyle="none", markersize=6, zorder=1, label=f"{name}, stored", **look)
    axes.set_ylim(-0.06, 1.06)
    axes.margins(x=0.1)
    legend_below(figure, axes, columns=5)
    words = [f"{label} {y:.0%} at {x:+.3f} nats" for label, _, x, y in points]
    words += [f"{row['name']}, stored, {row[measure]:.0%} at {row['forgetting']:+.2f}" for row in stored]
    return finished(figure, f"Task score against loss gained on general text: {'; '.join(words)}.")


def learning_rates(rows: Sequence[Mapping], measure: str) -> Figure:
    """A measure against learning rate, a line a method through the mean of its seeds, each seed a dot.

    rows: mappings with "method", "learning_rate", "seed" and the measure.
    """
    figure = new_figure(9.0, 3.8)
    title, unit = RATE_AXES[measure]
    axes = style(figure.add_subplot(), title, "learning rate", unit)
    ends = []
    for method in dict.fromkeys(row["method"] for row in rows):
        drawing = METHOD_STYLE[method]
        own = [row for row in rows if row["method"] == method]
        rates = sorted({row["learning_rate"] for row in own})
        means = [mean(row[measure] for row in own if row["learning_rate"] == rate) for rate in rates]
        axes.plot(rates, means, label=method, markersize=6, **drawing)
        axes.plot(
            [row["learning_rate"] for row in own],
            [row[measure] for row in own],
            ".",
            color=drawing["color"],
            markersize=5,
            alpha=0.6,
        )
        best = max(range(len(rates)), key=means.__getitem__)
        ends.append(f"{method} is highest at {rates[best]:g} with {means[best]:.2f}")
    axes.set_xscale("log")
    if measure == "exact_match":
        axes.set_ylim(-0.04, 1.04)
    legend_below(figure, axes, columns=5)
    return finished(figure, f"{measure.replace('_', ' ')} against learning rate: {'; '.join(ends)}.")
