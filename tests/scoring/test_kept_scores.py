"""Scores of a base are measured once a machine, and again whenever something that they depend on has changed."""

from dataclasses import replace

import pytest
import torch

from workbench import machine
from workbench.models.sharing import shared_copy
from workbench.scoring import evaluation
from workbench.tasks.tasks import load_task
from workbench.training import lifecycle
from workbench.training.lifecycle import TrainConfig, score_of_base

TASK = load_task("tickets").head(4)
CONFIG = TrainConfig(test_limit=2)


@pytest.fixture
def scored(small, tmp_path, monkeypatch):
    """A base whose scores are kept, a function that asks for scores in a new session, and what has been measured."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    measured, measure = [], evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda *asked: measured.append(asked) or measure(*asked))

    def ask(base, task=TASK, config=CONFIG):
        monkeypatch.setattr(lifecycle, "BASE_SCORES", {})
        return score_of_base(base, task, config)

    return replace(small, source="package"), ask, measured


def test_a_second_session_reads_the_scores_with_their_rows(scored, monkeypatch, capsys):
    base, ask, measured = scored
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    first = ask(base)
    capsys.readouterr()
    second = ask(base)
    assert second == first and second.right == first.right and set(second.right) == {"exact_match", "label_accuracy"}
    assert len(measured) == 1 and "to measure them again, delete" in capsys.readouterr().err


def test_other_rows_weights_or_versions_are_measured(scored, monkeypatch):
    base, ask, measured = scored
    ask(base)
    ask(base, config=replace(CONFIG, test_limit=1))
    ask(base, task=replace(TASK, labels=None))
    other = shared_copy(base.model)
    weight = other.model.norm.weight
    other.model.norm.weight = torch.nn.Parameter(2 * weight.detach(), requires_grad=False)
    ask(base.with_model(other, base.revision))
    versions = machine.versions()
    monkeypatch.setattr(machine, "versions", lambda: versions | {"torch": "another"})
    ask(base)
    assert len(measured) == 5


def test_of_a_folder_nothing_is_kept(scored, tmp_path):
    base, ask, measured = scored
    for _ in range(2):
        ask(replace(base, source="directory"))
    assert len(measured) == 2 and not list(tmp_path.rglob("base_scores/*"))


def test_damaged_scores_are_measured_again(scored, tmp_path):
    base, ask, measured = scored
    ask(base)
    (file,) = tmp_path.rglob("base_scores/*.json")
    file.write_text("{}")
    ask(base)
    ask(base)
    assert len(measured) == 2
