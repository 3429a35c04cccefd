"""Settings tried at once: which go on, what it costs, what is never read, and what is said."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from workbench import TrainConfig, load_task, lora, recommend
from workbench.advice.trying import TRIED, cost_in_steps, halved, settings_around, stages, try_settings
from workbench.errors import TrainingError
from workbench.models.identity import fingerprint
from workbench.tasks import Example

CONFIG = TrainConfig(steps=12, batch_size=4)
RATES = (1e-6, 2e-2, 1e-5, 1e-7)


@pytest.fixture(scope="module")
def codes():
    """Rows of one form, which a model of random weights learns in a few steps: the answer is always one of two."""
    rows = [Example(f"Box {i} is", " red" if i % 2 else " blue") for i in range(60)]
    return replace(load_task("orders"), train=tuple(rows), test=(Example("word " * 600, " never read"),), labels=None)


def tried(base, task, rates=RATES, config=CONFIG, minutes=10.0):
    return try_settings(base, task, [lora(2, 4, rate) for rate in rates], config, minutes)


@given(st.integers(2, len(TRIED)), st.integers(6, 2000))
def test_trying_costs_at_most_three_runs(count, steps):
    assert cost_in_steps(count, steps) <= 3 * steps
    assert cost_in_steps(count, steps) >= 2 * stages(steps)[-1], "two settings reach the last stage"


@given(st.integers(1, 2000))
def test_stages_rise_and_end_before_the_run_does(steps):
    found = stages(steps)
    assert found == sorted(set(found)) and found[0] >= 1 and found[-1] <= steps


def test_half_go_on_and_never_one_alone():
    assert [halved(count) for count in (8, 5, 4, 3, 2, 1)] == [4, 3, 2, 2, 2, 1]


def test_the_rule_is_tried_first_and_the_others_around_it():
    first = lora(8, 32, 2e-3)
    settings = settings_around(first)
    assert settings[0] == first and len({(s.rank, s.alpha, s.learning_rate) for s in settings}) == len(settings) == 8
    assert {s.learning_rate for s in settings} == {1e-3, 2e-3, 4e-3} and {s.rank for s in settings} == {8, 16, 32}


@pytest.mark.slow
def test_the_setting_that_learns_is_chosen_and_the_test_rows_are_never_read(small, codes):
    """The only test row is longer than max_length: reading it would raise."""
    before = fingerprint(small.model)
    found = tried(small, codes)
    assert found.chosen.method.learning_rate == 2e-2 and found.chosen.dropped == ""
    assert found.rows == 12 and not found.recalled and fingerprint(small.model) == before
    first, second, last = stages(CONFIG.steps)
    lengths = sorted(max(each.scores) for each in found.tried)
    assert lengths == [first, first, last, last]
    assert {each.dropped for each in found.tried[2:]} == {f"dropped after step {first}"}
    assert found.runs_worth == pytest.approx(cost_in_steps(4, 12) / 12)
    losses = [each.scores[first][0] for each in found.tried]
    assert max(losses[:2]) <= min(losses[2:]), "the better half went on"
    assert found.table()[0]["outcome"] == "chosen" and second in found.chosen.scores


@pytest.mark.slow
def test_twice_is_the_same(small, codes):
    one, other = (tried(small, codes) for _ in range(2))
    assert [each.scores for each in one.tried] == [each.scores for each in other.tried]


@pytest.mark.slow
def test_what_is_to_be_recalled_is_scored_on_itself(small):
    facts = load_task("facts").head(12)
    found = tried(small, facts)
    assert found.recalled and found.rows == 12 and "rows to be recalled" in found.reasons(12)[0]


@pytest.mark.slow
def test_a_setting_that_diverges_is_last_and_said_to_have(small, codes):
    found = tried(small, codes, (1e-4, 1e30))
    assert found.chosen.method.learning_rate == 1e-4
    assert found.tried[1].dropped == "diverged" and "diverged" in found.reasons(12)[2]
    with pytest.raises(TrainingError, match="Every setting diverged"):
        tried(small, codes, (1e30, 1e31))


def test_recommend_takes_a_loaded_base_and_rows_to_train_on(small, codes):
    with pytest.raises(TrainingError, match="base='smollm2-135m' must be"):
        recommend("smollm2-135m", codes)
    with pytest.raises(TrainingError, match="has no rows to train on"):
        recommend(small, replace(codes, train=()))


@pytest.mark.slow
def test_a_budget_that_is_too_small_says_what_it_takes(small, codes):
    with pytest.raises(TrainingError, match=r"Trying 2 settings takes about .* more than budget_minutes=1e-05"):
        tried(small, codes, minutes=1e-5)
    with pytest.raises(TrainingError, match="budget_minutes=0 must be above 0"):
        recommend(small, codes, CONFIG, budget_minutes=0)
    assert torch.is_grad_enabled()
    assert tried(small, codes).tried, "another training can begin"


@pytest.mark.slow
def test_recommend_with_a_budget_gives_a_method_with_the_table_as_reasons(small, codes):
    method = recommend(small, codes, CONFIG, budget_minutes=10)
    assert len(method.reasons) == 2 + len(TRIED) and method.reasons[1].startswith("Tried: 8 settings in one pass of")
    assert method.reasons[2].endswith("chosen.") and f"learning rate {method.learning_rate:g}:" in method.reasons[2]
    assert "never on test rows" in method.reasons[1]
