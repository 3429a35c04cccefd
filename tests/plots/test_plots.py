"""Every figure: draws, describes itself, keeps its legend off the data and its colours apart in grey."""

import base64

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from support.records import run
from workbench.adapters import lowrank
from workbench.plots import adapters as plots_adapters, lowrank as figures, runs as plots_runs, style, training
from workbench.results import reference

TARGETS = lowrank.toy_targets()
BEST = {name: lowrank.error_by_rank(target).tolist() for name, target in TARGETS.items()}
SPECTRA = {name: lowrank.spectrum(target).tolist() for name, target in TARGETS.items()}
HISTORY = [{"step": step, "loss": 3 / (1 + step), "error": 1 / (1 + step)} for step in range(30)]
RANKS = (1, 2, 4, 8)
SIZES = {"alpha / r": [0.04, 0.03, 0.02, 0.01], "alpha / sqrt(r)": [0.04, 0.05, 0.06, 0.07]}
RANDOM = np.random.default_rng(0).normal(size=(32, 48))
TALL, WIDE = RANDOM[:, :4], RANDOM[:4]

BEFORE = {"exact_match": 0.01}
RUNS = [
    run(name, exact=0.2 * index + 0.1, forgot=0.1 * index, memory=1e9 * (index + 1))
    for index, name in enumerate(("lora", "qlora", "hybrid", "full"))
]

FIGURES = {
    "low_rank_panel": lambda: figures.low_rank_panel(
        {"W": RANDOM, "B": TALL, "A": WIDE, "dW": RANDOM, "wanted": RANDOM, "missing": 0 * RANDOM},
        BEST["noise"],
        4,
        0.8,
        SPECTRA["noise"],
    ),
    "lora_layer": lambda: figures.lora_layer(576, 8),
    "losses": lambda: training.losses(
        {"lora r=8": ("lora", HISTORY), "full": ("full", HISTORY)}, 30, ": full, 9 s left"
    ),
    "no losses yet": lambda: training.losses({}, 30),
    "costs": lambda: plots_runs.costs(RUNS),
    "pareto": lambda: plots_runs.pareto(BEFORE, RUNS, "exact_match"),
    "pareto, stored": lambda: plots_runs.pareto(BEFORE, RUNS, "exact_match", reference.compared("tickets")[::3]),
    "training_panel": lambda: training.training_panel(
        {"a": HISTORY}, {"1: lora r=8": (HISTORY[:9], {3: 0.1, 6: 0.4})}, [(30, 0.7)], 30, 16
    ),
    "training_panel, nothing yet": lambda: training.training_panel({}, {}, [], 30, 16),
    "adapter_lab": lambda: plots_adapters.adapter_lab(
        {"base": 0.0, "trained": 0.8, "now": 0.5},
        {"trained": 0.03, "now": -0.01},
        {"attention": ([3, 2, 1], [6, 4]), "MLP": ([2, 1, 0.5], [])},
        {"base": 540.0, "adapter": 2.4},
    ),
    "layer_panel": lambda: figures.layer_panel(RANKS, SIZES, SIZES, ("alpha / r", 4)),
}


def test_series_differ_without_colour_too():
    looks = [(str(look["linestyle"]), look["marker"]) for look in style.SERIES]
    assert len({line for line, _ in looks}) == len({marker for _, marker in looks}) == len(style.SERIES)
    assert all(look["color"] in style.PALETTE.values() for look in style.SERIES)


def test_the_matrix_colours_rise_evenly_in_grey():
    shades = matplotlib.colormaps[style.MATRIX_COLOURS](np.linspace(0, 1, 64))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(shades) > 0).all()


def test_every_colour_can_be_seen_on_white():
    for name in ("blue", "orange", "green", "grey", "ink"):
        assert np.dot(to_rgb(style.PALETTE[name]), [0.299, 0.587, 0.114]) < 0.55


def test_show_gives_a_picture_with_its_description(monkeypatch):
    shown = []
    monkeypatch.setattr(style, "display", lambda data, metadata, raw: shown.append((data, metadata)))
    figure = FIGURES["costs"]()
    style.show(figure)
    ((data, metadata),) = shown
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == data["text/plain"] == figure.alt
    assert f'alt="{figure.alt}"' in data["text/html"]


def test_the_description_cannot_break_the_page():
    data, _ = style.picture(b"x", 'a "quoted" <b>', 100)
    assert 'alt="a &quot;quoted&quot; &lt;b&gt;"' in data["text/html"]


@pytest.mark.slow
def test_pyplot_is_never_loaded():
    import subprocess
    import sys

    code = "import sys, workbench.plots, workbench.panels.delta_w; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_two_runs_of_one_label_have_a_bar_each():
    twice = [run("lora", exact=0.3), run("lora", exact=0.9)]
    bars = plots_runs.costs(twice).axes[0].patches
    assert len({round(bar.get_y(), 2) for bar in bars}) == len(bars) == 2


def test_costs_are_drawn_in_the_units_of_their_titles():
    drawn = {axes.get_title(loc="left"): [bar.get_width() for bar in axes.patches] for axes in FIGURES["costs"]().axes}
    assert drawn == {
        "Seconds a step: full 1x": [1.0] * 4,
        "Memory, MB: full 4x": [1000, 2000, 3000, 4000],
        "File, MB: full 50x": [10, 10, 10, 500],
    }


def test_stored_runs_stand_small_and_hollow_behind_the_learners():
    rows = reference.compared("tickets")
    figure = plots_runs.pareto(BEFORE, RUNS, "exact_match", rows)
    stored = {line.get_label().removesuffix(", stored"): line for line in figure.axes[0].lines if "stored" in str(line)}
    assert set(stored) == {row["name"] for row in rows}
    own = [(row["forgetting"], row["exact_match"]) for row in rows if row["name"] == "full"]
    assert list(zip(*stored["full"].get_data(), strict=True)) == own
    assert all(line.get_markerfacecolor() == "none" and line.get_zorder() == 1 for line in stored.values())
