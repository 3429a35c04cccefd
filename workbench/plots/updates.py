"""Figures of lesson 07: what an update holds, how new its directions are, and the ways back from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from workbench.analysis.places import Place
from workbench.plots.live import LivePicture
from workbench.plots.runs import METHOD_STYLE
from workbench.plots.style import (
    LIGHT_TO_DARK,
    PALETTE,
    RING,
    SERIES,
    TIMES,
    Figure,
    Look,
    described,
    legend_below,
    log_x,
    new_figure,
    style,
)
from workbench.results.noise import two_standard_errors

Ways = Mapping[str, Mapping[str, Place]]  # way -> setting -> where that model stands
TIMES_BASE = "perplexity on other text, times the base's"


def energy_map(grid: Mapping[str, Mapping[int | None, float]], title: str) -> Figure:
    """A share of 0 to 1 for each kind of module (rows) and block (columns); dark is much. grid: of `energy_grid`."""
    blocks = sorted({block for row in grid.values() for block in row}, key=lambda block: -1 if block is None else block)
    shares = np.array([[row.get(block, np.nan) for block in blocks] for row in grid.values()])
    figure = new_figure(9.0, 1.5 + 0.28 * len(grid))
    axes = style(figure.add_subplot(), title, "block", "")
    image = axes.imshow(shares, cmap=LIGHT_TO_DARK, vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(grid)), list(grid))
    shown = range(0, len(blocks), 5)
    axes.set_xticks(shown, [str(blocks[place]) for place in shown])
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, format=PercentFormatter(1.0, decimals=0))
    bar.ax.tick_params(labelsize=10)
    words = ", ".join(f"{kind} {np.nanmean(row):.0%}" for kind, row in zip(grid, shares, strict=True))
    return described(figure, f"{title}. Means over {len(blocks)} blocks: {words}.")


def score_by_rank(scores: Mapping[str, Mapping[str, float]], rows: int, title: str) -> Figure:
    """Exact match of runs whose update was cut. scores: method -> {rank in words: share}, the last one uncut.

    The bars are two standard errors of the `rows` test rows.
    """
    figure = new_figure(9.0, 3.8)
    axes = style(figure.add_subplot(), title, "largest directions kept in each weight", "exact match")
    labels = list(dict.fromkeys(label for found in scores.values() for label in found))
    labels.sort(key=lambda label: (not label.isdigit(), int(label) if label.isdigit() else 0))
    words = []
    for method, found in scores.items():
        places = [labels.index(label) for label in found]
        errors = [two_standard_errors(share, rows) for share in found.values()]
        look = METHOD_STYLE[method] | {"markersize": 7, "capsize": 3, "elinewidth": 1, "label": method}
        axes.errorbar(places, list(found.values()), yerr=errors, **look)
        words.append(f"{method} " + ", ".join(f"{share:.0%} with {label}" for label, share in found.items()))
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylim(-0.04, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    legend_below(figure, axes)
    return described(figure, f"Exact match by directions kept: {'; '.join(words)}.")


def pushed(found: Mapping[str, Mapping[float, tuple[int, float]]], looked_at: int, title: str) -> Figure:
    """Intruders, and the perplexity of other text, of updates that are multiplied by a factor.

    found: method -> {factor: (intruders, perplexity as a multiple of the base's)}. looked_at: directions in all.
    """
    figure = new_figure(10.0, 3.8)
    left, right = figure.subplots(1, 2)
    style(left, f"Intruders, of {looked_at} directions", "factor of the update", "intruders")
    style(right, "Perplexity on other text", "factor of the update", "times the base's")
    words = []
    for method, own in found.items():
        look = METHOD_STYLE[method] | {"markersize": 8, "label": method}
        for place, axes in enumerate((left, right)):
            axes.plot(list(own), [pair[place] for pair in own.values()], **look)
        words += [f"{method} times {factor:g}: {count} and {times:.2g}" for factor, (count, times) in own.items()]
    factors = sorted({factor for own in found.values() for factor in own})
    for axes in (left, right):
        log_x(axes, factors, base=2)
    most = max(count for own in found.values() for count, _ in own.values())
    left.set_ylim(-0.06 * max(most, 5), 1.15 * max(most, 5))
    left.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    right.set_yscale("log")
    right.yaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    legend_below(figure, left)
    return described(figure, f"Intruders, and perplexity as a multiple of the base's. {'; '.join(words)}.")


def ways_back(ways: Ways, base: Place, tuned: Place, title: str, mark: Place | None = None) -> Figure:
    """Score against forgetting: the tuned model at the right, the base at the left, and models in between.

    Up and left is better. A way is a line; one whose name begins with "drop" has settings in no order, and marks alone.
    mark: the place to put a ring around.
    """
    figure = new_figure(9.0, 4.4)
    axes = style(figure.add_subplot(), title, TIMES_BASE, "exact match on the task")
    words = []
    for look, (way, settings) in zip(SERIES[1:], ways.items(), strict=False):
        ordered = not way.startswith("drop")
        places = [*([base] if ordered else []), *settings.values(), *([tuned] if ordered else [])]
        marks: Look = look | {"markersize": 8, "label": way} | ({} if ordered else {"linestyle": "none"})
        axes.plot([one.times for one in places], [one.exact_match for one in places], **marks)
        for name, one in ({} if ordered else settings).items():
            axes.annotate(name, (one.times, one.exact_match), (7, -3), textcoords="offset points", fontsize=10)
        words += [f"{way}, {name}: {one.exact_match:.0%}, {one.times:.2g}x" for name, one in settings.items()]
    for name, one, marker in (("base", base, "x"), ("as trained", tuned, "*")):
        own: Look = {"marker": marker, "markersize": 14, "linestyle": "none", "color": PALETTE["ink"]}
        axes.plot([one.times], [one.exact_match], label=name, **own)
        words.append(f"{name}: {one.exact_match:.0%}, {one.times:.2g}x")
    if mark:
        axes.plot([mark.times], [mark.exact_match], **RING)
    _log_times(axes)
    axes.set_ylim(-0.06, 1.06)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    legend_below(figure, axes, columns=3)
    return described(figure, f"Exact match, and perplexity as a multiple of the base's. {'; '.join(words)}.")


class LiveWays(LivePicture):
    """Draws each model's place when it has been scored: `along(..., on_place=LiveWays(base, tuned, name).on_place)`.

    name: of the tuned model, in the title.
    """

    def __init__(self, base: Place, tuned: Place, name: str) -> None:
        super().__init__()
        self.base, self.tuned, self.name = base, tuned, name

    def on_place(self, ways: Ways, left: int) -> None:
        """The callback. left: models that are not scored yet."""
        title = f"{self.name}: ways back to the base" + (f", a mark a model, {left} left" if left else "")
        self._redraw(not left, lambda: ways_back(ways, self.base, self.tuned, title))


def kl_and_forgetting(models: Mapping[str, Sequence[Place]], title: str) -> Figure:
    """Forgetting against KL on the task's prompts, both axes logarithmic, a mark a model. models: method -> places."""
    figure = new_figure(9.0, 4.0)
    which = "KL(base || model) on the task's prompts, nats a token"
    axes = style(figure.add_subplot(), title, which, f"other text, {TIMES} the base's perplexity")
    for method, places in models.items():
        look = METHOD_STYLE[method] | {"markersize": 8, "linestyle": "none", "label": f"{method} and its parts"}
        axes.plot([one.kl for one in places], [one.times for one in places], **look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 5 else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 7)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    legend_below(figure, axes)
    words = "; ".join(
        f"{method}: KL {min(one.kl for one in places):.2g} to {max(one.kl for one in places):.2g}, "
        f"{min(one.times for one in places):.2g} to {max(one.times for one in places):.2g} times"
        for method, places in models.items()
    )
    return described(figure, f"Forgetting against KL, one mark a model. {words}.")


def _log_times(axes: Axes) -> None:
    """A logarithmic x axis of multiples, with plain numbers."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    subs = (1, 2, 5) if high / low > 8 else (1, 1.5, 2, 3, 4, 5, 6, 7)
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=30))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
