"""Figures of lesson 05: what the learning rate does, for each rank or alpha, in bits memorised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import mean

from matplotlib.ticker import NullLocator

from workbench.plots.style import (
    PALETTE,
    SERIES,
    Figure,
    described,
    legend_below,
    log_x,
    new_figure,
    style,
)
from workbench.results.rows import grouped, usable, value_in_words


def bits_by_rate(rows: Sequence[Mapping], down: str, information_bits: float, title: str) -> Figure:
    """Share of the bits that were memorised against learning rate, a line for each value of `down`.

    rows: with memorised_bits. down: "rank" (None is full fine-tuning) or "alpha". Points are runs, lines go through
    the mean of their seeds.
    """
    figure = new_figure(9.0, 3.9)
    axes = style(figure.add_subplot(), title, "learning rate", "share of the bits memorised")
    words = []
    groups = grouped(usable(rows, "memorised_bits"), lambda row: row[down])
    for look, (value, own) in zip(cycle(SERIES), groups.items(), strict=False):
        label = f"{down} {value_in_words(value)}" if value is not None else "full fine-tuning"
        by_rate = dict(sorted(grouped(own, lambda row: row["learning_rate"]).items()))
        shares = {rate: [row["memorised_bits"] / information_bits for row in some] for rate, some in by_rate.items()}
        axes.plot(list(shares), [mean(some) for some in shares.values()], label=label, markersize=6, **look)
        points = [(rate, share) for rate, some in shares.items() for share in some]
        axes.plot(*zip(*points, strict=True), ".", color=look["color"], markersize=5, alpha=0.6)
        best = max(shares, key=lambda rate: mean(shares[rate]))
        words.append(f"{label} is highest at {best:g} with {mean(shares[best]):.0%}")
    axes.axhline(1.0, color=PALETTE["ink"], linewidth=1, label="all of them")
    log_x(axes, sorted({row["learning_rate"] for row in rows}))
    axes.tick_params(axis="x", rotation=30)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.04, 1.08)
    legend_below(figure, axes, columns=6)
    return described(figure, f"Share of the bits memorised against learning rate: {'; '.join(words)}.")
