"""Figures that decide between methods: scores by learning rate, differences row by row, gain against forgetting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from workbench.plots.runs import METHOD_STYLE
from workbench.plots.style import PALETTE, SERIES, Figure, Look, described, legend_below, new_figure, style
from workbench.results.equal_score import AtRate
from workbench.results.noise import rows_of, two_standard_errors
from workbench.results.paired import MARGIN, Comparison
from workbench.results.rows import Row, best_rate, grouped, swept_rate


def score_by_rate(rows: Sequence[Row]) -> Figure:
    """Exact match against learning rate, a line a method through the mean of its seeds.

    rows: of `reference.compared`. The bars are two standard errors of the
    test sample. A hybrid is drawn at the rate of its opened modules.
    """
    figure = new_figure(9.0, 3.8)
    axes = figure.add_subplot()
    best, words = {}, []
    for method, own in grouped(rows, lambda row: row["method"]).items():
        by_rate = dict(sorted(grouped(own, swept_rate).items()))
        means = {rate: mean(row["exact_match"] for row in some) for rate, some in by_rate.items()}
        errors = [two_standard_errors(means[rate], min(map(rows_of, some))) for rate, some in by_rate.items()]
        look = METHOD_STYLE[method] | {"markersize": 6, "capsize": 3, "elinewidth": 1, "label": method}
        axes.errorbar(list(means), list(means.values()), yerr=errors, **look)
        best[method] = best_rate(own)
        words.append(f"{method} is highest at {best[method]:g} with {means[best[method]]:.2f}")
    title = "Score at each learning rate"
    if {"lora", "full"} <= best.keys():
        title = f"LoRA is best at {best['lora'] / best['full']:.2g} times the rate that is best for full"
    style(axes, title, "learning rate", "exact match (share of rows)")
    _log_axis(axes)
    axes.set_ylim(-0.04, 1.04)
    legend_below(figure, axes, columns=5)
    return described(figure, f"Exact match against learning rate: {'; '.join(words)}.")


def paired_differences(found: Mapping[str, Comparison], title: str) -> Figure:
    """Differences with their 95 % intervals, a row each, over the band in which methods are on par.

    found: label -> comparison, the first method minus the second. title: what they say.
    """
    figure = new_figure(9.0, 1.6 + 0.42 * len(found))
    axes = style(figure.add_subplot(), title, "points of exact match; the bar is the 95 % interval", "")
    axes.axvspan(-MARGIN, MARGIN, color=PALETTE["light"], alpha=0.6, label=f"on par (within {MARGIN:g} points)")
    axes.axvline(0, color=PALETTE["grey"], linewidth=1)
    for place, one in enumerate(found.values()):
        sides = [[max(one.difference - one.low, 0)], [max(one.high - one.difference, 0)]]
        look = SERIES[0] | {"linestyle": "none", "markersize": 9, "capsize": 5}
        axes.errorbar([one.difference], [place], xerr=sides, **look)
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)
    reach = max(6.0, *(max(abs(one.low), abs(one.high)) for one in found.values())) * 1.1
    axes.set_xlim(-reach, reach)
    axes.grid(axis="y", visible=False)
    legend_below(figure, axes)
    words = "; ".join(
        f"{label}: {one.difference:+.1f} ({one.low:.1f} to {one.high:.1f})" for label, one in found.items()
    )
    return described(figure, f"Differences in points with 95 % intervals. {words}.")


def gain_and_forgetting(
    by_rate: Mapping[str, Sequence[AtRate]], runs: Sequence[tuple[str, str, float, float]], title: str
) -> Figure:
    """Score against what was forgotten: a line a method through its learning rates; up and left is better.

    by_rate: method -> means over seeds, in rising order of the rates. runs: (label, method, nats gained on general
    text, exact match) of the learner's own, drawn large. The axis shows e to the nats: times the base's perplexity.
    """
    figure = new_figure(9.0, 4.2)
    axes = style(figure.add_subplot(), title, "perplexity on other text, times the base's", "exact match")
    words = []
    for method, means in by_rate.items():
        look = METHOD_STYLE[method] | {"markersize": 5, "linewidth": 1.2, "label": f"{method}, study"}
        axes.plot([math.exp(one.forgetting) for one in means], [one.exact_match for one in means], **look)
        words += [
            f"{method} at {one.learning_rate:g}: {one.exact_match:.0%}, {math.exp(one.forgetting):.3g}x"
            for one in means
        ]
    for label, method, forgotten, score in runs:
        own: Look = {"marker": METHOD_STYLE[method]["marker"], "color": METHOD_STYLE[method]["color"]}
        own |= {"markersize": 13, "linestyle": "none", "markeredgecolor": PALETTE["ink"], "label": f"{label}, yours"}
        axes.plot([math.exp(forgotten)], [score], **own)
        words.append(f"your {label}: {score:.0%}, {math.exp(forgotten):.3g}x")
    _log_axis(axes)
    axes.margins(y=0.1)
    legend_below(figure, axes, columns=4)
    return described(figure, f"Exact match against perplexity on other text. {'; '.join(words)}.")


def update_directions(spectra: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Singular values of updates of one weight matrix, on logarithmic axes. spectra: label -> values, largest first."""
    figure = new_figure(9.0, 3.8)
    axes = style(figure.add_subplot(), title, "which singular value", "its size")
    looks = {"LoRA": METHOD_STYLE["lora"], "full": METHOD_STYLE["full"]}
    words = []
    for name, values in spectra.items():
        kept = [value for value in values if value > 1e-6 * values[0]]
        look = looks.get(name, METHOD_STYLE["base"] | {"linestyle": ":"}) | {"markersize": 4, "label": name}
        axes.plot(np.arange(1, len(kept) + 1), kept, markevery=0.05, **look)
        words.append(f"{name}: {len(kept)} values from {kept[0]:.3g} to {kept[-1]:.3g}")
    _log_axis(axes)
    axes.set_yscale("log")
    legend_below(figure, axes)
    return described(figure, f"Singular values on logarithmic axes. {'; '.join(words)}.")


def _log_axis(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers at 1, 2 and 5 of each decade."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1, 2, 5) if high / low < 300 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=30))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
