"""Figures of rank sweeps: one function each, takes rows of stored runs and returns a Figure (see `plots`).

A row is one run, with the keys of `runs.table`; the rows of one figure are of one task. Runs that differ in their seed
alone become a line through their means and a band from the lowest to the highest. `live` are the learner's own rows:
each is a star. A run that did not finish is not drawn, and is counted in the description.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import mean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, MaxNLocator, NullLocator

from workbench.plots.runs import METHOD_STYLE
from workbench.plots.style import PALETTE, RING, SERIES, finished, new_figure, style
from workbench.results.rows import (
    at_best_rate,
    band_in_words,
    bands,
    by_best_rate,
    grouped,
    left_out_in_words,
    mean_of,
    range_in_words,
    require_finished,
    setting_in_words,
    usable,
    value_in_words,
)

# measure -> its name, its unit, and what picks the best value
MEASURES = {
    "exact_match": ("exact match", "share of rows", max),
    "loss": ("test loss", "nats a token", min),
    "forgetting": ("forgetting", "nats a token on general text", min),
}
BETTER = {max: "higher is better", min: "lower is better"}
VARIABLES = {"rank": "rank r", "learning_rate": "learning rate", "alpha": "alpha"}
# From light to dark in one hue: an order that a grey print keeps.
RISING = LinearSegmentedColormap.from_list("rising", ["#EDF4FA", PALETTE["blue"], "#00263C"])
LOOKS = (*SERIES, *({**look, "fillstyle": "none"} for look in SERIES))
FULL = {"color": METHOD_STYLE["full"]["color"], "linestyle": "--", "linewidth": 1.8}
STAR = {"marker": "*", "markersize": 15, "markerfacecolor": PALETTE["yellow"], "color": PALETTE["ink"]}
WHOLE = {"linestyle": "", "clip_on": False, "zorder": 4}  # a marker on the edge of the axes is drawn whole


def against_rank(rows: Sequence[Mapping], live: Sequence[Mapping] = ()) -> Figure:
    """Loss and exact match against rank, each rank at its own best learning rate, full fine-tuning too.

    rows: of one setting of targets and alpha. Raises ValueError if nothing has finished.
    """
    chosen = [row for group in by_best_rate(rows).values() for row in group]
    figure = against(chosen, [row for row in live if row["status"] == "finished"])
    rates = sorted({row["learning_rate"] for row in chosen if row["rank"] is not None})
    words = f" Best learning rates of the ranks: {', '.join(f'{rate:g}' for rate in rates)}." if rates else ""
    return finished(figure, figure.alt + words + left_out_in_words([*rows, *live]))


def against(
    rows: Sequence[Mapping],
    live: Sequence[Mapping] = (),
    across: str = "rank",
    measures: Sequence[str] = ("loss", "exact_match"),
    mark: float | None = None,
) -> Figure:
    """Measures of all these rows against one variable, side by side; rows of full fine-tuning as a level line.

    across: a name in VARIABLES. mark: the value of `across` to put a ring around. Raises ValueError if nothing has
    finished.
    """
    require_finished([*rows, *live], measures)
    figure = new_figure(min(2.0 + 4.0 * len(measures), 12.0), 3.9)
    found = []
    for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
        name, unit, pick = MEASURES[measure]
        style(axes, f"{name.capitalize()}: {BETTER[pick]}", VARIABLES[across], unit)
        band = bands((row for row in rows if row["rank"] is not None), across, measure)
        own = bands((row for row in live if row["rank"] is not None), across, measure)
        whole = [row[measure] for row in usable(rows, measure) if row["rank"] is None]
        found.append(f"{name.capitalize()} against {VARIABLES[across]}: {band_in_words(band, pick)}")
        _draw_band(axes, band, "mean of the seeds (band: lowest to highest)", SERIES[0])
        if whole:
            axes.axhline(mean(whole), label="full fine-tuning, mean", **FULL)
            found.append(f"full fine-tuning {mean(whole):.3g}")
        _draw_stars(axes, own)
        found.extend(f"your run at {value:g}: {', '.join(f'{y:.3g}' for y in ys)}" for value, ys in own.items())
        if mark in band:
            axes.plot([mark], [mean(band[mark])], label="chosen", **RING, **WHOLE)
        _log_axis(axes, [*band], [*own], base=10 if across == "learning_rate" else 2)
        if measure != "forgetting":
            top = 1.0 if measure == "exact_match" else axes.get_ylim()[1]
            axes.set_ylim(-0.06 * top, 1.04 * top)
    _legend(figure, "outside lower center", columns=4)
    words = f"Line through the mean over seeds, band from lowest to highest. {'; '.join(found)}."
    return finished(figure, words + left_out_in_words([*rows, *live]))


def bits_against_parameters(
    rows: Sequence[Mapping],
    live: Sequence[Mapping] = (),
    information_bits: float = 2551.0,
    bits_a_parameter: float = 2.0,
) -> Figure:
    """Bits memorised against trainable parameters: a line for each setting of targets and layers, and one for whole
    blocks, more and more of them.

    Each size is drawn at its own best learning rate. information_bits: what there is to learn. bits_a_parameter: what a
    parameter is said to hold; 2 is the figure of Allen-Zhu and Li, arXiv 2404.05405, for whole models. Left of where
    the two meet, the adapter is too small. Raises ValueError if no finished row has memorised_bits.
    """
    require_finished([*rows, *live], ["memorised_bits"])
    figure = new_figure(10.0, 4.4)
    axes = style(figure.add_subplot(), "What adapters have memorised", "trainable parameters", "bits memorised")
    found = []
    settings = grouped(usable(rows, "memorised_bits"), _family)
    for look, (label, group) in zip(cycle(LOOKS), settings.items(), strict=False):
        chosen = [row for size in by_best_rate(group, "trainable_parameters").values() for row in size]
        band = bands(chosen, "trainable_parameters", "memorised_bits")
        _draw_band(axes, band, label, look)
        ends = [f"{mean(band[size]):,.0f} bits in {size:,} parameters" for size in (min(band), max(band))]
        found.append(f"{label}: {' to '.join(dict.fromkeys(ends))}")
    own = bands(live, "trainable_parameters", "memorised_bits")
    _draw_stars(axes, own)
    found.extend(f"your run: {bits:,.0f} bits in {size:,} parameters" for size, many in own.items() for bits in many)
    _draw_bound(axes, information_bits, bits_a_parameter)
    _legend(figure, "outside right upper", columns=1)
    return finished(
        figure,
        f"Bits memorised against trainable parameters; there are {information_bits:,.0f} to learn, and at "
        f"{bits_a_parameter:g} bits a parameter fewer than {information_bits / bits_a_parameter:,.0f} parameters "
        f"cannot hold them. {'; '.join(found)}.{left_out_in_words([*rows, *live])}",
    )


def _family(row: Mapping) -> str:
    """What the points of one line have in common, when size is on the axis."""
    if row["layers"] is None:
        return setting_in_words(row) + ("" if row["rank"] is None else ", all layers")
    if row["targets"] == "all-linear":
        return f"rank {row['rank']}, some blocks"
    return setting_in_words(row)


def _draw_bound(axes: Axes, information_bits: float, bits_a_parameter: float) -> None:
    """What there is to learn, what parameters can hold of it, and the sizes that are too small for all of it."""
    enough = information_bits / bits_a_parameter
    smallest, largest = axes.dataLim.intervalx
    right = 1.4 * max(largest, enough)
    left = min(smallest / 2, enough * (enough / right) ** 0.35)  # room for the words
    x = np.geomspace(left, enough, 100)
    axes.plot(x, bits_a_parameter * x, ":", color=PALETTE["ink"], label=f"{bits_a_parameter:g} bits a parameter")
    axes.axhline(information_bits, color=PALETTE["ink"], linewidth=1.0, label="all there is to learn")
    axes.axvspan(left, enough, color=PALETTE["light"], alpha=0.5, linewidth=0, zorder=0)
    # Above the line of all there is to learn, where no run can be.
    axes.text(enough * 0.92, information_bits * 1.04, "too small for all of it", ha="right", va="bottom", fontsize=10.5)
    axes.set(xscale="log", xlim=(left, right), ylim=(0, information_bits * 1.16))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def rate_map(rows: Sequence[Mapping], down: str = "rank") -> Figure:
    """A map of exact match over learning rate and `down`: each cell the mean of its seeds, a row's best cell outlined.

    Between equals the lower test loss decides, as in `results.rows.best_rate`.
    Cells that were not run are blank, those where no seed survived say "div."; where some did, the mean is theirs and
    the number of the others stands below, and such a cell is never called best. Raises ValueError if nothing finished.
    """
    require_finished(rows, ["exact_match"])
    downs, rates = (sorted({row[key] for row in rows}, key=lambda v: (v is None, v)) for key in (down, "learning_rate"))
    cells = grouped(rows, lambda row: (row[down], row["learning_rate"]))
    means, losses = (
        {place: mean_of(scored, measure) for place, cell in cells.items() if (scored := usable(cell, measure))}
        for measure in ("exact_match", "loss")
    )
    best = {}
    for y in downs:
        whole = [x for x in rates if (y, x) in means and all(row["status"] == "finished" for row in cells[y, x])]
        if whole:
            best[y] = max(whole, key=lambda x, y=y: (means[y, x], -losses.get((y, x), math.inf)))
    figure = new_figure(max(5.0, 2.2 + 0.95 * len(rates)), 1.5 + 0.45 * len(downs))
    ranks = {row["rank"] for row in rows}
    same = f" at rank {ranks.pop()}" if down != "rank" and len(ranks) == 1 else ""
    axes = style(figure.add_subplot(), f"Exact match{same}: darker is better", "learning rate", VARIABLES[down])
    low, high = min(means.values()), max(means.values())
    for (y, x), cell in cells.items():
        diverged = sum(row["status"] == "diverged" for row in cell)
        shade, text = None, "div." if diverged else ""
        if (y, x) in means:
            shade = (means[y, x] - low) / (high - low) if high > low else 0.5
            text = f"{means[y, x]:.2f}" + (f"\n{diverged} div." if diverged else "")
        if text:
            _draw_cell(axes, rates.index(x), downs.index(y), shade, text, outlined=best.get(y) == x)
    axes.set_xticks(range(len(rates)), map(value_in_words, rates))
    axes.set_yticks(range(len(downs)), map(value_in_words, downs))
    axes.set(xlim=(-0.5, len(rates) - 0.5), ylim=(len(downs) - 0.5, -0.5))
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    found = [
        f"{VARIABLES[down]} {value_in_words(y)} is best at {value_in_words(x)} with {means[y, x]:.2f}"
        for y, x in best.items()
    ]
    words = f"Map of exact match (share of rows), {VARIABLES[down]} down and learning rate across. {'; '.join(found)}."
    return finished(figure, words + left_out_in_words(rows))


def by_targets(rows: Sequence[Mapping]) -> Figure:
    """Exact match of each targets and rank at their best rate, by seed. Raises ValueError if nothing finished."""
    require_finished(rows, ["exact_match"])
    settings = grouped(rows, lambda row: (setting_in_words(row), row["rank"], row["trainable_parameters"]))
    groups = {key: values for key, group in settings.items() if (values := at_best_rate(group))}
    figure = new_figure(9.0, 1.2 + 0.6 * len(groups))
    axes = style(
        figure.add_subplot(), "Dots are seeds, bars their means", "exact match (share of rows); higher is better", ""
    )
    ticks, found = [], []
    for place, ((setting, rank, parameters), group) in enumerate(groups.items()):
        values = [row["exact_match"] for row in group]
        label = f"{setting}, r = {rank}" if rank else setting
        ticks.append(f"{label}\n{parameters:,} parameters")
        axes.plot([mean(values)] * 2, [place - 0.3, place + 0.3], color=PALETTE["ink"], linewidth=3)
        dots = {"color": PALETTE["blue"], "markeredgecolor": "white", "alpha": 0.85}
        axes.plot(values, [place] * len(values), "o", markersize=9, **dots)
        found.append(f"{label} with {parameters:,} parameters {mean(values):.3g} ({range_in_words(values)})")
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_ylim(len(ticks) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.08)
    words = f"Exact match by targets, mean over seeds and range: {'; '.join(found)}.{left_out_in_words(rows)}"
    return finished(figure, words)


def sweep_losses(histories: Mapping[str, Sequence[Mapping]], steps: int, note: str = "") -> Figure:
    """Training loss against step for many runs, from light to dark in the order given.

    histories: label -> run.history; note: shown in the title.
    """
    figure = new_figure(10.0, 4.0)
    axes = style(figure.add_subplot(), f"Training loss{note}", "step", "loss (nats per completion token)")
    shades = RISING(np.linspace(0.3, 1, max(len(histories), 2)))
    for shade, look, (label, history) in zip(shades, cycle(SERIES), histories.items(), strict=False):
        axes.plot(
            [entry["step"] for entry in history],
            [entry["loss"] for entry in history],
            label=label,
            **(look | {"color": shade, "linewidth": 1.5, "markersize": 5}),
            markevery=max(1, steps // 10),
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlim=(0, steps + 1), ylim=(0, None))
    _legend(figure, "outside right upper", columns=1 + (len(histories) - 1) // 16)
    ends = ", ".join(f"{label} is at {history[-1]['loss']:.2f}" for label, history in histories.items() if history)
    return finished(figure, f"Training loss against step, light to dark: {ends or 'the first step is still to come'}.")


def _draw_band(axes: Axes, band: Mapping[float, Sequence[float]], label: str, look: Mapping) -> None:
    if band:
        x, ys = list(band), band.values()
        lows, highs = list(map(min, ys)), list(map(max, ys))
        axes.fill_between(x, lows, highs, color=look["color"], alpha=0.2, linewidth=0)
        axes.vlines(x, lows, highs, color=look["color"], linewidth=1.2)  # a band of a single value has no width
        axes.plot(x, list(map(mean, ys)), label=label, markersize=6, **look)


def _draw_stars(axes: Axes, own: Mapping[float, Sequence[float]]) -> None:
    points = [(x, y) for x, ys in own.items() for y in ys]
    if points:
        axes.plot(*zip(*points, strict=True), label="your run", **STAR, **WHOLE)


def _draw_cell(axes: Axes, x: int, y: int, shade: float | None, text: str, outlined: bool) -> None:
    """One cell of a map. shade: 0 to 1; None for a setting that diverged."""
    colour = PALETTE["light"] if shade is None else RISING(shade)
    ink = "white" if np.dot(to_rgb(colour), [0.299, 0.587, 0.114]) < 0.45 else PALETTE["ink"]
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.5))
    if outlined:
        axes.add_patch(Rectangle((x - 0.44, y - 0.42), 0.88, 0.84, fill=False, edgecolor=ink, linewidth=2))
    axes.text(x, y, text, ha="center", va="center", fontsize=10.5, linespacing=0.95, color=ink)


def _log_axis(axes: Axes, stored: list[float], own: list[float], base: int) -> None:
    """A logarithmic x axis whose ticks are the values that were run; the learner's lie between them."""
    if not stored + own:
        return
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_locator(FixedLocator(stored or own))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(min(stored + own) / 1.5, max(stored + own) * 1.5)


def _legend(figure: Figure, where: str, columns: int) -> None:
    """One legend for all axes, outside them."""
    entries = {}
    for axes in figure.axes:
        entries |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    if entries:
        figure.legend(entries.values(), entries, loc=where, ncols=columns, frameon=False, fontsize=10)
