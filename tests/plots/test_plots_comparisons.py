"""The figures that decide between methods: what is drawn are the numbers given."""

import math

import numpy as np
import pytest

from workbench.plots import comparisons
from workbench.results.equal_score import AtRate
from workbench.results.noise import FIRST_STUDY_ROWS, two_standard_errors
from workbench.results.paired import compare

RATE_ROWS = [
    {
        "method": name,
        "learning_rate": rate,
        "seed": seed,
        "exact_match": 0.2 * seed + peak * rate,
        "loss": 1.0,
        "status": "finished",
    }
    for name, peak in (("lora", 1), ("qlora", 1), ("hybrid", 1), ("full", -1))
    for rate in (0.001, 0.01, 0.1)
    for seed in (0, 1, 2)
]
MEANS = {
    "lora": [AtRate(1e-3, 0.5, 0.7, 3), AtRate(2e-3, 0.75, 2.0, 3)],
    "full": [AtRate(1e-4, 0.6, 0.1, 3), AtRate(2e-4, 0.7, 0.8, 3)],
}
OWN = [("lora r=8", "lora", 1.9, 0.74), ("full", "full", 0.9, 0.72)]
RIGHT = np.random.default_rng(0).random((3, 1, 240)) < np.array([0.7, 0.75, 0.9])[:, None, None]
PAIRS = {f"method {place}": compare(RIGHT[place], RIGHT[0]) for place in (1, 2)}
SPECTRA = {
    "LoRA": [4.0, 2.0, 1.0] + [0.0] * 61,
    "full": [2.0 / (1 + place) for place in range(64)],
    "noise": [1.0] * 64,
}

FIGURES = {
    "score_by_rate": lambda: comparisons.score_by_rate(RATE_ROWS),
    "score_by_rate, one method": lambda: comparisons.score_by_rate(RATE_ROWS[:9]),
    "paired_differences": lambda: comparisons.paired_differences(PAIRS, "full is ahead"),
    "gain_and_forgetting": lambda: comparisons.gain_and_forgetting(MEANS, OWN, "LoRA forgets more"),
    "gain_and_forgetting, no runs": lambda: comparisons.gain_and_forgetting(MEANS, [], "Study"),
    "update_directions": lambda: comparisons.update_directions(SPECTRA, "LoRA moves few directions"),
}


def test_the_line_of_rates_goes_through_the_mean_of_the_seeds_with_the_error_of_the_sample():
    axes = FIGURES["score_by_rate"]().axes[0]
    line, caps, bars = next(one for one in axes.containers if one.get_label() == "lora")
    assert list(line.get_ydata()) == pytest.approx([0.201, 0.21, 0.3])
    low, high = bars[0].get_segments()[2][:, 1]
    assert (high - low) / 2 == pytest.approx(two_standard_errors(0.3, FIRST_STUDY_ROWS)) and caps
    assert axes.get_title(loc="left") == "LoRA is best at 1e+02 times the rate that is best for full"


def test_an_interval_is_drawn_from_end_to_end():
    axes = FIGURES["paired_differences"]().axes[0]
    ends = [container[2][0].get_segments()[0][:, 0] for container in axes.containers]
    assert np.array(ends) == pytest.approx(np.array([[one.low, one.high] for one in PAIRS.values()]))


def test_forgetting_is_drawn_as_a_factor_of_perplexity():
    lines = {line.get_label(): line for line in FIGURES["gain_and_forgetting"]().axes[0].lines}
    assert list(lines["lora, study"].get_xdata()) == pytest.approx([math.exp(0.7), math.exp(2.0)])
    assert list(lines["full, yours"].get_xdata()) == pytest.approx([math.exp(0.9)])


def test_singular_values_that_are_none_are_not_drawn():
    lines = {line.get_label(): line for line in FIGURES["update_directions"]().axes[0].lines}
    assert list(lines["LoRA"].get_ydata()) == [4.0, 2.0, 1.0] and len(lines["full"].get_ydata()) == 64
