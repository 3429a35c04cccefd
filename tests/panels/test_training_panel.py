"""The training panel without a browser: it trains what `train` trains, in a thread, and can be stopped."""

import copy
import re
import threading
from dataclasses import replace

import pytest
import torch

from support.records import record
from support.small_models import write_model
from support.waiting import wait_for
from workbench import RunStore, TrainConfig, full, load_base, load_task, lora, train
from workbench.panels import base as common, training
from workbench.panels.live.growth import growth
from workbench.panels.training import METHODS, TrainingPanel, method_for

TASK = load_task("tickets")
CONFIG = TrainConfig(steps=6, batch_size=4, test_limit=4, evaluate=False)
SCORED = replace(CONFIG, evaluate=True)
LONG = replace(CONFIG, steps=2000)


def panel_of(small, store, config=CONFIG, runs=()):
    return TrainingPanel(small, TASK, config, store, runs, rows=4)


def test_it_trains_what_its_controls_say_and_what_train_would(small, store, tmp_path):
    panel = panel_of(small, store, SCORED)
    for name, value in {"rank": 2, "alpha": 4, "learning_rate": 8e-3}.items():
        panel.controls[name].value = value
    panel.train_button.click()
    assert panel.training and panel.controls["rank"].disabled and not panel.stop_button.disabled
    panel.wait()
    (run,) = panel.runs
    expected = train(small, TASK, lora(2, 4, 8e-3), SCORED, RunStore(tmp_path / "other"))
    assert [entry["loss"] for entry in run.history] == [entry["loss"] for entry in expected.history]
    assert run.metrics == expected.metrics and run.status == "finished" and run.method == expected.method
    assert not panel.controls["rank"].disabled and panel.stop_button.disabled
    assert f"Exact match {run.metrics['exact_match']:.0%} on all scored rows" in panel.message.value


def test_the_rates_of_earlier_runs_can_be_set_again(small, store):
    """A rate carried over to another model's size is none of the usual ones."""
    earlier = [
        record(name, method={"name": "lora", "label": "lora r=8", "learning_rate": rate})
        for name, rate in (("a", 7.4316e-4), ("b", 2e-3))
    ]
    panel = panel_of(small, store, runs=earlier)
    rate = panel.controls["learning_rate"]
    values = [value for _, value in rate.options]
    assert values == sorted({*training.RATES, 7.4316e-4}) and ("0.000743", 7.4316e-4) in rate.options
    rate.value = 7.4316e-4
    assert panel.values["learning_rate"] == 7.4316e-4


def test_full_and_adapters_each_keep_their_own_learning_rate(small, store):
    """The adapters' rate would wreck a model that is trained whole."""
    panel = panel_of(small, store)
    method, rate = panel.controls["method"], panel.controls["learning_rate"]
    assert rate.value == lora().learning_rate
    rate.value = 4e-3
    method.value = "full"
    assert rate.value == full().learning_rate
    rate.value = 2e-4
    method.value = "hybrid"
    assert rate.value == 4e-3
    method.value = "lora"
    assert rate.value == 4e-3
    method.value = "full"
    assert rate.value == 2e-4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_loss_score_and_update_move_while_it_trains(small, store, monkeypatch, method):
    monkeypatch.setattr(training, "REDRAW_SECONDS", 0)
    panel = panel_of(small, store)
    panel.controls["method"].value = method
    said, pictures = [], []
    panel.message.observe(lambda change: said.append(change.new), "value")
    panel.canvas.observe(lambda change: pictures.append(change.new["digest"]), "facts")
    panel.start()
    panel.wait()
    steps = [words for words in said if "loss " in words]
    assert len(steps) == 6 and all("exact match" in words for words in steps)
    assert all(f"step {n} of 6, " in words for n, words in enumerate(steps, start=1))
    assert len(set(pictures)) >= 6, "a new picture after each step"
    spectrum = panel.canvas.facts["charts"][2]
    assert spectrum["title"].startswith("dW of 1.") and len(spectrum["lines"]) == 1, "the update of the middle layer"
    ((history, scores),) = panel.curves.values()
    assert list(scores) == [1, 2, 3, 4, 5, 6] and all(set(entry) == {"step", "loss"} for entry in history)


def test_the_update_of_a_model_that_is_trained_whole_is_the_difference_to_its_base(small):
    tuned = copy.deepcopy(small.model)
    name = "model.layers.1.self_attn.q_proj"
    weight = tuned.get_submodule(name).weight
    with torch.no_grad():
        weight += 0.1 * torch.randn(weight.shape[0], 3) @ torch.randn(3, weight.shape[1]) + 1e-3 * torch.randn(
            weight.shape
        )
    state = torch.random.get_rng_state()
    found = growth(tuned, small.model)
    exact = torch.linalg.svdvals(weight.detach() - small.model.get_submodule(name).weight)
    assert found.layer == name.removeprefix("model.layers.")
    assert torch.allclose(torch.tensor(found.values[:3]), exact[:3], rtol=1e-3)
    assert torch.equal(torch.random.get_rng_state(), state), "a run that is watched draws other numbers"
    assert growth(small.model, small.model).values == pytest.approx([0] * len(found.values))


