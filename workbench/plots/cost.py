"""Figures of memory ratios and of money: each function takes numbers and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.plots.style import PALETTE, SERIES, Figure, Look, described, legend_below, log_x, new_figure, style

# The chosen GPU, and the others; the hatch tells them apart in grey prints.
BARS: tuple[Look, ...] = (
    {"facecolor": PALETTE["orange"], "hatch": "//"},
    {"facecolor": PALETTE["blue"]},
)


def memory_ratios(
    lines: Mapping[str, Sequence[tuple[int, float]]],
    claimed: tuple[float, float],
    published: tuple[int, float] | None = None,
) -> Figure:
    """Memory of full fine-tuning as a multiple of LoRA's, against tokens in the step.

    lines: label -> (tokens of one step, ratio). claimed: the range of ratios to shade. published: one measured pair,
    drawn as a star.
    """
    figure = new_figure(10.0, 4.0)
    reached = [label for label, points in lines.items() if max(ratio for _, ratio in points) >= claimed[0]]
    title = (
        f"{len(reached)} of {len(lines)} settings reach {claimed[0]:g} times LoRA's memory, with few tokens in a step"
    )
    axes = style(figure.add_subplot(), title, "tokens in one step", "full / LoRA")
    axes.axhspan(*claimed, color=PALETTE["light"], alpha=0.7, label=f"claimed: {claimed[0]:g} to {claimed[1]:g}")
    words = []
    for (label, points), look in zip(lines.items(), SERIES, strict=False):
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, label=label, markersize=6, **look)
        words.append(f"{label}: from {ys[0]:.1f} at {xs[0]:,} tokens to {ys[-1]:.1f} at {xs[-1]:,}")
    if published:
        star: Look = {"marker": "*", "markersize": 16, "markerfacecolor": "none", "markeredgewidth": 1.6}
        axes.plot(*published, linestyle="", label="published run", color=PALETTE["ink"], **star)
        words.append(f"a published run: {published[1]:.1f} at {published[0]:,}")
    ticks = sorted({tokens for points in lines.values() for tokens, _ in points})
    log_x(axes, ticks, form="{x:,}")
    axes.set_ylim(bottom=0)
    legend_below(figure, axes, columns=3)
    return described(figure, f"Memory of full fine-tuning over that of LoRA. {'; '.join(words)}.")


def money_on_gpus(costs: Mapping[str, tuple[float, float, bool]], chosen: str, job: str) -> Figure:
    """What a job costs on each GPU; an outline where it does not fit, another colour for the chosen one.

    costs: GPU -> (US dollars, hours, whether it fits). job: in the title, before the cheapest GPU.
    """
    figure = new_figure(10.0, 1.4 + 0.34 * len(costs))
    fitting = {name: money for name, (money, _, fits) in costs.items() if fits}
    best = min(fitting, key=fitting.__getitem__, default=None)
    found = f"cheapest on {best}, ${fitting[best]:.2f}" if best else "fits none of them"
    axes = style(
        figure.add_subplot(),
        f"{job}: {found}",
        "US dollars for the job; beside the bars its time, and dollars an hour",
        "",
    )
    axes.grid(axis="y", visible=False)
    for place, (name, (money, hours, fits)) in enumerate(costs.items()):
        look = BARS[0] if name == chosen else BARS[1]
        outline: Look = {"facecolor": "white", "edgecolor": look["facecolor"]}
        axes.barh(place, money, height=0.7, **(look | {"edgecolor": "white"} if fits else outline))
        words = f"{_time(hours)} at ${money / hours:.2f}{'' if fits else ', does not fit'}"
        axes.annotate(words, (money, place), (5, 0), textcoords="offset points", va="center", fontsize=10)
    axes.set_yticks(range(len(costs)), list(costs))
    axes.set_xlim(0, 1.25 * max(money for money, _, _ in costs.values()))
    axes.margins(y=0.02)
    axes.invert_yaxis()
    words = "; ".join(
        f"{name} ${money:.2f}, {_time(hours)} at ${money / hours:.2f} an hour{'' if fits else ', does not fit'}"
        for name, (money, hours, fits) in costs.items()
    )
    return described(figure, f"{job}, {found}. {words}.")


def _time(hours: float) -> str:
    """In hours, or in minutes where it is less than one."""
    return f"{hours:.2g} h" if hours >= 1 else f"{60 * hours:.2g} min"


def speed_ratios(
    lines: Mapping[str, Sequence[tuple[int, float]]], published: Sequence[tuple[str, int, float]], gpu: str
) -> Figure:
    """How many times as fast a step of LoRA is as one of full fine-tuning, against tokens in the step.

    lines: label -> (tokens of one step, ratio) by the bound on `gpu`. published: (label, tokens, ratio), measured.
    """
    figure = new_figure(10.0, 4.0)
    least, most = (choose(points[-1][1] for points in lines.values()) for choose in (min, max))
    title = f"The bound: with many tokens LoRA is at most {least:.1f} to {most:.1f} times as fast; with few, more"
    axes = style(figure.add_subplot(), title, "tokens in one step", "seconds, full / LoRA")
    axes.axhline(1.0, color=PALETTE["ink"], linewidth=0.8)
    words = []
    for (label, points), look in zip(lines.items(), SERIES, strict=False):
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, label=label, markersize=6, **look)
        words.append(f"{label}: from {ys[0]:.1f} at {xs[0]:,} tokens to {ys[-1]:.1f} at {xs[-1]:,}")
    for (label, tokens, ratio), marker in zip(published, "*P", strict=False):
        star: Look = {"marker": marker, "markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.6}
        axes.plot(tokens, ratio, linestyle="", label=label, color=PALETTE["ink"], **star)
        words.append(f"published, {label}: {ratio:.1f} at {tokens:,}")
    log_x(axes, sorted({tokens for points in lines.values() for tokens, _ in points}), form="{x:,}")
    axes.set_ylim(bottom=0)
    legend_below(figure, axes, columns=2)
    return described(
        figure, f"Seconds of a step of full fine-tuning over those of LoRA, on the {gpu}. {'; '.join(words)}."
    )
