"""The figure of AdapterLab: a trained adapter after changes, compared with the base and the adapter as trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from workbench.plots.style import PALETTE, SERIES, Figure, described, new_figure, style

STATES = {"base": PALETTE["grey"], "trained": PALETTE["silver"], "now": PALETTE["blue"]}


def adapter_lab(
    exact: Mapping[str, float],
    forgotten: Mapping[str, float],
    spectra: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    memory: Mapping[str, float],
) -> Figure:
    """Task score, forgetting, singular values of the update, and bytes of the base and the adapter.

    exact: "base", "trained", "now" -> share of test rows. forgotten: "trained", "now" -> loss gained on general text
    (nats a token). Both may be NaN where they are not known yet. spectra: group of modules -> median singular values
    (as trained, now). memory: part -> MB.
    """
    figure = new_figure(10.5, 3.9, layout=None)
    places = ((0.078, 0.165), (0.328, 0.135), (0.545, 0.215), (0.84, 0.155))  # left edge and width
    score, loss, sizes, weights = (figure.add_axes((left, 0.26, width, 0.64)) for left, width in places)
    _bars(style(score, "Exact match", "", "share of test rows"), exact, "{:.0%}")
    score.set_ylim(0, 1.12)
    score.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    _bars(style(loss, "Forgetting", "", "nats a token over the base"), forgotten, "{:+.3f}")
    loss.axhline(0, color=PALETTE["ink"], linewidth=1)
    loss.margins(y=0.25)
    style(sizes, "Singular values", "which, largest first", "median over the update's layers")
    for look, (group, (trained, now)) in zip(SERIES, spectra.items(), strict=False):
        sizes.plot(range(1, len(trained) + 1), trained, marker=look["marker"], color=PALETTE["silver"], markersize=5)
        if len(now):
            sizes.plot(range(1, len(now) + 1), now, label=f"{group}, now", markersize=6, **look)
    sizes.plot([], [], color=PALETTE["silver"], label="as trained")
    sizes.xaxis.set_major_locator(MaxNLocator(integer=True))
    sizes.set_ylim(bottom=0)
    figure.legend(loc="lower center", ncols=4, frameon=False, fontsize=10.5)
    _bars(style(weights, "Weights", "", "MB"), memory, "{:,.3g}", [PALETTE["sky"], PALETTE["orange"]])
    weights.margins(y=0.15)
    parts = ", ".join(f"{part} {size:,.3g} MB" for part, size in memory.items())
    words = ", ".join(f"{state} {share:.0%}" for state, share in exact.items())
    return described(figure, f"Exact match: {words}. Forgetting now {forgotten['now']:+.3f} nats a token. {parts}.")


def _bars(axes: Axes, values: Mapping[str, float], form: str, colours: Sequence[str] | None = None) -> None:
    heights = [0 if math.isnan(value) else value for value in values.values()]
    labels = ["..." if math.isnan(value) else form.format(value) for value in values.values()]
    bars = axes.bar(list(values), heights, color=colours or [STATES[name] for name in values], width=0.65)
    axes.bar_label(bars, labels=labels, padding=3, fontsize=10.5)
    axes.grid(axis="x", visible=False)