@pytest.mark.slow
def test_the_run_joins_the_table_and_the_store(small, store):
    first = train(small, TASK, lora(4, 8, 2e-3), SCORED, store)
    panel = panel_of(small, store, SCORED, runs=[first])
    assert panel.table.value.count("<tr>") == 2 and "1 runs" not in panel.table.value
    panel.start()
    panel.wait()
    assert [run.id for run in store.all()] == [run.id for run in panel.runs] and len(panel.runs) == 2
    assert panel.table.value.count("<tr>") == 3 and "lora r=8" in panel.table.value
    assert "lora r=4" in panel.table.value and f"{panel.runs[1].metrics['loss']:.3f}" in panel.table.value


@pytest.mark.slow
def test_stop_ends_it_after_the_step_and_keeps_what_was_learned(small, store):
    panel = panel_of(small, store, LONG)
    panel.start()
    wait_for(lambda: any(history for history, _ in panel.curves.values()))
    panel.stop_button.click()
    assert panel.stop_button.disabled
    panel.wait()
    (run,) = panel.runs
    assert run.status == "interrupted" and 1 <= len(run.history) < 2000 and run.artifact_dir.is_dir()
    assert "interrupted after" in panel.message.value


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_stop_does_not_wait_for_the_scores_of_all_rows(small, store, name):
    panel, told = panel_of(small, store, replace(LONG, evaluate=True)), []
    panel.controls["method"].value = name
    panel.message.observe(lambda change: told.append(change.new), "value")
    panel.start()
    wait_for(lambda: any(history for history, _ in panel.curves.values()))
    panel.stop()
    panel.wait()
    (run,) = panel.runs
    assert run.status == "interrupted" and run.before and not run.metrics and run.artifact_dir.is_dir()
    assert store.all() == [run] and not any("scoring all rows" in words for words in told)
    assert f"stopping after step {len(run.history)} of 2000" in " ".join(told)


@pytest.mark.slow
def test_stop_before_the_first_step_says_when_it_will_act(small, store, monkeypatch):
    """Scoring the base comes first, and can take longer than a step."""
    waiting, go_on = threading.Event(), threading.Event()

    def held(*arguments):
        waiting.set()
        go_on.wait(60)
        return train(*arguments)

    monkeypatch.setattr(training, "train", held)
    panel = panel_of(small, store, LONG)
    panel.start()
    assert waiting.wait(60)
    panel.stop_button.click()
    assert "Stopping after the first step" in panel.message.value
    go_on.set()
    panel.wait()
    assert [len(run.history) for run in panel.runs] == [1] and panel.runs[0].status == "interrupted"


@pytest.mark.slow
def test_nothing_can_be_stopped_after_the_last_step(small, store):
    """What is left is the scoring, which stopping would not end."""
    panel, told = panel_of(small, store, SCORED), []
    panel.message.observe(lambda change: told.append((change.new, panel.stop_button.disabled)), "value")
    panel.start()
    panel.wait()
    assert {disabled for words, disabled in told if "scoring all rows" in words} == {True}


@pytest.mark.slow
def test_one_at_a_time(small, store):
    panel, other = panel_of(small, store, LONG), panel_of(small, store, LONG)
    panel.start()
    wait_for(lambda: any(history for history, _ in panel.curves.values()))
    other.start()
    other.wait()
    assert "Another training is under way" in other.message.value and not other.training and not other.curves
    panel.start()
    panel.stop()
    panel.wait()
    assert len(panel.runs) == 1
    other.start()
    assert other.training
    other.stop()
    other.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_each_method(small, store, name):
    panel = panel_of(small, store, replace(CONFIG, steps=2))
    panel.controls["method"].value = name
    panel.start()
    panel.wait()
    (run,) = panel.runs
    assert run.method["name"] == name and run.status == "finished" and len(run.history) == 2
    assert run.base["quantization"] == ("nf4" if name == "qlora" else None)


def test_a_hybrid_opens_the_last_block(small):
    assert method_for(small, "hybrid", 2, 4, 1e-3).full_modules == ("layers.1.mlp",)


@pytest.mark.slow
def test_what_cannot_work_is_said_in_the_panel(base, store, tmp_path):
    folder = write_model(tmp_path / "llama", "llama", base.tokenizer)
    panel = panel_of(load_base(str(folder), dtype="float32"), store)
    (folder / "config.json").unlink()
    panel.controls["method"].value = "qlora"
    panel.start()
    panel.wait()
    assert 'role="alert"' in panel.message.value and "holds no config.json" in panel.message.value
    panel.controls["method"].value = "lora"
    panel.start()
    panel.wait()
    assert len(panel.runs) == 1, "the next one works"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_is_shown_and_the_panel_goes_on(small, store, monkeypatch):
    panel = panel_of(small, store)
    monkeypatch.setattr(training, "train", None)
    panel.start()
    panel.wait()
    assert "TypeError" in panel.message.value and not panel.train_button.disabled
    monkeypatch.undo()
    panel.start()
    panel.wait()
    assert len(panel.runs) == 1


@pytest.mark.slow
def test_a_saved_notebook_has_the_curves_and_the_table(small, store, monkeypatch):
    panel = panel_of(small, store, runs=[train(small, TASK, lora(4, 8, 2e-3), CONFIG, store)])
    calls = []
    monkeypatch.setattr(common, "display", lambda data, metadata=None, raw=False: calls.append(data))
    panel._ipython_display_()
    still = calls[1]["text/html"]
    assert re.search(r'<img [^>]*alt="Training loss by step, 1 earlier run', still) and "lora r=4" in still


def test_every_control_has_a_label_and_the_panel_fits(small, store):
    panel = panel_of(small, store)
    assert all(control.description for control in panel.controls.values())
    assert len(panel.canvas.facts["charts"]) == 2 and panel.canvas in panel.widget.children
