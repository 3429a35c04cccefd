"""Figures of quantization: each function takes numbers and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, PercentFormatter

from workbench.plots.style import PALETTE, SERIES, Figure, described, legend_below, log_x, new_figure, style

KIND_STYLE = dict(zip(("int4", "nf4", "fp4", "int8"), SERIES, strict=False))


@dataclass(frozen=True)
class CodeUse:
    """The weights of a layer, and how often each value of a code book stands for one of them.

    centres, shares: a histogram of the weights divided by their block's absmax, -1 to 1. values, used: the code book,
    rising, and the share of weights that each of its values stands for.
    """

    centres: Sequence[float]
    shares: Sequence[float]
    values: Sequence[float]
    used: Sequence[float]


def code_uses(uses: Mapping[str, CodeUse], title: str) -> Figure:
    """The use of each code book over the histogram of the weights, side by side. uses: kind -> its use."""
    figure = new_figure(10.5 if len(uses) > 1 else 6.5, 3.6)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    top = max(max(use.used) for use in uses.values())
    panels = figure.subplots(1, len(uses), sharey=True, squeeze=False)[0]
    for axes, (kind, use) in zip(panels, uses.items(), strict=True):
        draw_code_use(axes, use, kind, top)
        axes.set_ylabel("share of weights" if kind == next(iter(uses)) else "")
    words = "; ".join(
        f"{kind}: the busiest of {len(use.used)} values stands for {max(use.used):.0%} of the weights"
        for kind, use in uses.items()
    )
    return described(figure, f"Shares of weights by value of the code book, over the weights' own histogram. {words}.")


def draw_code_use(axes: Axes, use: CodeUse, kind: str, top: float) -> None:
    """Lines: the share of weights that each value stands for. Grey: the weights' histogram, drawn as high as `top`."""
    style(axes, f"{kind}: weights by code", "weight / absmax", "share of weights")
    shape = np.asarray(use.shares) / max(use.shares) * top
    axes.fill_between(use.centres, shape, step="mid", color=PALETTE["light"], linewidth=0)
    width = 3.5 if len(use.values) <= 16 else 1.0
    axes.vlines(use.values, 0, use.used, color=KIND_STYLE[kind]["color"], linewidth=width)
    axes.set_xlim(-1.05, 1.05)
    axes.set_ylim(0, 1.08 * top)
    _few_ticks(axes, (-1, -0.5, 0, 0.5, 1))


def outlier_errors(sizes: Sequence[float], errors: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Error of the other weights of a block against the size of its one outlier.

    sizes: in standard deviations of the others. errors: name -> relative error at each size.
    """
    figure = new_figure(8.0, 3.7)
    axes = style(
        figure.add_subplot(),
        title,
        "size of the outlier (standard deviations of the others)",
        "their relative error",
    )
    for look, (name, row) in zip(SERIES, errors.items(), strict=False):
        axes.plot(sizes, row, label=name, markersize=5, **look)
    log_x(axes, sizes, base=2)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0)
    legend_below(figure, axes)
    ends = "; ".join(f"{name} from {row[0]:.1%} to {row[-1]:.1%}" for name, row in errors.items())
    return described(figure, f"Relative error of a block's other weights as its outlier grows: {ends}.")


def changes(found: Mapping[str, tuple[float, float, float]], title: str, across: str) -> Figure:
    """Changes with their 95 % intervals, a row each; on a logarithmic axis if one of them may be more than threefold.

    found: label -> change, and the ends of its interval, as shares: 0.1 is 10 % more. across: what has changed.
    """
    figure = new_figure(9.0, 1.6 + 0.42 * len(found))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes = style(figure.add_subplot(), "", across, "")
    wide = max(high for _, _, high in found.values()) > 2
    for place, row in enumerate(found.values()):
        middle, low, high = (1 + value if wide else value for value in row)
        look = SERIES[0] | {"linestyle": "none", "markersize": 8, "capsize": 5}
        axes.errorbar([middle], [place], xerr=[[max(middle - low, 0)], [max(high - middle, 0)]], **look)
        words = f"{middle:,.{0 if middle >= 100 else 2}f} times" if wide else f"{middle:+.1%}"
        axes.annotate(words, (middle, place), (0, 8), textcoords="offset points", ha="center", fontsize=10)
    axes.axvline(1 if wide else 0, color=PALETTE["grey"], linewidth=1)
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.7)
    axes.margins(x=0.12)
    axes.grid(axis="y", visible=False)
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g} times")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    words = "; ".join(f"{label}: {each[0]:+.1%} ({each[1]:+.1%} to {each[2]:+.1%})" for label, each in found.items())
    return described(figure, f"{title}. Change with its 95 % interval. {words}.")


def code_and_error(use: CodeUse, kind: str, errors: tuple[Sequence[float], Sequence[float]]) -> Figure:
    """The live picture of notebook 03: the use of the code book, and the histogram of the errors.

    errors: centres and shares; an error is measured against the RMS of the layer's weights.
    """
    figure = new_figure(10.5, 3.6, layout=None)
    draw_code_use(figure.add_axes((0.08, 0.16, 0.4, 0.73)), use, kind, max(use.used))
    right = style(
        figure.add_axes((0.57, 0.16, 0.41, 0.73)),
        "Error of each weight",
        "error / RMS weight (ends: all beyond)",
        "share",
    )
    centres, shares = errors
    right.fill_between(centres, shares, step="mid", color=PALETTE["orange"], linewidth=0)
    right.set_xlim(centres[0], centres[-1])
    right.set_ylim(0, 1.08 * max(shares))
    _few_ticks(right, [centres[0], centres[0] / 2, 0, centres[-1] / 2, centres[-1]])
    right.xaxis.set_major_formatter(PercentFormatter(1.0))
    busiest = max(range(len(use.used)), key=use.used.__getitem__)
    return described(
        figure,
        f"{kind}: the busiest of {len(use.used)} values, {use.values[busiest]:.3f}, stands for "
        f"{use.used[busiest]:.0%} of the weights.",
    )


def _few_ticks(axes: Axes, across: Sequence[float]) -> None:
    """Ticks at `across` and at most five up, in percent: text takes most of the drawing time."""
    axes.xaxis.set_major_locator(FixedLocator(across))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def block_of_weights(weights: Sequence[float], restored: Sequence[float], levels: Sequence[float], kind: str) -> Figure:
    """A few weights as bars, the values that their block's code book allows as lines, the restored weights as dots."""
    figure = new_figure(9.0, 3.8)
    axes = style(figure.add_subplot(), f"A block of weights in {kind}", "which weight", "value")
    axes.hlines(levels, 0.4, len(weights) + 0.6, color=PALETTE["light"], linewidth=0.7, label="values of the code book")
    places = range(1, len(weights) + 1)
    axes.bar(places, weights, width=0.5, color=PALETTE["silver"], label="weight")
    axes.plot(places, restored, "o", color=PALETTE["orange"], markersize=8, label="restored")
    axes.set_xticks(places)
    axes.set_xlim(0.4, len(weights) + 0.6)
    axes.grid(visible=False)
    legend_below(figure, axes)
    pairs = "; ".join(f"{weight:.3g} becomes {back:.3g}" for weight, back in zip(weights, restored, strict=True))
    return described(figure, f"A block of {len(weights)} weights stored in {kind} and restored: {pairs}.")
