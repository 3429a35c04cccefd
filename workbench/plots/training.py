"""Loss curves of one run, of several methods, and of a whole sweep: each function takes histories, returns a Figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from workbench.plots.runs import METHOD_STYLE
from workbench.plots.style import (
    LIGHT_TO_DARK,
    PALETTE,
    SERIES,
    Figure,
    Look,
    described,
    legend_below,
    new_figure,
    style,
)

LOWEST_LOSS = 1e-4  # nats a token, the lowest that is drawn: a log axis has no room for 0


class LossEntry(TypedDict):
    """One step of a history: its number, from 1, and its loss in nats per completion token."""

    step: int
    loss: float


History = Sequence[LossEntry]


def losses(histories: Mapping[str, tuple[str, History]], steps: int, note: str = "") -> Figure:
    """Training loss against step. histories: label -> (method name, run.history). note: follows the title."""
    figure = new_figure(9.0, 3.8)
    axes = figure.add_subplot()
    look = {"markersize": 5, "markevery": max(1, steps // 12)}
    curves = [
        (history, METHOD_STYLE[method] | look | {"label": label}) for label, (method, history) in histories.items()
    ]
    _draw_losses(axes, curves, steps, note)
    if histories:
        legend_below(figure, axes, columns=len(histories))
    ends = ", ".join(
        f"{label} ends at {history[-1]['loss']:.2f}" for label, (_, history) in histories.items() if history
    )
    return described(figure, f"Training loss against step: {ends or 'the first step is still being taken'}.")


def sweep_losses(histories: Mapping[str, History], steps: int, note: str = "", ordered: bool = True) -> Figure:
    """Training loss against step for many runs, from light to dark in the order given.

    histories: label -> run.history. note: follows the title. ordered: False gives a few runs colours that lie apart,
    for runs that differ in more than one setting and so have no order.
    """
    figure = new_figure(10.0, 4.0)
    apart = not ordered and len(histories) <= len(SERIES)
    shades = [one["color"] for one in SERIES] if apart else LIGHT_TO_DARK(np.linspace(0.3, 1, max(len(histories), 2)))
    look = {"linewidth": 1.5, "markersize": 5, "markevery": max(1, steps // 10)}
    curves = [
        (history, series | look | {"color": shade, "label": label})
        for shade, series, (label, history) in zip(shades, cycle(SERIES), histories.items(), strict=False)
    ]
    _draw_losses(figure.add_subplot(), curves, steps, note)
    if histories:
        columns = 1 + (len(histories) - 1) // 16
        figure.legend(loc="outside right upper", ncols=columns, frameon=False, fontsize=10)
    ends = ", ".join(f"{label} is at {history[-1]['loss']:.2f}" for label, history in histories.items() if history)
    order = "" if apart else ", light to dark"
    return described(figure, f"Training loss against step{order}: {ends or 'the first step is still to come'}.")


def training_panel(
    earlier: Mapping[str, History],
    own: Mapping[str, tuple[History, Mapping[int, float]]],
    finals: Sequence[tuple[int, float]],
    steps: int,
    rows: int,
    update: tuple[str, Sequence[float]] | None = None,
) -> Figure:
    """Loss while a run trains and, every few steps, its exact match on `rows` test rows.

    earlier: label -> history of runs from elsewhere, in grey. own: label -> (history, {step: exact match}); the last
    one is the run that trains, or that trained last. finals: (steps, exact match) of the runs from elsewhere. update:
    a layer and the singular values of its dW so far, for a third chart.
    """
    figure = new_figure(10.5, 3.9, ConstrainedLayoutEngine(wspace=0.05))
    left, right, *third = figure.subplots(1, 3 if update else 2)
    if update:
        _draw_update(third[0], *update)
    style(right, f"Exact match on {rows} test rows", "step", "share of rows")
    curves: list[tuple[History, Look]] = [
        (history, {"color": PALETTE["silver"], "linewidth": 1.2, "label": None if place else "earlier runs"})
        for place, history in enumerate(earlier.values())
    ]
    if finals:
        cross: Look = {"marker": "x", "color": PALETTE["grey"], "markersize": 8, "linestyle": "none"}
        right.plot(*zip(*finals, strict=True), **cross)
        curves.append(([], cross | {"label": "earlier runs, all scored rows"}))  # for the legend, under the left axes
    for look, (label, (history, scores)) in zip(cycle(SERIES), own.items(), strict=False):
        curves.append((history, look | {"label": label, "markersize": 5, "markevery": max(1, steps // 12)}))
        right.plot(list(scores), list(scores.values()), markersize=6, **look)
    _draw_losses(left, curves, steps)
    _step_axis(right, steps)
    right.set_ylim(-0.04, 1.04)
    if earlier or own:
        legend_below(figure, left, columns=3)
    ends = [f"{label} is at {history[-1]['loss']:.2f}" for label, (history, _) in own.items() if history]
    return described(figure, f"Training loss by step, {len(earlier)} earlier runs in grey. {'; '.join(ends)}")


def _draw_losses(axes: Axes, curves: Iterable[tuple[History, Look]], steps: int, note: str = "") -> None:
    """Draw each history in its look, from step 0 to `steps` + 1, on a logarithmic axis of losses."""
    style(axes, f"Training loss{note}", "step", "loss (nats a token, log axis)")
    drawn = []
    for history, look in curves:
        values = [max(entry["loss"], LOWEST_LOSS) for entry in history]
        axes.plot([entry["step"] for entry in history], values, **look)
        drawn += values
    _step_axis(axes, steps)
    axes.set_yscale("log")
    low, high = min(drawn, default=0.1), max(drawn, default=5.0)
    axes.set_ylim(0.8 * low, 1.25 * max(high, 2 * low))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _draw_update(axes: Axes, layer: str, values: Sequence[float]) -> None:
    """Draw the singular values of one layer's update."""
    style(axes, f"dW of {layer}", "which, largest first", "singular value")
    axes.plot(range(1, len(values) + 1), values, markersize=5, **SERIES[2])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, max(*values, 1e-6) * 1.1)


def _step_axis(axes: Axes, steps: int) -> None:
    axes.set_xlim(0, steps + 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
