"""Figures of lesson 10: bars say how far each option got, stars what was chosen, lines what no run beats."""

from workbench.plots import decision
from workbench.results.pareto import MEASURES

TRIED = [
    {"rank": 8, "alpha": 32.0, "learning_rate": 2e-3, "losses": {10: 0.9, 20: 0.5, 40: 0.3}, "outcome": "chosen"},
    {
        "rank": 16,
        "alpha": 32.0,
        "learning_rate": 4e-3,
        "losses": {10: 0.8, 20: 0.6},
        "outcome": "dropped after step 20",
    },
    {"rank": 8, "alpha": 32.0, "learning_rate": 4e-3, "losses": {10: 1.4}, "outcome": "dropped after step 10"},
    {"rank": 32, "alpha": 128.0, "learning_rate": 1e-3, "losses": {}, "outcome": "diverged"},
]
RUNS = [
    {"source": source, "label": label, "peak_memory_mb": memory, "exact_match": exact}
    for source, label, memory, exact in (
        ("yours", "lora r=8", 1000.0, 0.7),
        ("study", "lora", 1100.0, 0.6),
        ("study", "full", 30000.0, 0.8),
        ("published", "full, 3B", 36000.0, 0.5),
    )
]
MEMORY, EXACT = MEASURES["peak_memory_mb"], MEASURES["exact_match"]
FIGURES = {
    "options_left": lambda: decision.options_left(
        {"do not fine-tune": 0, "LoRA": 6, "QLoRA": 6, "hybrid": 4, "full": 1},
        {"do not fine-tune": "scores too little", "hybrid": "scores less", "full": "does not fit"},
        ["prompting", "memory", "money", "serving", "quality", "forgetting"],
    ),
    "tried_settings": lambda: decision.tried_settings(TRIED, "Rank 8 at 0.002 has the lowest loss"),
    "two_measures": lambda: decision.two_measures(RUNS, MEMORY, EXACT, "More memory buys a little"),
}


def test_bars_and_words_say_why_an_option_is_out():
    figure = FIGURES["options_left"]()
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0, 6, 6, 4, 1]
    assert "out: does not fit" in [text.get_text() for text in axes.texts] and axes.get_title("left").startswith(
        "LoRA:"
    )
    assert decision.options_left({"LoRA": 1}, {"LoRA": "x"}, ["memory"]).axes[0].get_title("left") == "Nothing is left"


def test_lines_end_where_a_setting_was_dropped_and_the_chosen_one_is_bold():
    (axes,) = FIGURES["tried_settings"]().axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[10, 20, 40], [10, 20], [10]]
    bold = [line.get_label() for line in axes.lines if line.get_linewidth() == 3]
    assert bold == ["r=8, alpha=32, rate 0.002 (chosen)"]
    assert "r=16, alpha=32, rate 0.004: 0.80 at 10, 0.60 at 20" in axes.figure.alt


def test_a_line_goes_through_the_runs_of_a_source_that_no_other_of_it_beats():
    figure = FIGURES["two_measures"]()
    lines = [list(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "None"]
    assert lines == [[1000.0], [1100.0, 30000.0], [36000.0]] and figure.axes[0].get_xscale() == "log"
    assert "study: lora 0.6 at 1.1e+03, full 0.8 at 3e+04" in figure.alt
