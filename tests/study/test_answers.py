"""The answers, on simulated rows whose truth is known, and on none."""

import pytest

from support.study_rows import run, runs
from workbench.study.answers import NOT_YET, QUESTIONS, answers, page


def told(start: str, *rows: list) -> str:
    """The answer to the question that begins with `start`."""
    study = [row for own in rows for row in own]
    (found,) = [answer for question, answer in answers(study) if question.startswith(start)]
    return found


def test_without_rows_they_say_so():
    """The last two are of other rows: costs, and the study of search."""
    assert [answer for _, answer in answers([])][:-2] == [NOT_YET] * (len(QUESTIONS) - 2)
    assert page([]).startswith("1. **Is LoRA as good")


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ({"tickets": 0.8}, "Yes on `tickets`: full is at most"),
        ({"tickets": 0.7}, "Yes on `tickets`: full is at most 0.0 points better"),
        ({"protocol": 0.9}, "No: full is ahead of rank 8, alpha 32 by 1"),
        ({"tickets": 0.8, "protocol": 0.9}, "Yes on `tickets`: full is at most"),
        ({"tickets": 0.8, "protocol": 0.9}, "; no: full is ahead of rank 8, alpha 32 by 1"),
    ],
)
def test_full_against_a_lora_that_scores_80_percent(tasks, words):
    rows = [runs(task, "lora", 0.8) + runs(task, "full", score) for task, score in tasks.items()]
    assert words in told("Is LoRA as good", *rows)


def test_a_small_difference_on_few_rows_is_not_shown():
    few = [*runs("tickets", "lora", 0.5, rows=30), *runs("tickets", "full", 0.6, rows=30)]
    assert told("Is LoRA as good", few).startswith("No difference shown on `tickets` (full ")


def test_a_better_setting_of_lora_is_named():
    rows = [*runs("protocol", "lora", 0.8), *runs("protocol", "full", 0.95), *runs("protocol", "alpha=128", 0.95)]
    assert "a better one (alpha=128) does not" in told("Does a new format", rows)
    assert "but on par with the best setting of LoRA there, alpha=128" in told("Is LoRA as good", rows)
    assert told("Does a new format", rows[:8]).startswith("Yes: on `protocol` full is 1")


def test_longer_runs_are_told_by_their_steps():
    rows = [*runs("protocol", "lora", 0.7), *runs("protocol", "full", 0.9)]
    rows += [*runs("protocol", "lora, 600 steps", 0.95), *runs("protocol", "full, 600 steps", 0.96)]
    answer = told("Does LoRA catch up", rows)
    assert answer.startswith("Yes on `protocol`: full minus LoRA is +") and "after 60 steps" in answer
    assert "points after 600 steps (then 9" in answer and answer.endswith("% right).")
    rows = [*rows[:4], *runs("protocol", "full", 0.7), *rows[8:]]
    assert told("Does LoRA catch up", rows).startswith("It is not behind in short runs on `protocol`")
    rows = [*rows[:4], *runs("protocol", "full", 0.9), *rows[8:12], *runs("protocol", "full, 600 steps", 0.99)]
    assert told("Does LoRA catch up", rows).startswith("No, it stays behind on `protocol`")


def test_forgetting_is_told_as_a_factor_of_perplexity():
    rows = [*runs("tickets", "lora", 0.9, forgot=0.6931), *runs("tickets", "full", 0.9, forgot=1.0986)]
    answer = told("Does LoRA forget less", rows)
    assert answer.startswith("Yes, at rank 8, alpha 32") and "2 (90% right) with LoRA and 3 (90% right) with" in answer
    more = [*runs("docs", "lora", 0.9, forgot=1.0986), *runs("docs", "full", 0.9, forgot=0.6931)]
    assert told("Does LoRA forget less", more).startswith("No, it forgets more, at")
    assert told("Does LoRA forget less", rows, more).startswith("On 1 of 2 tasks, at")


def test_other_settings_are_counted_by_what_is_decided():
    rows = [*runs("tickets", "lora", 0.7), *runs("tickets", "lora r=64", 0.7), *runs("tickets", "alpha=8", 0.5)]
    rows += [*runs("tickets", "hybrid", 0.8), *runs("tickets", "hybrid, norms", 0.7), *runs("tickets", "qlora", 0.6)]
    assert told("Do rank, alpha", rows).startswith("1 of 2 other settings differ") and "alpha=8" in told(
        "Do rank", rows
    )
    assert told("Is it worth", rows).startswith("It beats LoRA in 1 of 2 comparisons; the largest gain is +1")
    assert told("What does a 4-bit", rows).startswith("On par with LoRA on 0 of 1 tasks; at worst -")


def test_the_ratio_of_rates_is_a_geometric_mean():
    rows = [*runs("tickets", "lora", 0.8), *runs("tickets", "full", 0.8)]
    rows += [*runs("docs", "lora", 0.8, rate=5e-4), *runs("docs", "full", 0.8)]
    assert told("How much larger", rows).startswith(
        "At rank 8 and alpha 32, 10 times that of full"
    ) and "20 on `tickets`" in told("How much", rows)
    wide = [*runs("protocol", "lora", 0.8), *runs("protocol", "alpha=128", 0.8, rate=5e-4)]
    assert "5 to 20 over 2 settings" in told("How much larger", rows, wide, runs("protocol", "full", 0.8))
    assert run("docs", "lora", 0.8, 0)["learning_rate"] == 2e-3
