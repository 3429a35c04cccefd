"""Figures of memory and money: what is drawn adds up to what was given, and nothing overlaps."""

from itertools import pairwise

import pytest
from matplotlib.patches import Rectangle

from workbench.plots import cost as plots_cost, memory as plots_memory

PARTS = dict(zip(plots_memory.COMPONENT_STYLE, (5e9, 0.1e9, 5e9, 10e9, 0.2e9, 1e9, 2.5e9), strict=True))
BARS = {"full, float32 master": PARTS, "LoRA r=16 on all": {"weights": 2.5e9, "activations": 6e9}}
LIVE = {name: PARTS for name in ("hybrid r=256", "full", "LoRA r=256", "QLoRA r=256")}
HELD = {"full, float32 master": 1.2e9, "LoRA r=16 on all": 0.9e9}
TIMELINE = [
    *[("forward", 1e9 * x) for x in (2, 3, 5)],
    *[("backward", 1e9 * x) for x in (6, 4, 3)],
    *[("optimizer", 1e9 * x) for x in (3, 7, 2)],
]
LATER = [(phase, 2 * size if phase == "backward" else size) for phase, size in TIMELINE]
MEASURED = [("full", 2.6e9, 2.7e9), ("LoRA", 1.2e9, 1.2e9), ("QLoRA", 1.1e9, 1.15e9), ("hybrid", 1.3e9, 1.3e9)]
RATIOS = {"llama-3.2-3b, master": [(128, 7.8), (3072, 3.1)], "llama-3.2-3b, bfloat16": [(128, 3.8), (3072, 1.7)]}
GPUS = {f"GPU {n}": (3.0 + n, 12.0 - n, n > 6) for n in range(12)}

FIGURES = {
    "memory_bars": lambda: plots_memory.memory_bars(BARS, HELD, 23.65e9),
    "memory_bars, a single one": lambda: plots_memory.memory_bars({"full": PARTS}),
    "memory_bars, live": lambda: plots_memory.memory_bars(LIVE, dict.fromkeys(LIVE, 0.6e9), 23.65e9, layout=None),
    "memory_timeline": lambda: plots_memory.memory_timeline({"full": TIMELINE, "LoRA": LATER}),
    "predicted_and_measured": lambda: plots_memory.predicted_and_measured(MEASURED),
    "memory_ratios": lambda: plots_cost.memory_ratios(RATIOS, (5, 10), (3072, 1.74)),
    "memory_ratios, nothing published": lambda: plots_cost.memory_ratios(RATIOS, (5, 10)),
    "speed_ratios": lambda: plots_cost.speed_ratios(RATIOS, [("PEFT", 840, 3.1), ("torchtune", 8192, 1.1)], "L40S"),
    "money_on_gpus": lambda: plots_cost.money_on_gpus(GPUS, "GPU 3", "LoRA of llama-3.2-1b on 10 million tokens"),
}


def bars(figure) -> list[Rectangle]:
    """The bars with a width, row by row, each row in the order in which it was drawn."""
    drawn = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle) and patch.get_width()]
    return sorted(drawn, key=lambda bar: bar.get_y())


def test_the_bars_add_up_and_follow_one_another():
    figure = FIGURES["memory_bars"]()
    first = bars(figure)[: len(PARTS) + 1]
    assert [round(bar.get_width(), 6) for bar in first] == [size / 1e9 for size in (*PARTS.values(), 1.2e9)]
    assert all(a.get_x() + a.get_width() == pytest.approx(b.get_x()) for a, b in pairwise(first))
    assert "full, float32 master: 25.00 GB" in figure.alt and "The GPU has 23.6 GB to use" in figure.alt
    assert [text.get_text() for text in figure.axes[0].texts] == ["25.0", "9.4"]
    assert figure.axes[0].lines[0].get_xdata()[0] == pytest.approx(23.65)


def test_components_differ_without_colour_too():
    looks = [(look["facecolor"], look.get("hatch")) for look in plots_memory.COMPONENT_STYLE.values()]
    assert len(set(looks)) == len(looks)
    hatches = [hatch for _, hatch in looks if hatch]
    assert len(set(hatches)) == len(hatches) >= 4


def test_the_peak_of_a_timeline_is_marked_and_named():
    figure = FIGURES["memory_timeline"]()
    assert "full peaks at 7.00 GB in the optimizer phase; LoRA peaks at 12.00 GB in the backward phase" in figure.alt
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [line.get_ydata()[0] for line in marks] == [7.0, 12.0]


def test_predicted_stands_left_of_measured_with_the_error_in_words():
    figure = FIGURES["predicted_and_measured"]()
    assert "full: 2,600 MB predicted, 2,700 found (-3.7%)" in figure.alt
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [2600, 1200, 1100, 1300, 2700, 1200, 1150, 1300]


def test_the_claimed_range_and_the_published_pair_are_there():
    figure = FIGURES["memory_ratios"]()
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert "claimed: 5 to 10" in labels and "published run" in labels
    assert "from 7.8 at 128 tokens to 3.1 at 3,072" in figure.alt and "a published run: 1.7 at 3,072" in figure.alt


def test_the_speeds_of_published_pairs_are_drawn_beside_the_bound():
    figure = FIGURES["speed_ratios"]()
    assert (
        figure.axes[0].get_title(loc="left").startswith("The bound: with many tokens LoRA is at most 1.7 to 3.1 times")
    )
    assert {"PEFT", "torchtune"} <= set(figure.axes[0].get_legend_handles_labels()[1])
    assert "published, PEFT: 3.1 at 840" in figure.alt


def test_what_does_not_fit_is_an_empty_bar_and_the_cheapest_that_fits_is_the_title():
    figure = FIGURES["money_on_gpus"]()
    found = bars(figure)
    assert [bar.get_width() for bar in found] == [money for money, _, _ in GPUS.values()]
    assert [bar.get_facecolor()[:3] == (1, 1, 1) for bar in found] == [n <= 6 for n in range(12)]
    assert figure.axes[0].get_title(loc="left").endswith("cheapest on GPU 7, $10.00")
    assert "GPU 3 $6.00, 9 h at $0.67 an hour, does not fit" in figure.alt
    alone = plots_cost.money_on_gpus({"T4": (9.0, 2.0, False)}, "T4", "a job")
    assert "fits none of them" in alone.alt
