"""Figures of lesson 08."""

import pytest

from workbench.plots import serving as figures

TASKS = ("orders", "tickets", "facts", "protocol")
SCORES = {f"{name} adapter": {task: 0.9 * (task == name) for task in TASKS} for name in TASKS}
SCORES |= {name: dict.fromkeys(TASKS, 0.25) for name in ("base", "sum of all four", "trained on all four tasks")}
EXACT = {name: dict.fromkeys(TASKS, share) for name, share in (("base", 0.0), ("own adapter", 0.9), ("mixture", 0.4))}
LOSS = {name: dict.fromkeys(TASKS, loss) for name, loss in (("base", 3.0), ("own adapter", 0.05), ("mixture", 0.9))}
WAYS = {"adapters on one base": (2, 16.1, 0.8), "full models": (120, 16.1, 0.0)}

FIGURES = {
    "who_can_what": lambda: figures.who_can_what(SCORES, "Each adapter can do its own task"),
    "costs_of_ways": lambda: figures.costs_of_ways(
        {"swap an adapter": 0.002, "load a model": 1.4}, "A swap is 700 times faster", "seconds", "{:.3g} s"
    ),
    "mixed_scores": lambda: figures.mixed_scores(
        dict.fromkeys(TASKS, 0.75), EXACT, LOSS, "0 of 4 tasks as good as alone"
    ),
    "fleet": lambda: figures.fleet(WAYS, 16.6, "L4", "120 tasks"),
    "fleet, one GPU each": lambda: figures.fleet({name: (1, 16.1, 0.1) for name in WAYS}, 16.6, "L4", "1 task"),
}


def test_the_table_holds_each_share_once():
    axes = FIGURES["who_can_what"]().axes[0]
    assert [text.get_text() for text in axes.texts] == [
        f"{share:.0%}" for row in SCORES.values() for share in row.values()
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(SCORES)


def test_a_fleet_draws_a_bar_for_each_gpu_up_to_a_limit():
    few, many = FIGURES["fleet"]().axes
    filled = [bar for bar in few.patches if bar.get_height() == pytest.approx(16.1)]
    assert len(filled) == 2 and few.get_title(loc="left") == "adapters on one base: 2 GPUs"
    assert len([bar for bar in many.patches if bar.get_height() == pytest.approx(16.1)]) == figures.MOST_DRAWN
    assert many.get_title(loc="left") == "full models: 120 GPUs"
