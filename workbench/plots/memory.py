"""Figures of training memory: each function takes bytes and returns a Figure. 1 GB is 10^9 bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.artist import Artist
from matplotlib.patches import Patch

from workbench.plots.style import PALETTE, Figure, Layout, Look, described, legend_below, new_figure, style

# In the order in which they are stacked; the hatch tells them apart in grey prints.
COMPONENT_STYLE: dict[str, Look] = {
    "weights": {"facecolor": PALETTE["grey"]},
    "adapters": {"facecolor": PALETTE["ink"]},
    "gradients": {"facecolor": PALETTE["orange"], "hatch": "//"},
    "optimizer state": {"facecolor": PALETTE["yellow"], "hatch": ".."},
    "activations": {"facecolor": PALETTE["sky"]},
    "logits": {"facecolor": PALETTE["blue"], "hatch": "\\\\"},
    "temporaries": {"facecolor": PALETTE["green"], "hatch": "xx"},
}
HELD: Look = {"facecolor": "none", "edgecolor": PALETTE["ink"], "linestyle": ":", "linewidth": 0.8}


def memory_bars(
    components: Mapping[str, Mapping[str, float]],
    held: Mapping[str, float] | None = None,
    usable_bytes: float | None = None,
    layout: Layout = "constrained",
    gpu: str = "the GPU",
    title: str = "Where the bytes are at the peak of a step",
) -> Figure:
    """Bytes by component at the peak of a training step: one stacked bar a configuration.

    components: label -> component -> bytes. held: label -> bytes beyond the tensors, for the allocator and the CUDA
    context; drawn last and empty. usable_bytes: of `gpu`, drawn as a line. layout: as for `new_figure`.
    """
    held = held or dict.fromkeys(components, 0)
    width, height = 10.0, 1.7 + 0.5 * len(components)
    figure = new_figure(width, height, layout)
    place = (1.2 / width, 1.2 / height, 1 - 1.3 / width, 1 - 1.55 / height)  # leaves room for labels and legend
    axes = figure.add_subplot() if layout else figure.add_axes(place)
    style(axes, title, "GB", "")
    axes.grid(axis="y", visible=False)
    ends = {label: (sum(parts.values()) + held[label]) / 1e9 for label, parts in components.items()}
    left = dict.fromkeys(components, 0.0)
    for name, look in COMPONENT_STYLE.items():
        drawn = {label: parts[name] / 1e9 for label, parts in components.items() if parts.get(name)}
        lefts = [left[label] for label in drawn]
        axes.barh(list(drawn), list(drawn.values()), left=lefts, edgecolor="white", linewidth=0.4, **look)
        left |= {label: left[label] + size for label, size in drawn.items()}
    axes.barh(list(held), [size / 1e9 for size in held.values()], left=[left[label] for label in held], **HELD)
    room = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}  # the GPU's line may cross
    for label, end in ends.items():
        axes.annotate(f"{end:.1f}", (end, label), (5, 0), textcoords="offset points", va="center", bbox=room)
    axes.set_xlim(0, 1.12 * max(*ends.values(), (usable_bytes or 0) / 1e9))
    axes.invert_yaxis()
    handles: list[Artist] = [
        Patch(label=name, edgecolor="white", **look)
        for name, look in COMPONENT_STYLE.items()
        if any(parts.get(name) for parts in components.values())
    ]
    if any(held.values()):
        handles.append(Patch(label="allocator, context", **HELD))
    if usable_bytes:
        limit: Look = {"color": PALETTE["pink"], "linewidth": 2.5, "label": f"usable on {gpu}"}
        handles.append(axes.axvline(usable_bytes / 1e9, **limit))
    where: Literal["outside lower center", "lower center"] = "outside lower center" if layout else "lower center"
    figure.legend(handles=handles, loc=where, ncols=5, frameon=False, fontsize=10.5)
    return described(figure, f"Memory at the peak of a training step. {_bars_in_words(components, ends, usable_bytes)}")


def _bars_in_words(
    components: Mapping[str, Mapping[str, float]], ends: Mapping[str, float], usable_bytes: float | None
) -> str:
    words = []
    for label, parts in components.items():
        named = ", ".join(f"{name} {parts[name] / 1e9:.2f}" for name in COMPONENT_STYLE if parts.get(name))
        words.append(f"{label}: {ends[label]:.2f} GB ({named})")
    limit = f" The GPU has {usable_bytes / 1e9:.1f} GB to use." if usable_bytes else ""
    return f"{'; '.join(words)}.{limit}"


def memory_timeline(timelines: Mapping[str, Sequence[tuple[str, float]]]) -> Figure:
    """Live bytes through one training step, a line a configuration.

    timelines: label -> (phase, bytes) in order of time, phases "forward", "backward" and "optimizer".
    """
    colours = [PALETTE[name] for name in ("orange", "blue", "green", "pink")]
    figure = new_figure(10.0, 3.8)
    axes = style(figure.add_subplot(), "Live bytes through one step", "share of the phase", "GB")
    phases = ("forward", "backward", "optimizer")
    peaks = []
    for (label, timeline), colour, dash in zip(timelines.items(), colours, ("-", "--", "-.", ":"), strict=False):
        xs, ys = [], []
        for index, phase in enumerate(phases):
            values = [size for name, size in timeline if name == phase]
            xs += [index + place / max(1, len(values)) for place in range(len(values))]
            ys += [value / 1e9 for value in values]
        axes.plot(xs, ys, color=colour, linestyle=dash, linewidth=1.6, label=label)
        peak = max(range(len(ys)), key=ys.__getitem__)
        axes.plot(xs[peak], ys[peak], "o", color=colour, markersize=7)
        peaks.append(f"{label} peaks at {ys[peak]:.2f} GB in the {phases[min(2, int(xs[peak]))]} phase")
    axes.set_xticks([0.5, 1.5, 2.5], ["forward", "backward", "optimizer step"])
    axes.set_xlabel("")
    for edge in (1, 2):
        axes.axvline(edge, color=PALETTE["silver"], linewidth=1)
    axes.set_xlim(0, 3)
    axes.set_ylim(bottom=0)
    legend_below(figure, axes)
    return described(figure, f"Live bytes through the phases of one training step: {'; '.join(peaks)}.")


def predicted_and_measured(rows: Sequence[tuple[str, float, float]]) -> Figure:
    """Bars of predicted and of measured bytes, side by side. rows: (label, predicted, measured)."""
    figure = new_figure(9.0, 3.6)
    axes = style(figure.add_subplot(), "Predicted without running it, and measured", "", "MB at the peak of a step")
    axes.grid(axis="x", visible=False)
    places = range(len(rows))
    hatched: Look = {"label": "predicted", "facecolor": "white", "edgecolor": PALETTE["blue"], "hatch": "//"}
    filled: Look = {"label": "measured here", "facecolor": PALETTE["blue"], "edgecolor": PALETTE["blue"]}
    for shift, column, look in ((-0.2, 1, hatched), (0.2, 2, filled)):
        heights = [float(row[column]) / 1e6 for row in rows]
        bars = axes.bar([place + shift for place in places], heights, width=0.38, **look)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=10, padding=2)
    axes.set_xticks(list(places), [row[0] for row in rows])
    axes.margins(y=0.14)
    legend_below(figure, axes)
    words = "; ".join(
        f"{label}: {predicted / 1e6:,.0f} MB predicted, {measured / 1e6:,.0f} found ({predicted / measured - 1:+.1%})"
        for label, predicted, measured in rows
    )
    return described(figure, f"Peak memory of a step. {words}.")
