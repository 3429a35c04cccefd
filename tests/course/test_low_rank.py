"""The text of lesson 01 says what its numbers say, whichever way they fall."""

import pytest

from workbench.course import low_rank


def test_the_answer_names_the_easiest_and_the_hardest_update():
    text = low_rank.low_rank_answer({"a": 0.3, "b": 0.015, "c": 0.94}, 4, (32, 48), 1.26)
    assert text.startswith("**The answer:**")
    assert "misses only 1.5% of the update called *b*" in text
    assert "of *c* the best pair of that rank misses 94%" in text
    assert "with 21% as many numbers" in text, "4 x (32 + 48) of 32 x 48"
    assert "within 1.3 percentage points" in text


@pytest.mark.parametrize(
    ("errors", "verdict", "words"),
    [
        ((0.5, 0.2), "**supported here**", "missed less"),
        ((0.2, 0.5), "**not supported here**", "missed not always less"),
    ],
)
def test_the_verdict_follows_what_training_missed(errors, verdict, words):
    text = low_rank.verdict_on_update({"a": {1: 0.9, 4: 0.1}, "b": dict(zip((1, 4), errors, strict=True))})
    assert verdict in text and words in text and "(tried: 1, 4)" in text


def test_the_table_counts_both_matrices():
    assert "| 4,096 x 4,096 | 16,777,216 | 0.05% (8,192) | 0.39% (65,536) |" in low_rank.cost_table()
