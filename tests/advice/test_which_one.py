"""What lesson 10 says: the example is a file as people have it, and every sentence holds the numbers it was given."""

import numpy as np
import pytest

from support.records import run
from workbench.advice import which_one as say
from workbench.advice.decide import Needs
from workbench.scoring.scores import Scores, pack_rows
from workbench.tasks.report import data_report

ROWS = np.random.default_rng(0).random(200)


def scored(name, score):
    return run(name, score, right={"exact_match": pack_rows(score > ROWS)})


def prompted(score):
    right = score > ROWS
    return Scores({"exact_match": float(right.mean())}, right={"exact_match": pack_rows(right)})


def test_the_example_has_semicolons_umlauts_and_an_old_encoding(tmp_path):
    path = say.example_file(tmp_path)
    with pytest.raises(UnicodeDecodeError):
        path.read_text(encoding="utf-8")
    found = data_report(path, prompt="Message: {Message}\nIntent:", completion=" {Intent}", labelled=True)
    assert found.train + found.test == say.MESSAGES and len(found.labels) == 12
    assert "columns divided by semicolons" in found.notes and "Jörg Müller" in found.rows[0]["Message"]


def test_step_ratios_are_those_of_the_stored_costs():
    ratios = say.step_ratios()
    assert ratios["lora"] == 1.0 and {"qlora", "hybrid", "full"} <= ratios.keys()
    assert all(0.5 < ratio < 4 for ratio in ratios.values())


def test_prompting_and_runs_are_compared_on_the_rows_that_both_scored():
    few = Scores({"exact_match": 0.1}, right={"exact_match": pack_rows(ROWS[:40] < 0.1)})
    found = say.against_prompting([scored("lora", 0.6), run("full", metrics={})], few)
    assert list(found) == ["lora"] and found["lora"].rows == 40 and found["lora"].verdict == "better"
    assert "| 4 | " in say.prompting_in_words({4: prompted(0.2)})


@pytest.mark.parametrize(
    ("lora", "full", "prompting", "expected"),
    [
        (0.5, 0.8, 0.1, "full"),
        (0.8, 0.5, 0.1, "LoRA"),
        (0.7, 0.71, 0.1, "too close to call"),
        (0.3, 0.2, 0.9, "prompting"),
        (0.3, 0.8, 0.81, "full"),  # a few rows more are no win of prompting
    ],
)
def test_a_winner_is_named_only_where_the_rows_tell_them_apart(lora, full, prompting, expected):
    assert say.winner([scored("lora", lora), scored("full", full)], prompted(prompting)) == expected
    assert say.winner([scored("lora", lora)], prompted(prompting)) == "not measured"


@pytest.mark.parametrize(
    ("prompting", "trained", "expected"),
    [
        (0.05, 0.7, "fewer than 1 in 10"),
        (0.5, 0.7, "more, but fewer than after training"),
        (0.7, 0.7, "as many as after training, or more"),
    ],
)
def test_the_share_is_said_as_the_prediction_words_it(prompting, trained, expected):
    assert say.share_in_words(prompting, trained) == expected


def test_the_answer_names_choice_scores_and_how_many_rows_would_tell():
    needs = Needs(model="llama-3.2-1b", few_shot=0.05, wanted=0.6)
    text = say.answer(needs, [], [scored("lora", 0.6)], 40)
    assert text.startswith("**The answer:** LoRA, for the needs that you stated")
    assert "prompting reaches 5% and lora reaches 60%" in text and "40 test rows of the 625" in text
    nothing = say.answer(Needs(model="llama-3.1-70b", few_shot=0.05, wanted=0.6), [], [], 40)
    assert nothing.startswith("**The answer:** None of them") and "no run was scored" in nothing


def test_the_report_and_the_ledger_of_the_lesson(store):
    assert say.write_report([run("lora", status="diverged")], store).startswith("No run has finished")
    runs = [scored("lora", 0.6), scored("full", 0.7)]
    for one in runs:
        one.hardware, one.precision = {"processor": "x"}, {"frozen": "float32", "compute": "float32"}
    assert "report.html" in say.write_report(runs, store)
    assert (store.path / "learner" / "report.html").read_text(encoding="utf-8").count("<figure>") == 3
    assert say.ledger(store).count("| **") == 29


def test_published_runs_have_memory_and_speed():
    assert all(row["peak_memory_mb"] > 1000 and row["tokens_per_second"] > 0 for row in say.published_rows())
