"""The findings that ship are those of the rows that ship."""

import json
import re
from io import BytesIO

import pytest
from matplotlib.image import imread
from PIL import Image

from support.study_rows import runs
from workbench.claims import claims
from workbench.paths import CHECKOUT
from workbench.results import reference
from workbench.results.reference import STUDY, read_rows
from workbench.study import findings, headlines

# By training a model of this size; architectures would need a second pretrained one.
TESTABLE = {"parity", "ceiling", "no-regret", "rank-alpha", "behaviour", "scoped", "small-models", "forgetting"}
TESTABLE |= {"hybrid", "qlora", "speed", "memory-ratio", "artifact"}


def test_the_file_is_what_the_rows_say():
    """After new rows: .venv/bin/python -m workbench.study.findings"""
    assert findings.FINDINGS.read_text(encoding="utf-8") == findings.findings()
    assert headlines.headlines() in (CHECKOUT / "README.md").read_text(encoding="utf-8"), "the README's findings too"


@pytest.mark.parametrize("task", findings.complete())
def test_the_picture_is_what_the_rows_show(task):
    pictures = findings.picture_file(task).read_bytes(), findings.picture(task)
    stored, drawn = (imread(BytesIO(png)) for png in pictures)
    assert stored.shape == drawn.shape and abs(stored - drawn).mean() < 1e-3
    told = [Image.open(BytesIO(png)).text["Description"] for png in pictures]  # every point in words
    assert told[0] == told[1]


def test_the_claims_told_are_of_the_ledger():
    assert TESTABLE <= set(findings.by_claim()) <= set(claims())


def test_seeds_that_are_missing_are_told(stored):
    three = [row for row in read_rows(STUDY) if row["task"] == "tickets"]
    stored(three)
    assert not headlines.seeds_missing()
    stored([*three, *({**row, "seed": row["seed"] + 3} for row in three if row["name"] == "lora" and row["seed"])])
    (told,) = headlines.seeds_missing()
    assert "on `tickets` LoRA has 6 and full 3 of 9 planned seeds" in told


def completed(task, **scores):
    """Rows of a study that has these settings on a task, each with four seeds: name -> its true score."""
    template = read_rows(STUDY)[0]
    rows = [row for name, score in scores.items() for row in runs(task, name, score)]
    ranks = {"full": {"rank": None, "alpha": None}}
    return [template | {"full_learning_rate": None} | row | ranks.get(row["name"], {}) for row in rows]


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Stores these rows as the study that ships."""

    def store(rows):
        (tmp_path / "study.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        monkeypatch.setattr(reference, "STUDY", tmp_path / "study.jsonl")

    return store


FOUR = {"lora": 0.6, "qlora": 0.6, "hybrid": 0.75, "full": 0.9}
VARIED = dict.fromkeys((*reference.RANKS_AND_ALPHAS, *findings.OF_LORA), 0.5)


@pytest.mark.parametrize("scores", [{}, {"lora": 0.6, "full": 0.9}, FOUR, FOUR | VARIED], ids=len)
def test_the_findings_can_be_told_however_far_the_study_is(stored, scores):
    stored(completed("protocol", **scores))
    text = findings.findings()
    assert f"| protocol | full | {0.0008 if not scores else 0.0001:g} |" in text
    assert ("full is ahead of" in text) == bool(scores)
    assert headlines.headlines()


def test_what_chose_the_rate_is_not_in_the_mean(stored):
    rows = completed("protocol", **FOUR)
    lucky = [row | {"exact_match": 1.0} if row["seed"] == 0 else row for row in rows]
    stored(rows)
    plain = findings.table(reference.study_rows(), findings.METHODS)
    stored(lucky)
    assert findings.table(reference.study_rows(), findings.METHODS) == plain
    assert "1, 2, 3 float32 |" in plain and "(first study)" in plain  # other tasks are not there yet


def test_a_difference_comes_with_its_interval_and_verdict(stored):
    stored(completed("protocol", **FOUR))
    told = findings.table(reference.study_rows(), findings.METHODS)
    (full,) = re.findall(r"protocol \| full .*", told)
    assert re.search(r"\| \+[23]\d\.\d \(\+\d+\.\d to \+\d+\.\d\), better \|", full)


def test_a_hybrid_is_told_apart_by_the_rate_of_its_opened_modules(stored):
    rows = completed("protocol", **FOUR)
    opened = [row | {"full_learning_rate": 3e-5} if row["name"] == "hybrid" else row for row in rows]
    other = [row | {"full_learning_rate": 6e-5, "exact_match": 0.1} for row in opened if row["name"] == "hybrid"]
    stored([*opened, *other])
    told = findings.table(reference.study_rows(), findings.METHODS)
    assert "| protocol | hybrid | 3e-05 (lowest tried) | 2, 3e-05 to 6e-05 |" in told


def test_a_diverged_run_is_no_score(stored):
    """Widening goes towards rates that break; such a row has no exact match."""
    rows = completed("protocol", **FOUR)
    stored(rows)
    expected = findings.by_claim()
    broken = rows[-1] | {"exact_match": None, "status": "diverged", "learning_rate": 1.0, "loss": None}
    stored([*rows, broken])
    assert findings.by_claim() == expected
    assert "to 1 |" in findings.table(reference.study_rows(), findings.METHODS)
