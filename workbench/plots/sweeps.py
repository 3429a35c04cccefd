"""Figures of rank sweeps: each function takes rows of stored runs and returns a Figure.

A row is one run, with the keys of `runs.table`; the rows of one figure are of one task. Runs that differ only in their
seed become a line through their means and a band from the lowest to the highest. `live` are the learner's own rows,
drawn as stars. Runs that did not finish are not drawn; the description says how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import mean
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from workbench.plots.runs import METHOD_STYLE
from workbench.plots.style import (
    PALETTE,
    RING,
    SERIES,
    TEN_SERIES,
    Figure,
    Look,
    described,
    log_x,
    new_figure,
    style,
)
from workbench.results.rows import (
    at_best_rate,
    band_in_words,
    bands,
    by_best_rate,
    grouped,
    left_out_in_words,
    range_in_words,
    require_finished,
    setting_in_words,
    usable,
)

# measure -> its name, its unit, and the function that picks its best value
MEASURES = {
    "exact_match": ("exact match", "share of rows", max),
    "loss": ("test loss", "nats a token", min),
    "forgetting": ("forgetting", "nats a token on general text", min),
}
BETTER = {max: "higher is better", min: "lower is better"}
VARIABLES = {"rank": "rank r", "learning_rate": "learning rate", "alpha": "alpha"}
FULL_LINE: Look = {"color": METHOD_STYLE["full"]["color"], "linestyle": "--", "linewidth": 1.8}
STAR: Look = {"marker": "*", "markersize": 15, "markerfacecolor": PALETTE["yellow"], "color": PALETTE["ink"]}
UNCLIPPED: Look = {"linestyle": "", "clip_on": False, "zorder": 4}  # for markers on the edge of the axes


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
            axes.axhline(mean(whole), label="full fine-tuning, mean", **FULL_LINE)
            found.append(f"full fine-tuning {mean(whole):.3g}")
        _draw_stars(axes, own)
        found.extend(f"your run at {value:g}: {', '.join(f'{y:.3g}' for y in ys)}" for value, ys in own.items())
        if mark in band:
            axes.plot([mark], [mean(band[mark])], label="chosen", **RING, **UNCLIPPED)
        _log_axis(axes, [*band], [*own], base=10 if across == "learning_rate" else 2)
        if measure != "forgetting":
            top = 1.0 if measure == "exact_match" else axes.get_ylim()[1]
            axes.set_ylim(-0.06 * top, 1.04 * top)
    _legend(figure, "outside lower center", columns=4)
    words = f"Line through the mean over seeds, band from lowest to highest. {'; '.join(found)}."
    return described(figure, words + left_out_in_words([*rows, *live]))


def bits_against_parameters(
    rows: Sequence[Mapping], live: Sequence[Mapping], information_bits: float, bits_a_parameter: float
) -> Figure:
    """Bits memorised against trainable parameters: a line for each setting of targets and layers, and one for adapters
    on a growing number of whole blocks.

    Each size is drawn at its own best learning rate. information_bits: in the data. bits_a_parameter: the capacity of a
    trainable parameter. Adapters of fewer than their ratio are too small for all of it; that part is shaded. Raises
    ValueError if no finished row has memorised_bits.
    """
    require_finished([*rows, *live], ["memorised_bits"])
    figure = new_figure(10.0, 4.4)
    axes = style(figure.add_subplot(), "What adapters have memorised", "trainable parameters", "bits memorised")
    found = []
    settings = grouped(usable(rows, "memorised_bits"), _family)
    for look, (label, group) in zip(cycle(TEN_SERIES), settings.items(), strict=False):
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
    return described(
        figure,
        f"Bits memorised against trainable parameters; there are {information_bits:,.0f} to learn, and at "
        f"{bits_a_parameter:g} bits a parameter fewer than {information_bits / bits_a_parameter:,.0f} parameters "
        f"cannot hold them. {'; '.join(found)}.{left_out_in_words([*rows, *live])}",
    )


def _family(row: Mapping) -> str:
    """The label of a row's line in a figure over sizes: everything about its adapters but their size."""
    if row["layers"] is None:
        return setting_in_words(row) + ("" if row["rank"] is None else ", all layers")
    if row["targets"] == "all-linear":
        return f"rank {row['rank']}, some blocks"
    return setting_in_words(row)


