"""Forgetting at equal score: means by rate, and the gentlest rate that still scores enough."""

import pytest

from workbench.results.equal_score import at_equal_score, means_by_rate


def rows(*triples):
    """(rate, exact match, forgetting), one a seed."""
    return [
        {"learning_rate": rate, "exact_match": exact, "forgetting": lost, "status": "finished", "seed": seed}
        for seed, (rate, exact, lost) in enumerate(triples)
    ]


LORA = rows((2e-3, 0.8, 2.0), (2e-3, 0.7, 3.0), (1e-3, 0.7, 1.0), (5e-4, 0.3, 0.2))
FULL = rows((2e-4, 0.9, 1.5), (1e-4, 0.85, 0.5), (5e-5, 0.5, 0.1))


def test_rates_are_in_rising_order_with_the_mean_of_their_seeds():
    means = means_by_rate(LORA)
    assert [(one.learning_rate, one.seeds) for one in means] == [(5e-4, 1), (1e-3, 1), (2e-3, 2)]
    assert means[-1].exact_match == pytest.approx(0.75) and means[-1].forgetting == pytest.approx(2.5)


def test_the_gentlest_rate_that_reaches_what_both_reach():
    score, found = at_equal_score({"lora": LORA, "full": FULL})
    assert score == pytest.approx(0.9 * 0.75)
    assert (found["lora"].learning_rate, found["full"].learning_rate) == (1e-3, 1e-4)


def test_unfinished_rows_do_not_count_and_a_setting_without_rows_is_named():
    failed = [row | {"status": "diverged"} for row in FULL]
    with pytest.raises(ValueError, match="full has no finished row"):
        at_equal_score({"lora": LORA, "full": failed})
