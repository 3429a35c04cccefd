"""Sampling noise of exact match."""

import pytest

from workbench.results.noise import noise_of_difference, rows_scored, two_standard_errors


def test_the_noise_of_a_share_falls_with_the_rows_and_is_never_zero():
    assert two_standard_errors(0.5, 396) == pytest.approx(0.05)
    assert two_standard_errors(0.0, 8) > 0.2
    assert noise_of_difference((0.5, 396), (0.5, 396)) == pytest.approx(0.05 * 2**0.5)


@pytest.mark.parametrize(("limit", "expected"), [(None, 120), (4, 4), (120, 120), (500, 120)])
def test_a_limit_scores_at_most_the_rows_that_there_are(limit, expected):
    assert rows_scored(120, limit) == expected
