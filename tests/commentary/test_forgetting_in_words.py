"""What lessons 06 and 07 say of forgetting follows from the numbers, whichever way these fall."""

from dataclasses import replace

import pytest

from support.study_rows import runs
from workbench.commentary import forgetting as say
from workbench.results import reference
from workbench.results.equal_score import AtRate
from workbench.results.noise import times_in_words


def pair(lora, full):
    """At equal score: nats that LoRA and full lose."""
    return 0.7, {"lora": AtRate(1e-3, 0.7, lora, 3), "full": AtRate(1e-4, 0.7, full, 3)}


@pytest.mark.parametrize(
    ("ratio", "words"), [(1.234, "1.2"), (73.4, "73"), (372.1, "372"), (4100.2, "4,100"), (1.5e8, "150 million")]
)
def test_multiples_are_written_in_few_digits(ratio, words):
    assert times_in_words(ratio) == words


@pytest.mark.parametrize(
    ("lora", "full", "who"),
    [(2.0, 0.8, "LoRA"), (0.3, 0.9, "full fine-tuning"), (0.85, 0.8, "both about the same")],
)
def test_who_forgets_more(lora, full, who):
    assert say.who_forgets_more(lora, full) == who


def test_the_paper_is_contradicted_confirmed_or_both():
    def told(best, **equal):
        return say.against_the_paper(equal, dict.fromkeys(equal, best))

    level, less = pair(1.0, 1.0)[1], pair(0.5, 1.5)[1]
    assert "contradicts" in told(level, tickets=pair(1.4, 0.4), protocol=pair(1.5, 0.3))
    assert "agrees with" in told(level, tickets=pair(0.4, 1.4))
    assert "only in part" in told(level, tickets=pair(1.4, 0.4), protocol=pair(0.3, 0.9))
    assert told(level, tickets=pair(0.4, 1.4)).endswith("the title does not hold on `tickets`.")
    less["lora"] = replace(less["lora"], exact_match=less["full"].exact_match - 0.1)
    assert told(less, tickets=pair(0.4, 1.4)).endswith("LoRA learns less and forgets less on `tickets`.")


def test_the_study_is_compared_in_three_ways():
    rows = [
        *runs("t", "lora", 0.6, rate=5e-4, forgot=0.2),
        *runs("t", "lora", 0.8, rate=2e-3, forgot=2.0),
        *runs("t", "full", 0.5, rate=1e-4, forgot=0.1),
        *runs("t", "full", 0.78, rate=4e-4, forgot=1.0),
    ]
    best, equal, rate = say.three_comparisons(rows, "t").splitlines()[2:]
    assert "rate 0.002: 79% right" in best and best.endswith("| LoRA |")
    assert "at equal score" in equal and equal.endswith("| LoRA |")
    assert "perplexity 1.2 times | rate 0.0004: " in rate and rate.endswith("| full fine-tuning |")
    apart = [row for row in rows if row["learning_rate"] != 5e-4]
    assert len(say.three_comparisons(apart, "t").splitlines()) == 4, "no equal rate was tried"


def test_longer_training_is_told_with_what_it_forgets():
    rows = [*runs("t", "lora", 0.8, forgot=2.0), *runs("t", "lora, 200 steps", 0.95, rate=5e-4, forgot=1.0)]
    rows += [
        *runs("t", "lora, batch 64", 0.99),
        *runs("t", "full, 200 steps", 0.97),
        *runs("t", "lora, 600 steps", 0.9, rate=5e-4),
    ]
    told = say.after_longer_training(rows, "t")
    assert "7.4 times the base's perplexity after 60 steps at a rate of 0.002" in told
    assert told.endswith("2.7 times the base's perplexity after 200 steps at a rate of 0.0005.")
    assert say.after_longer_training(rows[:4], "t") == ""


@pytest.mark.parametrize("task", ["tickets", "protocol"])
def test_the_shipped_study_is_compared(task):
    rows = reference.study_rows()
    equal, best = say.pairs_at_equal_score(rows, [task]), say.pairs_at_best_rate(rows, [task])
    wanted, found = equal[task]
    assert all(one.exact_match >= wanted for one in found.values())
    assert len(say.two_comparisons(equal, best).splitlines()) == 4
    assert len(say.three_comparisons(rows, task).splitlines()) >= 4
