"""Figures of lesson 10: how far each option gets, what was tried, and any two measures of many runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes

from workbench.plots.runs import METHOD_STYLE
from workbench.plots.style import PALETTE, SERIES, TEN_SERIES, Figure, Look, described, legend_below, new_figure, style
from workbench.results.pareto import Measure, front
from workbench.results.rows import Row, grouped

KEPT: Look = {"color": PALETTE["blue"]}
OUT: Look = {"color": PALETTE["silver"]}


def options_left(survived: Mapping[str, int], reasons: Mapping[str, str], questions: Sequence[str]) -> Figure:
    """A bar for each option: how many questions it passed, and why it was struck out.

    survived: option -> questions passed; reasons: option -> why it is out, nothing for what is left. questions: a few
    words each, in their order.
    """
    figure = new_figure(9.0, 3.4)
    left = [option for option in survived if not reasons.get(option)]
    title = f"{left[0]}: the simplest option that is left" if left else "Nothing is left"
    axes = style(figure.add_subplot(), title, "", "")
    names = list(survived)
    looks = [OUT if reasons.get(name) else KEPT for name in names]
    axes.barh(range(len(names)), list(survived.values()), color=[look["color"] for look in looks], height=0.5)
    for place, name in enumerate(names):
        word = f"out: {reasons[name]}" if reasons.get(name) else "left"
        axes.text(survived[name] + 0.06, place, word, va="center", fontsize=10)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(1, len(questions) + 1), questions)
    axes.set_xlim(0, len(questions) + 1.8)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    words = "; ".join(f"{name}: {reasons.get(name) or 'left'}" for name in names)
    return described(figure, f"What becomes of each option. {words}.")


def tried_settings(rows: Sequence[Mapping], title: str) -> Figure:
    """The settings of `Trying.table`: held-out loss at each stage that a setting reached; the chosen one is drawn bold.

    A line that ends early is a setting that was dropped. Those that were scored once are points.
    """
    figure = new_figure(9.0, 4.2)
    axes = style(figure.add_subplot(), title, "step", "loss on held-out rows (nats a token)")
    words = []
    for look, row in zip(cycle(TEN_SERIES), (row for row in rows if row["losses"]), strict=False):
        chosen = row["outcome"] == "chosen"
        name = f"r={row['rank']}, alpha={row['alpha']:g}, rate {row['learning_rate']:g}"
        own = {"color": PALETTE["ink"], "linewidth": 3, "linestyle": "-"} if chosen else {"linewidth": 1.2}
        drawn: Look = {**look, **own}
        label = f"{name} (chosen)" if chosen else name
        axes.plot(list(row["losses"]), list(row["losses"].values()), markersize=7, label=label, **drawn)
        words.append(f"{name}: {', '.join(f'{loss:.2f} at {step}' for step, loss in row['losses'].items())}")
    axes.set_xticks(sorted({step for row in rows for step in row["losses"]}))
    axes.margins(0.12)
    legend_below(figure, axes, columns=3)
    return described(figure, f"Loss on held-out rows by step. {'; '.join(words)}.")


def two_measures(rows: Sequence[Row], x: Measure, y: Measure, title: str) -> Figure:
    """One measure against another: a colour a source, with a line through its runs that no other of them beats in both.

    A marker is a method. rows: with both measures, a `label` that begins with the method, and `source` ("yours",
    "study", "published"), which are of other tasks and models.
    """
    figure = new_figure(9.0, 4.2)
    axes = style(figure.add_subplot(), title, x.label, y.label)
    words = []
    for look, (source, own) in zip(SERIES, grouped(rows, lambda row: row["source"]).items(), strict=False):
        marks: Look = {**look, "linestyle": "none", "markersize": 10 if source == "yours" else 6}
        for method, group in grouped(own, lambda row: row["label"].split(",")[0].split()[0]).items():
            marks["marker"] = METHOD_STYLE.get(method, look)["marker"]
            label = f"{method}, {source}"
            axes.plot([row[x.name] for row in group], [row[y.name] for row in group], label=label, **marks)
        best = front(own, x, y)
        line: Look = {"color": look["color"], "linewidth": 1.2, "linestyle": look["linestyle"]}
        axes.plot([row[x.name] for row in best], [row[y.name] for row in best], **line)
        told = ", ".join(f"{row['label']} {row[y.name]:.3g} at {row[x.name]:.3g}" for row in best)
        words.append(f"{source}: {told}")
    for name, measure, scale in (("x", x, axes.set_xscale), ("y", y, axes.set_yscale)):
        if _wide([row[measure.name] for row in rows]):
            scale("log")
        elif measure.share:
            _whole_range(axes, name)
    axes.margins(0.1)
    legend_below(figure, axes, columns=4)
    return described(
        figure, f"{y.label} against {x.label}. No other of its source is better in both: {'; '.join(words)}."
    )


def _wide(values: Sequence[float]) -> bool:
    return min(values) > 0 and math.log10(max(values) / min(values)) > 1


def _whole_range(axes: Axes, name: str) -> None:
    axes.set(**{f"{name}lim": (-0.04, 1.04)})
