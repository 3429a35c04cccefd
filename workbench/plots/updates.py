"""Figures of lesson 01: an update made of two thin matrices, what its rank lets through, and how descent finds it."""

# ruff: noqa: N803 - matrices keep the capital letters that the papers give them

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from workbench.plots.lowrank import draw_matrices
from workbench.plots.style import (
    MATRIX_COLOURS,
    PALETTE,
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


def equation(W: np.ndarray, B: np.ndarray, A: np.ndarray) -> Figure:
    """W + B times A = W + dW, each cell drawn equally large; W and W + dW on one colour scale."""
    first, last = "W, frozen", "W + dW, in use"
    pictures = {first: W, "B": B, "A": A, last: W + B @ A}
    figure = new_figure(10.0, 2.6)
    draw_matrices(figure.add_subplot(), pictures, ("+", TIMES, "="), shared=(first, last))
    figure.suptitle("W stays as it is; B times A adds the update", x=0.01, ha="left", fontsize=12, fontweight="bold")
    rank = A.shape[0]
    return described(
        figure,
        f"W, {W.shape[0]} by {W.shape[1]}, holds faint noise. Added to it is B, {B.shape[0]} by {rank}, times A, "
        f"{rank} by {A.shape[1]}. In the sum, drawn on the same colours, the update stands out of the noise.",
    )


def gallery(pictures: Mapping[str, np.ndarray], title: str, shared: bool = False, columns: int = 4) -> Figure:
    """Matrices of one size in rows of `columns`. pictures: title -> matrix. shared: all on one colour scale."""
    rows = -(-len(pictures) // columns)
    figure = new_figure(10.0, 0.6 + 1.85 * rows)
    limits = {name: max(np.abs(matrix).max(), 1e-12) for name, matrix in pictures.items()}
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (name, matrix) in zip(panels, pictures.items(), strict=False):
        limit = max(limits.values()) if shared else limits[name]
        axes.imshow(matrix, cmap=MATRIX_COLOURS, vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set_title(name, fontsize=11)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    return described(figure, f"{title}. Pictures of matrices, in order: {', '.join(pictures)}.")


def spectra(values: Mapping[str, Sequence[float]], title: str) -> Figure:
    """Singular values of several matrices, each divided by its largest. values: name -> values, largest first."""
    figure = new_figure(8.5, 3.8)
    axes = style(figure.add_subplot(), title, "which singular value", "size, as a share of the largest")
    for look, (name, row) in zip(SERIES, values.items(), strict=False):
        axes.plot(range(1, len(row) + 1), np.asarray(row) / row[0], label=name, markersize=5, **look)
    axes.set_yscale("log")
    axes.set_ylim(1e-4, 1.6)
    percent_log(axes)
    legend_below(figure, axes)
    ends = ", ".join(f"{name} has fallen to {row[7] / row[0]:.2g}" for name, row in values.items())
    return described(figure, f"Line chart of singular values on a logarithmic axis. At the eighth value {ends}.")


def descents(missed: Mapping[int, Sequence[float]], floors: Mapping[int, float], title: str) -> Figure:
    """What is missed before each step of descent, a line a rank, on logarithmic axes; dotted, the best possible.

    missed: rank -> share at step 0, 1, 2 ... floors: rank -> the best possible share.
    """
    figure = new_figure(8.5, 4.0)
    axes = style(figure.add_subplot(), title, "step of gradient descent", "part of the update missed")
    last = max(len(row) for row in missed.values()) - 1
    for look, (rank, row) in zip(SERIES, missed.items(), strict=False):
        marks: Look = look | {"markersize": 5, "markevery": 0.12}
        axes.plot(range(1, len(row)), row[1:], label=f"rank {rank}", **marks)
        axes.axhline(floors[rank], color=look["color"], linewidth=1.1, linestyle=(0, (1, 2)))
    axes.plot([], [], color=PALETTE["ink"], linewidth=1.1, linestyle=(0, (1, 2)), label="best possible")
    log_x(axes, [step for step in (1, 3, 10, 30, 100, 300, 1000) if step <= last])
    axes.set_yscale("log")
    axes.set_ylim(0.7 * min(floors.values()), 1.3)
    percent_log(axes)
    legend_below(figure, axes, columns=5)
    ends = {rank: row[-1] for rank, row in missed.items()}
    words = ", ".join(f"rank {rank} ends at {end:.1%}, the best is {floors[rank]:.1%}" for rank, end in ends.items())
    return described(figure, f"Part of the update missed against step, both axes logarithmic: {words}.")


def errors_by_rank(best: Mapping[str, Sequence[float]], found: Mapping[str, Mapping[int, float]], title: str) -> Figure:
    """What is missed at each rank: the best possible as lines, what descent found as open marks.

    best: name -> errors at rank 0, 1, 2 ... found: name -> {rank: error}.
    """
    figure = new_figure(8.5, 4.2)
    axes = style(figure.add_subplot(), title, "rank r", "part of the update missed")
    for look, (name, errors) in zip(SERIES, best.items(), strict=False):
        axes.plot(range(len(errors)), errors, color=look["color"], linestyle=look["linestyle"], label=f"{name}, best")
        ring: Look = {"marker": look["marker"], "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.8}
        ranks, missed = list(found[name]), list(found[name].values())
        axes.plot(ranks, missed, color=look["color"], linestyle="", label=f"{name}, descent", **ring)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(0, 1.03)
    legend_below(figure, axes, columns=len(best))
    words = "; ".join(
        f"{name}: at rank {rank} the best misses {errors[rank]:.0%}, descent {found[name][rank]:.0%}"
        for name, errors in best.items()
        for rank in found[name]
    )
    return described(figure, f"Error against rank, best possible and found by gradient descent. {words}.")


def percent_log(axes: Axes) -> None:
    """Label a logarithmic y axis in percent."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.yaxis.set_minor_formatter(NullFormatter())
