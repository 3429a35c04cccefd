"""Figures of lesson 09: published and measured NDCG@10, what queries can see, cut vectors, and what is forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from workbench.plots.runs import METHOD_STYLE
from workbench.plots.style import PALETTE, SERIES, Figure, Look, described, legend_below, log_x, new_figure, style
from workbench.retrieval.metrics import NORMAL, Interval
from workbench.retrieval.published import PublishedScore, by_method

LOOKS: dict[str, Look] = METHOD_STYLE | {
    "lora r=2": SERIES[0] | {"color": PALETTE["sky"], "marker": "v", "linestyle": ":"},
    "lora r=8": METHOD_STYLE["lora"],
    "your run": SERIES[4] | {"marker": "*"},
    "lora r=32": SERIES[0] | {"color": PALETTE["pink"], "marker": "D", "linestyle": (0, (5, 1))},
}


def published(scores: Sequence[PublishedScore], title: str) -> Figure:
    """Published NDCG@10 of base, LoRA and full, an axes an experiment, with the widest interval of so many queries."""
    experiments = list(dict.fromkeys(score.experiment for score in scores))
    figure = new_figure(9.0, 3.4)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=PALETTE["ink"])
    words = []
    for place, experiment in enumerate(experiments, start=1):
        axes = style(figure.add_subplot(1, len(experiments), place), experiment, "NDCG@10", "")
        own = by_method(scores, experiment)
        for row, (method, score) in enumerate(own.items()):
            look = METHOD_STYLE[method] | {"linestyle": "none", "markersize": 9, "capsize": 5}
            axes.errorbar([score.ndcg], [row], xerr=[score.widest], **look)
            axes.annotate(f"{score.ndcg:.3f}", (score.ndcg, row), (0, 9), textcoords="offset points", ha="center")
            words.append(f"{experiment}, {method}: {score.ndcg:.3f} within {score.widest:.3f}")
        _rows(axes, list(own))
        axes.set_xlim(0.76, 1.0)
    return described(figure, f"Published NDCG@10 with the widest possible 95 % interval. {'; '.join(words)}.")


def differences(found: Mapping[str, Interval], title: str, margin: float) -> Figure:
    """Differences of NDCG@10 with their 95 % intervals, a row each, over the band in which methods are on par."""
    figure = new_figure(9.0, 1.6 + 0.42 * len(found))
    axes = style(figure.add_subplot(), title, "difference of NDCG@10; the bar is the 95 % interval", "")
    axes.axvspan(-margin, margin, color=PALETTE["light"], alpha=0.6, label=f"on par (within {margin:g})")
    axes.axvline(0, color=PALETTE["grey"], linewidth=1)
    for row, one in enumerate(found.values()):
        look = SERIES[0] | {"linestyle": "none", "markersize": 9, "capsize": 5}
        axes.errorbar([one.centre], [row], xerr=[[one.centre - one.low], [one.high - one.centre]], **look)
    _rows(axes, list(found))
    legend_below(figure, axes)
    words = "; ".join(f"{name}: {one.centre:+.3f} ({one.low:+.3f} to {one.high:+.3f})" for name, one in found.items())
    return described(figure, f"Differences of NDCG@10 with 95 % intervals. {words}.")


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def what_queries_see(gains: np.ndarray[Any, Any], queries: int, found: Interval, label: str) -> Figure:
    """The half width of the 95 % interval of a difference against the number of queries, and the difference itself.

    gains: of each query. found: the interval with so many queries.
    """
    counts = np.geomspace(30, 20_000, 60)
    half = NORMAL * gains.std(ddof=1) / np.sqrt(counts)
    figure = new_figure(8.5, 3.8, layout=None)
    axes = style(figure.add_axes((0.1, 0.25, 0.87, 0.65)), _title(found, queries), "queries", "NDCG@10")
    axes.plot(counts, half, label="half width of the interval", **(SERIES[0] | {"marker": None}))
    axes.axhline(abs(found.centre), label=f"the difference: {label}", **(SERIES[1] | {"marker": None}))
    axes.plot([queries], [found.half_width], marker="o", markersize=11, color=PALETTE["ink"], linestyle="none")
    log_x(axes, (30, 100, 300, 1000, 3000, 10_000), form="{x:,.0f}")
    axes.set_ylim(0, max(half[0], 1.1 * abs(found.centre)))
    figure.legend(*axes.get_legend_handles_labels(), loc="lower center", ncols=2, frameon=False, fontsize=10.5)
    return described(
        figure,
        f"With {queries:,} queries the difference {found.centre:+.4f} ({label}) has a half width of "
        f"{found.half_width:.4f}, so it is {found.verdict}.",
    )


def _title(found: Interval, queries: int) -> str:
    seen = "is not seen" if found.verdict == "undecided" else "is seen"
    return f"With {queries:,} queries the difference {seen}"


def cut_vectors(cut: Mapping[str, Mapping[int, float]], title: str) -> Figure:
    """NDCG@10 against the numbers kept of each vector, a line a setting. cut: setting -> numbers kept -> NDCG@10."""
    figure = new_figure(8.5, 3.8)
    axes = style(figure.add_subplot(), title, "numbers kept of each vector (log axis)", "NDCG@10")
    sizes = sorted({size for own in cut.values() for size in own})
    for name, own in cut.items():
        axes.plot(sorted(own), [own[size] for size in sorted(own)], label=name, **LOOKS[name])
    log_x(axes, sizes, base=2)
    legend_below(figure, axes, columns=6)
    words = "; ".join(f"{name}: {own[sizes[0]]:.2f} to {own[sizes[-1]]:.2f}" for name, own in cut.items())
    return described(figure, f"NDCG@10 with vectors cut to {sizes[0]} and to {sizes[-1]} numbers. {words}.")


def gain_and_kept(points: Mapping[str, Sequence[tuple[float, float]]], title: str) -> Figure:
    """What search gained against what is kept of the base's similarities of other text; a point a seed.

    points: setting -> (gain of NDCG@10, rank correlation of the similarities with the base's).
    """
    figure = new_figure(8.5, 3.8)
    axes = style(figure.add_subplot(), title, "gain of NDCG@10", "agreement with the untuned encoder")
    for name, own in points.items():
        axes.plot(*zip(*own, strict=True), label=name, **(LOOKS[name] | {"linestyle": "none", "markersize": 8}))
    axes.axvline(0, color=PALETTE["grey"], linewidth=1)
    legend_below(figure, axes, columns=6)
    middle = {name: np.mean(own, axis=0) for name, own in points.items()}
    words = "; ".join(f"{name}: gain {gain:+.3f}, correlation {kept:.2f}" for name, (gain, kept) in middle.items())
    return described(figure, f"Gain in search and what is kept of other text, means over seeds. {words}.")
