"""Figures of memory ratios and of money: each function takes numbers and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.patches import Patch

from workbench.plots.style import PALETTE, SERIES, Figure, Look, described, legend_below, log_x, new_figure, style

# The n-th method in a figure of bars; the hatch tells them apart in grey prints.
BARS: tuple[Look, ...] = (
    {"facecolor": PALETTE["orange"], "hatch": "//"},
    {"facecolor": PALETTE["blue"]},
    {"facecolor": PALETTE["sky"], "hatch": ".."},
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
    axes = style(
        figure.add_subplot(), "How many times LoRA's memory full fine-tuning takes", "tokens in one step", "full / LoRA"
    )
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


def money_by_gpu(rows: Mapping[str, Mapping[str, tuple[float, bool]]], job: str) -> Figure:
    """What a job costs on each GPU, a bar a method; an outline where the method does not fit that GPU.

    rows: GPU -> method -> (US dollars, whether it fits). job: names the job in the title.
    """
    figure = new_figure(10.0, 1.5 + 0.42 * len(rows))
    axes = style(figure.add_subplot(), f"What it costs: {job}", "US dollars", "")
    axes.grid(axis="y", visible=False)
    methods = list(next(iter(rows.values())))
    thickness = 0.8 / len(methods)
    for place, costs in enumerate(rows.values()):
        for index, (look, (money, fits)) in enumerate(zip(BARS, costs.values(), strict=False)):
            y = place + (index - (len(methods) - 1) / 2) * thickness
            outline: Look = {"facecolor": "white", "edgecolor": look["facecolor"]}
            axes.barh(y, money, height=0.8 * thickness, **(look | {"edgecolor": "white"} if fits else outline))
    axes.set_yticks(range(len(rows)), list(rows))
    axes.margins(y=0.02)
    axes.invert_yaxis()
    handles = [Patch(label=method, edgecolor="white", **look) for method, look in zip(methods, BARS, strict=False)]
    handles.append(Patch(label="only an outline: does not fit", facecolor="white", edgecolor=PALETTE["grey"]))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=10.5)
    return described(figure, f"US dollars for {job}. {'; '.join(_money_in_words(rows, method) for method in methods)}.")


def _money_in_words(rows: Mapping[str, Mapping[str, tuple[float, bool]]], method: str) -> str:
    fitting = {gpu: costs[method][0] for gpu, costs in rows.items() if costs[method][1]}
    if not fitting:
        return f"{method} fits none of the {len(rows)} GPUs"
    low, high = min(fitting, key=fitting.__getitem__), max(fitting, key=fitting.__getitem__)
    span = f"from {fitting[low]:.2f} on {low} to {fitting[high]:.2f} on {high}"
    return f"{method} fits {len(fitting)} of {len(rows)} GPUs, {span}"
