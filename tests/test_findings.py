"""The findings that ship are those of the rows that ship."""

import sys
from io import BytesIO
from pathlib import Path

import pytest
from matplotlib.image import imread

from workbench.claims import claims

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import findings


def rows(*scores, name):
    return [
        {
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


def test_the_picture_is_what_the_rows_show():
    stored, drawn = (imread(BytesIO(png)) for png in (findings.PICTURE.read_bytes(), findings.picture()))
    assert stored.shape == drawn.shape and abs(stored - drawn).mean() < 1e-3


def test_the_claims_told_are_of_the_ledger():
    assert set(findings.by_claim()) <= set(findings.TRAINED) <= set(claims())


@pytest.mark.parametrize(
    ("full", "words"),
    [
        ((0.7, 0.9, 0.8), "+10.0% (+0.0% to +20.0%), within noise"),  # a seed without a difference
        ((0.75, 0.76, 0.77), "+6.0% (+5.0% to +7.0%), within noise"),  # less than 120 rows can tell
        ((1.0, 1.0, 1.0), "+30.0% (+30.0% to +30.0%), beyond noise"),
    ],
)
def test_a_difference_is_paired_by_seed_and_says_whether_it_counts(full, words):
    say = findings.paired([*rows(0.7, 0.7, 0.7, name="lora"), *rows(*full, name="full")], "exact_match")
    assert say("full", "lora", "{:+.1%}").startswith(words)


def test_other_measures_are_judged_by_the_seeds_alone():
    say = findings.paired([*rows(0.7, 0.7, 0.7, name="lora"), *rows(0.71, 0.72, 0.73, name="full")], "forgetting")
    assert say("full", "lora", "{:+.2f}") == "+0.02 (+0.01 to +0.03), beyond noise"
