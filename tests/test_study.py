"""The reference study goes on where it stopped: nothing is trained twice, not even under two names."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import study


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """What the study would train, with its rows in a copy of the file."""
    monkeypatch.setattr(study, "STUDY", shutil.copy(study.STUDY, tmp_path / "study.jsonl"))
    asked = []
    monkeypatch.setattr(study, "train", lambda task, named, seeds: asked.append((task, named, list(seeds))))
    return asked


@pytest.mark.parametrize("task", study.TASKS)
@pytest.mark.parametrize("name", ["lora", "lora r=64"])
def test_what_is_stored_is_not_trained_again(trained, task, name):
    before = study.rows(task)
    study.measure(task, study.grid(name))
    assert trained == [] and study.rows(task) == before


def test_what_another_name_has_trained_is_copied(trained):
    (row,) = study.rows("tickets", "auto")
    study.measure("tickets", [("twin", study.lora(8, 32, row["learning_rate"]))])
    (copied,) = study.rows("tickets", "twin")
    assert trained == [] and copied == row | {"name": "twin"}


def test_what_is_missing_is_trained_together_where_that_is_possible(trained):
    named = [("lora", study.lora(8, 32, 3e-3)), ("starved", study.lora(1, 32, 3e-3, targets=["q_proj"], layers=[15]))]
    study.measure("tickets", [*named, ("full", study.full(3e-5))], seeds=(0, 1))
    assert [(len(named), seeds) for _, named, seeds in trained] == [(2, [0, 1]), (1, [0]), (1, [1])]


def test_no_two_settings_of_the_study_are_taken_for_one(trained):
    settings = [study.as_row(name, make(rates[0]), 0) for name, (make, rates) in study.METHODS.items()]
    assert len({study.identity(row)[1:] for row in settings}) == len(settings)
