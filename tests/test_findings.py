"""The findings that ship are those of the rows that ship."""

import sys
from io import BytesIO
from pathlib import Path

import pytest
from matplotlib.image import imread

from workbench import reference
from workbench.claims import claims

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import findings
import study_words

# By training a model of this size; architectures would need a second pretrained one.
TESTABLE = {"parity", "ceiling", "no-regret", "rank-alpha", "behaviour", "scoped", "small-models", "forgetting"}
TESTABLE |= {"hybrid", "qlora", "speed", "memory-ratio", "artifact", "new-domain"}


def rows(*scores, name):
    return [
        {
            "task": "tickets",
            "name": name,
            "learning_rate": 1e-3,
            "seed": seed,
            "exact_match": score,
            "loss": 1 - score,
            "forgetting": score,
            "status": "finished",
        }
        for seed, score in enumerate(scores)
    ]


def test_the_file_is_what_the_rows_say():
    """After new rows: .venv/bin/python benchmarks/findings.py"""
    assert findings.FINDINGS.read_text(encoding="utf-8") == findings.findings()


@pytest.mark.parametrize("task", findings.complete())
def test_the_picture_is_what_the_rows_show(task):
    stored, drawn = (imread(BytesIO(png)) for png in (findings.picture_file(task).read_bytes(), findings.picture(task)))
    assert stored.shape == drawn.shape and abs(stored - drawn).mean() < 1e-3


def test_the_claims_told_are_of_the_ledger():
    assert TESTABLE <= set(findings.by_claim()) <= set(claims())


@pytest.mark.parametrize(
    ("full", "words"),
    [
        ((0.7, 0.9, 0.8), "+10.0% (+0.0% to +20.0%), within noise"),  # a seed without a difference
        ((0.75, 0.76, 0.77), "+6.0% (+5.0% to +7.0%), within noise"),  # less than 120 rows can tell
        ((1.0, 1.0, 1.0), "+30.0% (+30.0% to +30.0%), beyond noise"),
    ],
)
def test_a_difference_is_paired_by_seed_and_says_whether_it_counts(full, words):
    told = [*rows(0.7, 0.7, 0.7, name="lora"), *rows(*full, name="full")]
    assert study_words.paired(told, "exact_match", "full", "lora").startswith(words)


def test_other_measures_are_judged_by_the_seeds_alone():
    told = [*rows(0.7, 0.7, 0.7, name="lora"), *rows(0.71, 0.72, 0.73, name="full")]
    assert study_words.paired(told, "forgetting", "full", "lora") == "+0.02 (+0.01 to +0.03), all seeds agree"


def test_a_diverged_run_is_no_score(monkeypatch):
    """Widening goes towards rates that break; such a row has no exact match."""
    stored = reference.study_rows
    broken = stored("full")[0] | {"exact_match": None, "status": "diverged"}
    broken |= {"learning_rate": 1.0, "forgetting": None, "loss": None}
    expected = findings.by_claim()
    monkeypatch.setattr(reference, "study_rows", lambda *names: stored(*names) + [broken] * ("full" in names))
    assert findings.by_claim() == expected and "to 1 |" in findings.task_table()


def test_one_step_off_is_half_and_twice_the_best_rate(monkeypatch):
    scored = {5e-4: 0.5, 1e-3: 0.9, 2e-3: 0.7, 4e-3: 0.1}
    own = [row | {"learning_rate": rate} for rate, score in scored.items() for row in rows(score, score, name="full")]
    told = [row | {"name": name} for name in ("lora", "qlora", "hybrid", "full") for row in own]
    monkeypatch.setattr(study_words, "by_task", lambda: {"tickets": told})
    assert "full 50% (50% to 50%) and 70% (70% to 70%)." in study_words.one_step_off("tickets")
