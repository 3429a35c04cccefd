"""Figures about one low-rank update and one LoRA layer, for the first two lessons."""

# ruff: noqa: N803 - matrices keep the capital letters that the papers give them

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator, PercentFormatter

from workbench.plots.style import (
    MATRIX_COLOURS,
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


def draw_matrices(axes: Axes, pictures: Mapping, signs: Sequence[str], shared: Sequence[str] = ()) -> None:
    """Draw matrices from left to right, with `signs` between them.

    shared: titles drawn on one common colour scale; every other picture has its own, from -max to +max.
    """
    common = max((abs(pictures[title]).max() for title in shared), default=0.0)
    tallest = max(matrix.shape[0] for matrix in pictures.values())
    left, gap, label_room = 0.0, 10, 17
    for title, matrix, sign in zip(pictures, pictures.values(), (*signs, ""), strict=True):
        rows, columns = matrix.shape
        room = max(columns, label_room)
        limit = max(common if title in shared else abs(matrix).max(), 1e-12)
        start, top = left + (room - columns) / 2, (tallest - rows) / 2
        extent = (start, start + columns, top + rows, top)
        axes.imshow(matrix, cmap=MATRIX_COLOURS, vmin=-limit, vmax=limit, extent=extent, interpolation="nearest")
        axes.text(left + room / 2, -2, f"{title}\n{rows} x {columns}", ha="center", va="bottom", fontsize=10.5)
        axes.text(left + room + gap / 2, tallest / 2, sign, ha="center", va="center", fontsize=15)
        left += room + gap
    axes.set_xlim(-1, left - gap + 1)
    axes.set_ylim(tallest + 1, -16)
    axes.set_aspect("equal")
    axes.set_axis_off()


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


def lora_layer(size: int, rank: int) -> Figure:
    """What LoRA adds to one square layer, drawn to scale: W, which is frozen, and the path through A and B.

    size: inputs and outputs of the layer. rank: of A and B.
    """
    figure = new_figure(9.5, 4.4)
    axes = figure.add_subplot()
    boxes = {
        "W": ((2.2, 2.4), 3.0, 3.0, PALETTE["light"]),
        "A": ((2.2, 1.1), 3.0, max(0.1, 3.0 * rank / size), PALETTE["blue"]),
        "B": ((6.4, 0.1), max(0.1, 3.0 * rank / size), 3.0, PALETTE["orange"]),
    }
    for corner, width, height, colour in boxes.values():
        axes.add_patch(Rectangle(corner, width, height, facecolor=colour, edgecolor=PALETTE["grey"]))
    whole, small = size * size, 2 * size * rank
    words = {
        (0.2, 2.3): f"x\n{size} numbers",
        (3.7, 3.9): f"W: frozen\n{size} x {size}\n{whole:,} numbers",
        (3.7, 0.55): f"A: {rank} x {size}, trained",
        (8.2, 1.2): f"B: {size} x {rank}, trained\nA and B: {small:,} numbers,\n{small / whole:.1%} of W",
        (8.2, 3.9): "+",
        (9.6, 3.9): "y",
    }
    for place, text in words.items():
        axes.text(*place, text, ha="center", va="center", fontsize=20 if text == "+" else 10.5)
    paths = [((0.6, 2.8), (2.1, 3.9)), ((0.6, 2.0), (2.1, 1.15)), ((5.3, 3.9), (7.9, 3.9)), ((5.3, 1.15), (6.3, 1.4)),
             ((6.6, 2.3), (8.1, 3.6)), ((8.45, 3.9), (9.4, 3.9))]  # fmt: skip
    for start, end in paths:
        axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": PALETTE["ink"], "linewidth": 1.4})
    axes.text(7.6, 2.8, "times alpha / r", ha="left", va="center", fontsize=10.5)
    axes.set(xlim=(-0.6, 10.0), ylim=(-0.1, 5.6), aspect="equal")
    axes.set_axis_off()
    axes.set_title(f"LoRA leaves W alone and trains {small / whole:.1%} as many numbers next to it", fontsize=12)
    return described(
        figure,
        f"x goes through the frozen W of {whole:,} numbers and, on a second path, through A and B, which train and "
        f"hold {small:,} numbers together; both results are added. Drawn to scale: A and B are thin bars.",
    )


def low_rank_panel(
    pictures: Mapping[str, np.ndarray], best: Sequence[float], rank: int, found: float, values: Sequence[float]
) -> Figure:
    """The live picture of notebook 01: matrices; below them error by rank, and the spectrum with what rank r keeps.

    pictures: W, B, A, dW, wanted, missing; the last three share a colour scale. best: error at rank 0, 1, 2 ...
    found: error of the dW in use. values: singular values of the wanted update.
    """
    figure = new_figure(10.5, 4.7, layout=None)
    titles = list(pictures)
    draw_matrices(figure.add_axes((0.01, 0.55, 0.98, 0.45)), pictures, ("+", TIMES, "", "", ""), shared=titles[3:])
    axes = style(figure.add_axes((0.07, 0.12, 0.4, 0.37)), "Line: best possible. Square: your dW.", "rank r", "missed")
    axes.plot(range(len(best)), best, color=PALETTE["blue"], linewidth=2)
    height = min(found, 1.0)
    axes.plot([rank], [height], marker="s", markersize=10, color=PALETTE["orange"], fillstyle="none", markeredgewidth=2)
    side: Look = {"xytext": (10, 0) if rank < 26 else (-10, 0), "ha": "left" if rank < 26 else "right"}
    axes.annotate(f"{found:.1%}", (rank, height), textcoords="offset points", va="bottom", fontsize=11, **side)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(0, 1.15)
    bars = style(figure.add_axes((0.57, 0.12, 0.42, 0.37)), "Singular values: dark ones fit in rank r", "which", "size")
    where = np.arange(1, len(values) + 1)
    colours = [PALETTE["blue"]] * rank + [PALETTE["silver"]] * (len(values) - rank)
    bars.vlines(where, 0, values, colors=colours, linewidth=6)
    bars.set_ylim(0, max(values) * 1.08)
    return described(
        figure,
        f"Rank {rank}: the update in use misses {found:.1%} of the wanted one; the best possible is {best[rank]:.1%}.",
    )


def draw_update_sizes(axes: Axes, ranks: Sequence[int], sizes: Mapping, mark: tuple[str, int] | None = None) -> None:
    """Draw the size of the update's output against rank under several scaling rules, both axes logarithmic.

    sizes: rule -> RMS of what the update adds / RMS of the base layer's output, one per rank. mark: (rule, rank) to put
    a ring around.
    """
    style(axes, "How far the layer's output has moved", "rank r", "update / base output (RMS)")
    for look, (rule, row) in zip(SERIES, sizes.items(), strict=False):
        axes.plot(ranks, row, label=rule, markersize=6, **look)
        if mark and mark[0] == rule:
            axes.plot([mark[1]], [row[ranks.index(mark[1])]], **RING)
    log_x(axes, ranks, base=2)
    _plain_log(axes, lambda value, _: f"{100 * value:g} %")


def layer_panel(
    ranks: Sequence[int],
    factors: Mapping[str, Sequence[float]],
    sizes: Mapping[str, Sequence[float]],
    mark: tuple[str, int],
) -> Figure:
    """The live picture of notebook 02: the factor and the measured size of the update, against rank, for each rule."""
    figure = new_figure(10.5, 3.9, layout=None)
    left = style(figure.add_axes((0.07, 0.24, 0.4, 0.66)), "The factor in front of B A", "rank r", "scaling")
    right = figure.add_axes((0.58, 0.24, 0.41, 0.66))
    for look, (rule, row) in zip(SERIES, factors.items(), strict=False):
        left.plot(ranks, row, label=rule, markersize=6, **look)
        if rule == mark[0]:
            left.plot([mark[1]], [row[ranks.index(mark[1])]], **RING)
    log_x(left, ranks, base=2)
    _plain_log(left, lambda value, _: f"{value:g}")
    draw_update_sizes(right, ranks, sizes, mark)
    figure.legend(*left.get_legend_handles_labels(), loc="lower center", ncols=2, frameon=False, fontsize=10.5)
    factor, size = (rows[mark[0]][ranks.index(mark[1])] for rows in (factors, sizes))
    return described(
        figure, f"With {mark[0]} at rank {mark[1]} the factor is {factor:.3g}; the output has moved by {size:.2%}."
    )


def _plain_log(axes: Axes, label: Callable[[float, float], str]) -> None:
    """Make the y axis logarithmic, with plain numbers at 1, 2 and 5 of each decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(label)
