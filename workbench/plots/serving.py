"""Figures of lesson 08: which model can do which task, ratios of costs, and the GPUs that many tasks take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.ticker import MaxNLocator

from workbench.plots.style import (
    LIGHT_TO_DARK,
    PALETTE,
    SERIES,
    Figure,
    Look,
    described,
    new_figure,
    style,
)

MOST_DRAWN = 40  # GPUs of one way to serve
LOOKS: dict[str, Look] = {
    "adapters": {"color": PALETTE["orange"], "hatch": "//"},
    "weights": {"color": PALETTE["blue"]},
}


def who_can_what(scores: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """A table of shares as colours and numbers, a row a model and a column a task.

    scores: model -> task -> share of test rows answered right.
    """
    tasks = list(next(iter(scores.values())))
    values = np.array([[row[task] for task in tasks] for row in scores.values()])
    figure = new_figure(8.0, 1.3 + 0.38 * len(scores))
    axes = style(figure.add_subplot(), title, "task: share of test rows answered exactly right", "")
    axes.grid(visible=False)
    axes.imshow(values, cmap=LIGHT_TO_DARK, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_yticks(range(len(scores)), list(scores))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, line in enumerate(values):
        for column, share in enumerate(line):
            ink = "white" if share > 0.45 else PALETTE["ink"]
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=11, color=ink)
    words = "; ".join(
        f"{name}: {', '.join(f'{task} {share:.0%}' for task, share in row.items())}" for name, row in scores.items()
    )
    return described(figure, f"Share of test rows answered right. {words}.")


def costs_of_ways(values: Mapping[str, float], title: str, label: str, form: str) -> Figure:
    """A few quantities of one kind as bars. form: of the numbers beside them."""
    figure = new_figure(8.0, 1.1 + 0.42 * len(values))
    axes = style(figure.add_subplot(), title, label, "")
    axes.grid(axis="y", visible=False)
    colours = [look["color"] for look in SERIES]
    bars = axes.barh(range(len(values)), list(values.values()), color=colours[: len(values)], height=0.65)
    axes.bar_label(bars, [form.format(value) for value in values.values()], padding=4, fontsize=10.5)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(values.values()))
    words = "; ".join(f"{name}: {form.format(value)}" for name, value in values.items())
    return described(figure, f"{title}. {label}: {words}.")


def mixed_scores(
    weights: Mapping[str, float],
    exact: Mapping[str, Mapping[str, float]],
    loss: Mapping[str, Mapping[str, float]],
    title: str,
) -> Figure:
    """Scores of each task by the base, by its own adapter and by a mixture, as bars: exact match, and loss.

    weights: task -> weight of its adapter in the mixture. exact, loss: "base", "own adapter", "mixture" -> task ->
    share of rows answered right, and nats a token.
    """
    figure = new_figure(10.5, 3.8, layout=None)
    looks: tuple[Look, ...] = (
        {"color": PALETTE["silver"]},
        {"color": PALETTE["sky"]},
        {"color": PALETTE["orange"], "hatch": "//"},
    )
    sides = (
        (0.06, exact, title, "share of rows answered right"),
        (0.57, loss, "Loss of the right answers", "nats a token (log)"),
    )
    for left, values, head, label in sides:
        axes = style(figure.add_axes((left, 0.24, 0.41, 0.64)), head, "", label)
        for place, ((name, row), look) in enumerate(zip(values.items(), looks, strict=True)):
            places = [at + 0.27 * (place - 1) for at in range(len(row))]
            axes.bar(places, list(row.values()), width=0.25, label=name, **look)
        axes.set_xticks(range(len(weights)), [f"{weight:g} x {task}" for task, weight in weights.items()])
        axes.grid(axis="x", visible=False)
    figure.axes[0].set_ylim(0, 1.08)
    figure.axes[1].set_yscale("log")
    figure.axes[1].set_ylim(bottom=min(0.01, *(value for row in loss.values() for value in row.values())))
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False, fontsize=10.5
    )
    words = "; ".join(
        f"{task}: base {exact['base'][task]:.0%}, own adapter {share:.0%}, mixture {exact['mixture'][task]:.0%}"
        for task, share in exact["own adapter"].items()
    )
    return described(figure, f"Share of rows answered right. {words}.")


def fleet(ways: Mapping[str, tuple[int, float, float]], room: float, gpu: str, title: str) -> Figure:
    """The GPUs of each way to serve as bars, filled as far as weights and adapters take their memory.

    ways: name -> (GPUs, GB of base or whole models on each, GB of adapters on each). room: GB of a GPU that weights may
    take. At most MOST_DRAWN are drawn.
    """
    figure = new_figure(10.0, 3.6, layout=None)
    longest = min(MOST_DRAWN, max(8, *(count for count, _, _ in ways.values())))  # on both sides, to compare
    for place, (name, (count, weights, adapters)) in enumerate(ways.items()):
        which = "which GPU" if count <= MOST_DRAWN else f"which GPU (the first {MOST_DRAWN} of them)"
        axes = style(
            figure.add_axes((0.07 + 0.5 * place, 0.24, 0.42, 0.63)),
            f"{name}: {count:,} GPU{'s' * (count != 1)}",
            which,
            "GB",
        )
        drawn = range(1, min(count, MOST_DRAWN) + 1)
        axes.bar(drawn, [room] * len(drawn), width=0.8, facecolor="none", edgecolor=PALETTE["silver"])
        axes.bar(drawn, [weights] * len(drawn), width=0.8, label="base or whole models", **LOOKS["weights"])
        if adapters:
            bottom = [weights] * len(drawn)
            axes.bar(drawn, [adapters] * len(drawn), 0.8, bottom, label="adapters", **LOOKS["adapters"])
        axes.axhline(room, color=PALETTE["ink"], linewidth=1, label="room for weights")
        axes.set_xlim(0.4, longest + 0.6)
        axes.set_ylim(0, 1.12 * room)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="x", visible=False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=10.5)
    words = "; ".join(
        f"{name}: {count:,} of {gpu}, {weights:.3g} GB of weights and {adapters:.3g} GB of adapters on each"
        for name, (count, weights, adapters) in ways.items()
    )
    return described(figure, f"{title}. {words}. Weights may take {room:.3g} GB of each.")
