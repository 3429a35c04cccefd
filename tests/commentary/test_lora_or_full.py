"""The words of lesson 06 say what the numbers say, whichever way these fall."""

import numpy as np
import pytest

from support.records import run
from workbench.commentary import lora_or_full as say
from workbench.results import reference
from workbench.results.equal_score import AtRate
from workbench.results.paired import compare
from workbench.scoring.scores import pack_rows

DRAW = np.random.default_rng(0)
LOW, HIGH = (DRAW.random((1, 400)) < share for share in (0.5, 0.9))
GAP = say.Gap(8.0, "better", "")


def pair(lora, full):
    """At equal score: nats that LoRA and full lose."""
    return 0.7, {"lora": AtRate(1e-3, 0.7, lora, 3), "full": AtRate(1e-4, 0.7, full, 3)}


EQUAL = pair(1.41, 0.18)[1]


def test_the_answer_names_who_is_ahead_and_who_forgets_more():
    text = say.answer("tickets", compare(HIGH, LOW), 2.0, 0.8, EQUAL, ("protocol", GAP))
    assert text.startswith("**The answer:** Full fine-tuning beats LoRA on `tickets` (")
    assert "at rates that score alike, LoRA has 4.1 times the base's perplexity and full 1.2 times." in text
    assert "LoRA forgets more: perplexity on other text is 3.3 times that of full fine-tuning" in text
    assert "In the stored study's `protocol`, full fine-tuning is ahead of LoRA's usual setting by 8.0 points." in text


def test_the_answer_turns_with_the_numbers():
    text = say.answer("tickets", compare(LOW, HIGH), 0.5, 0.5, EQUAL, ("protocol", say.Gap(-4.0, "worse", "")))
    assert "LoRA beats full fine-tuning" in text and "both forget about as much" in text
    assert "LoRA is ahead by 4.0 points" in text
    same = say.answer(
        "tickets", compare(LOW[:, :40], LOW[:, :40] ^ (np.arange(40) < 3)), 0.1, 0.9, EQUAL, ("protocol", GAP)
    )
    assert (
        "nobody could tell LoRA from full fine-tuning with 40 rows" in same and "full fine-tuning forgets more" in same
    )
    assert "on par" in say.lead_in_words(compare(np.tile(HIGH, 9), np.tile(HIGH, 9)))
    assert "there is none yet" in say.answer("tickets", None, 0, 0, EQUAL, ("protocol", GAP))


def test_rows_are_compared_with_the_lora_run():
    runs = [
        run(
            name,
            right={"exact_match": pack_rows(right[0])},
            precision={"compute": "float32"},
            hardware={"processor": "x"},
        )
        for name, right in (("lora", LOW), ("full", HIGH))
    ]
    (found,) = say.row_by_row(runs).values()
    assert found.verdict == "better" and found.rows == 400
    assert say.row_by_row(runs[1:]) == {} and "full is ahead of LoRA" in say.lead_in_words(found)


def test_tables_hold_the_runs_numbers():
    before = {"general_loss": 2.0, "fact_accuracy": 0.6}
    metrics = {"exact_match": 0.7, "general_loss": 3.0, "fact_accuracy": 0.3}
    one = run("lora", before=before, metrics=metrics, precision={"frozen": "bfloat16"}, trainable_parameters=2_442_240)
    assert "| lora | 3.00 nats | 20 | 2.7 times as high | 30% |" in say.forgotten_in_words([one])
    assert "| lora | 2.4 million | 16 bits (bfloat16) | 0.001 | finished |" in say.runs_in_words([one])


@pytest.mark.parametrize("task", ["tickets", "protocol"])
def test_the_study_is_told_with_its_spread(task):
    gap = say.study_gap(reference.study_rows(), task)
    assert gap.verdict in ("better", "worse", "on par", "undecided") and gap.words


def test_without_stored_rows_seeds_decide():
    def rows(name, scores):
        return [
            {
                "task": "t",
                "name": name,
                "seed": s,
                "exact_match": x,
                "loss": 1.0,
                "learning_rate": 1e-3,
                "status": "finished",
            }
            for s, x in enumerate(scores)
        ]

    verdicts = [
        say.study_gap(rows("full", full) + rows("lora", [0.5, 0.6]), "t").verdict
        for full in ([0.7, 0.8], [0.5, 0.9], [0.1, 0.2])
    ]
    assert verdicts == ["better", "undecided", "worse"]


def test_the_title_of_the_directions_says_who_goes_further():
    assert "LoRA moves few directions, 2 times" in say.directions_in_words({"LoRA": [4.0], "full": [2.0]})
    assert "2 times as far as LoRA" in say.directions_in_words({"LoRA": [1.0], "full": [2.0]})
    assert "largest first" in say.directions_in_words({"full": [2.0]})


def test_starting_values_give_full_a_tenth_of_the_rate():
    assert "| llama-3.1-8b | 16, 32 | 0.0002 | 2e-05 |" in say.starting_values()
