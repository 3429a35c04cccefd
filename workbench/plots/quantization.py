"""Figures of quantization: each function takes numbers and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from workbench.plots.style import PALETTE, SERIES, Figure, Look, described, legend_below, log_x, new_figure, style

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


def number_lines(books: Mapping[str, Sequence[float]]) -> Figure:
    """Code books on number lines from -1 to 1, one under the other. books: name -> values."""
    figure = new_figure(10.0, 0.9 + 0.55 * len(books))
    axes = style(figure.add_subplot(), "Code books: the only values a weight can take", "weight / absmax", "")
    for place, (name, values) in enumerate(books.items()):
        look = KIND_STYLE[name]
        marker = "|" if len(values) > 16 else look["marker"]
        axes.hlines(place, -1, 1, color=PALETTE["silver"], linewidth=0.8, zorder=1)
        axes.plot(values, [place] * len(values), marker, color=look["color"], markersize=8, linestyle="none")
    axes.set_yticks(range(len(books)), list(books))
    axes.set_ylim(len(books) - 0.5, -0.5)
    axes.set_xlim(-1.04, 1.04)
    axes.grid(visible=False, axis="y")
    words = "; ".join(
        f"{name} has {len(set(values))} values, the smallest above zero is {min(v for v in values if v > 0):.3f}"
        for name, values in books.items()
    )
    return described(figure, f"Code books as points on number lines from -1 to 1. {words}.")


def code_uses(uses: Mapping[str, CodeUse]) -> Figure:
    """The use of each code book over the histogram of the weights, side by side. uses: kind -> its use."""
    figure = new_figure(10.5, 3.4)
    top = max(max(use.used) for use in uses.values())
    for axes, (kind, use) in zip(figure.subplots(1, len(uses), sharey=True), uses.items(), strict=True):
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


def outlier_errors(sizes: Sequence[float], errors: Mapping[str, Sequence[float]], entries: int) -> Figure:
    """Error of the other weights of a block against the size of its one outlier.

    sizes: in standard deviations of the others. errors: kind -> relative error at each size.
    """
    figure = new_figure(8.0, 3.7)
    axes = style(
        figure.add_subplot(),
        f"One outlier, and what it does to the other {entries - 1} weights of its block",
        "size of the outlier (standard deviations of the others)",
        "their relative error",
    )
    for kind, row in errors.items():
        axes.plot(sizes, row, label=kind, markersize=5, **KIND_STYLE[kind])
    log_x(axes, sizes, base=2)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(bottom=0)
    legend_below(figure, axes)
    ends = "; ".join(f"{kind} from {row[0]:.1%} to {row[-1]:.1%}" for kind, row in errors.items())
    return described(figure, f"Relative error of a block's other weights as its outlier grows: {ends}.")


def error_against_bits(points: Mapping[str, Sequence[tuple[int, tuple[float, float], tuple[float, float]]]]) -> Figure:
    """Error of a layer against bits a parameter, a line a kind.

    points: kind -> (block size, plain, with double quantization) in rising order; the last two are each
    (bits a parameter, relative error).
    """
    figure = new_figure(9.0, 4.2)
    axes = style(
        figure.add_subplot(),
        "Smaller blocks: less error, more scales to store",
        "bits a parameter, scales included",
        "relative error",
    )
    for kind, rows in points.items():
        _, plain, double = zip(*rows, strict=True)
        axes.plot(*zip(*plain, strict=True), label=kind, markersize=6, **KIND_STYLE[kind])
        hollow: Look = {"linestyle": "none", "markerfacecolor": "none", "markersize": 9, "markeredgewidth": 1.6}
        axes.plot(*zip(*double, strict=True), label=f"{kind}, double quantization", **(KIND_STYLE[kind] | hollow))
        for pair in zip(plain, double, strict=True):  # the same weights
            axes.plot(*zip(*pair, strict=True), color=PALETTE["silver"], linewidth=0.9, zorder=0)
    highest = max(points.values(), key=lambda rows: rows[-1][1][1])
    for size, plain, _ in (highest[0], highest[-1]):
        axes.annotate(f"blocks of {size}", plain, (10, 6), textcoords="offset points", fontsize=10)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.margins(x=0.14, y=0.14)
    legend_below(figure, axes, columns=3)
    words = "; ".join(
        f"{kind}, blocks of {size}: {plain[1]:.1%} at {plain[0]:.2f} bits, {double[1]:.1%} at {double[0]:.2f} doubled"
        for kind, rows in points.items()
        for size, plain, double in (rows[0], rows[-1])
    )
    return described(figure, f"Relative error against bits a parameter. {words}.")


def bars(labels: Sequence[str], columns: Mapping[str, Sequence[float]], forms: Sequence[str], what: str) -> Figure:
    """One horizontal bar a label in each column, with its number.

    columns: title -> values. forms: the format of each column's numbers, e.g. "{:.0%}". what: begins the description.
    """
    figure = new_figure(10.5, 1.0 + 0.34 * len(labels), ConstrainedLayoutEngine(wspace=0.06))
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, (title, values), form in zip(panels, columns.items(), forms, strict=True):
        style(axes, title, "", "")
        axes.grid(axis="y", visible=False)
        drawn = axes.barh(labels, values, color=PALETTE["blue"], height=0.62)
        axes.bar_label(drawn, labels=[form.format(value) for value in values], padding=4, fontsize=10)
        axes.set_xlim(0, 1.4 * (max(values) or 1))
        axes.locator_params(axis="x", nbins=4)
        if "%" in form:
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    panels[0].invert_yaxis()
    rows = zip(labels, zip(*columns.values(), strict=True), strict=True)
    words = "; ".join(
        f"{label}: {', '.join(form.format(value) for form, value in zip(forms, values, strict=True))}"
        for label, values in rows
    )
    return described(figure, f"{what} ({', '.join(columns)}). {words}.")


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