def _draw_bound(axes: Axes, information_bits: float, bits_a_parameter: float) -> None:
    """Draw the bits to learn, what a number of parameters can hold, and the sizes too small to hold all."""
    enough = information_bits / bits_a_parameter
    smallest, largest = axes.dataLim.intervalx
    right = 1.4 * max(largest, enough)
    left = min(smallest / 2, enough * (enough / right) ** 0.35)  # leaves room for the label
    x = np.geomspace(left, enough, 100)
    axes.plot(x, bits_a_parameter * x, ":", color=PALETTE["ink"], label=f"{bits_a_parameter:g} bits a parameter")
    axes.axhline(information_bits, color=PALETTE["ink"], linewidth=1.0, label="all there is to learn")
    axes.axvspan(left, enough, color=PALETTE["light"], alpha=0.5, linewidth=0, zorder=0)
    # Above the line "all there is to learn", where no run can be.
    axes.text(enough * 0.92, information_bits * 1.04, "too small for all of it", ha="right", va="bottom", fontsize=10.5)
    axes.set(xscale="log", xlim=(left, right), ylim=(0, information_bits * 1.16))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def by_targets(rows: Sequence[Mapping]) -> Figure:
    """Exact match by seed of each targets and rank at its best rate. Raises ValueError if nothing finished."""
    require_finished(rows, ["exact_match"])
    settings = grouped(rows, lambda row: (setting_in_words(row), row["rank"], row["trainable_parameters"]))
    groups = {key: best for key, group in settings.items() if (best := at_best_rate(group))}
    means = {key: mean(row["exact_match"] for row in group) for key, group in groups.items()}
    low, high = (pick(means, key=lambda key: means[key]) for pick in (min, max))
    title = f"{low[0]} {means[low]:.0%}, {high[0]} {means[high]:.0%}: dots are seeds, bars their means"
    figure = new_figure(9.0, 1.2 + 0.6 * len(groups))
    axes = style(figure.add_subplot(), title, "exact match (share of rows); higher is better", "")
    ticks, found = [], []
    for place, (key, group) in enumerate(groups.items()):
        setting, rank, parameters = key
        values = [row["exact_match"] for row in group]
        label = f"{setting}, r = {rank}" if rank else setting
        ticks.append(f"{label}\n{parameters:,} parameters")
        axes.plot([means[key]] * 2, [place - 0.3, place + 0.3], color=PALETTE["ink"], linewidth=3)
        dots: Look = {"color": PALETTE["blue"], "markeredgecolor": "white", "alpha": 0.85}
        axes.plot(values, [place] * len(values), "o", markersize=9, **dots)
        found.append(f"{label} with {parameters:,} parameters {means[key]:.3g} ({range_in_words(values)})")
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_ylim(len(ticks) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.08)
    words = f"Exact match by targets, mean over seeds and range: {'; '.join(found)}.{left_out_in_words(rows)}"
    return described(figure, words)


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
        axes.plot(*zip(*points, strict=True), label="your run", **STAR, **UNCLIPPED)


def _log_axis(axes: Axes, stored: list[float], own: list[float], base: int) -> None:
    """Make the x axis logarithmic, with ticks at the stored values; the learner's lie between them."""
    if values := stored + own:
        log_x(axes, stored or own, base)
        axes.set_xlim(min(values) / 1.5, max(values) * 1.5)


def _legend(figure: Figure, where: Literal["outside lower center", "outside right upper"], columns: int) -> None:
    """Put one legend for all axes outside them; an entry that several axes have appears once."""
    entries: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        figure.legend(entries.values(), entries, loc=where, ncols=columns, frameon=False, fontsize=10)
