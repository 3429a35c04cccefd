"""Figures of lesson 07. What holds for every figure is in test_figures.py, which draws these."""

import pytest

from support.places import BASE, TUNED, WAYS
from workbench.plots import updates as figures
from workbench.results.noise import two_standard_errors

KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GRID = {kind: {block: (place + block) / 40 for block in range(30)} for place, kind in enumerate(KINDS)}
SCORES = {
    "lora": {"1": 0.1, "2": 0.4, "4": 0.6, "all": 0.75},
    "full": {"0": 0.1, "1": 0.2, "8": 0.5, "64": 0.7, "all": 0.72},
}
PUSHED = {"lora": {1: (0, 4.0), 2: (0, 300.0), 4: (2, 1e6)}, "full": {1: (0, 1.5), 2: (0, 6.0), 4: (0, 80.0)}}
MODELS = {
    "lora": [TUNED, *(one for way in WAYS.values() for one in way.values())],
    "full": [*WAYS["drop it in some layers"].values()],
}

FIGURES = {
    "energy_map": lambda: figures.energy_map(GRID, "The 8 largest directions hold 40 %"),
    "score_by_rank": lambda: figures.score_by_rank(SCORES, 64, "8 directions keep 70 %"),
    "pushed": lambda: figures.pushed(
        PUSHED, 70, "LoRA: first intruder at 4 times the update; full fine-tuning: none up to 8 times the update"
    ),
    "ways_back": lambda: figures.ways_back(WAYS, BASE, TUNED, "Ways back"),
    "ways_back, marked": lambda: figures.ways_back(
        WAYS, BASE, TUNED, "Ways back", WAYS["drop it in some layers"]["no MLP"]
    ),
    "kl_and_forgetting": lambda: figures.kl_and_forgetting(MODELS, "KL orders the models"),
}


def test_the_map_shows_each_share_in_its_place():
    image = FIGURES["energy_map"]().axes[0].images[0]
    assert image.get_array()[2, 7] == pytest.approx(GRID["v_proj"][7]) and image.norm.vmax == 1


def test_ranks_of_both_methods_stand_in_one_order_with_the_error_of_the_sample():
    axes = FIGURES["score_by_rank"]().axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2", "4", "8", "64", "all"]
    line, _, bars = next(one for one in axes.containers if one.get_label() == "full")
    assert list(line.get_xdata()) == [0, 1, 4, 5, 6] and list(line.get_ydata()) == list(SCORES["full"].values())
    low, high = bars[0].get_segments()[2][:, 1]
    assert (high - low) / 2 == pytest.approx(two_standard_errors(0.5, 64))


def test_each_mark_is_a_model(monkeypatch):
    lines = FIGURES["kl_and_forgetting"]().axes[0].lines
    assert [len(line.get_xdata()) for line in lines] == [10, 3]
    assert list(lines[0].get_xdata()) == [one.kl for one in MODELS["lora"]]


def test_the_live_picture_ends_with_all_models(monkeypatch):
    shown = []
    monkeypatch.setenv("WORKBENCH_PROGRESS", "0")
    monkeypatch.setattr(figures.LiveWays, "show", lambda self, figure: shown.append(figure))
    live = figures.LiveWays(BASE, TUNED, "LoRA")
    live.on_place(WAYS, 3)
    assert not shown, "only the last one without progress"
    live.on_place(WAYS, 0)
    assert shown[0].axes[0].get_title(loc="left") == "LoRA: ways back to the base"
