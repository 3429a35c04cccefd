"""Figures of lesson 05: lines go through the mean of the seeds, in shares of the bits."""

import pytest

from support.rows import row
from workbench.plots import knobs

ROWS = [
    row(rank, seed, learning_rate=rate, memorised_bits=600.0 + 50 * seed - 100 * (rank == 1) - 1e5 * abs(rate - 2e-3))
    for rank in (1, 8, 64)
    for rate in (1e-3, 2e-3, 4e-3)
    for seed in ((0, 1, 2) if rate == 2e-3 else (0,))
]
FULL = [row(None, learning_rate=rate, memorised_bits=900.0) for rate in (1e-4, 2e-4)]
ALPHAS = [row(8, alpha=alpha, learning_rate=rate) for alpha in (4, 32, 256) for rate in (5e-4, 2e-3, 8e-3)]

FIGURES = {
    "bits_by_rate": lambda: knobs.bits_by_rate([*ROWS, *FULL], "rank", 1276.0, "All ranks are best at 0.002"),
    "bits_by_rate, alpha": lambda: knobs.bits_by_rate(ALPHAS, "alpha", 2551.0, "Alpha"),
}


def test_lines_go_through_the_mean_of_the_seeds_and_runs_that_failed_are_left_out():
    failed = row(1, 3, learning_rate=2e-3, status="diverged")
    axes = knobs.bits_by_rate([*ROWS, *FULL, failed], "rank", 1000.0, "").axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["rank 8"].get_ydata()) == pytest.approx([0.5, 0.65, 0.4])
    assert list(lines["full fine-tuning"].get_xdata()) == [1e-4, 2e-4]
    assert "rank 1 is highest at 0.002 with 55%" in axes.figure.alt
