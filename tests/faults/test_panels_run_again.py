"""A cell that makes a panel is run again while its run is in progress: the new panel shows the run and can stop it."""

import threading
from dataclasses import replace

import pytest

from support.quick_training import CONFIG, readable_base, rows
from support.waiting import wait_for
from workbench.panels import training
from workbench.panels.training import TrainingPanel

LONG = replace(CONFIG, steps=5000)
pytestmark = pytest.mark.slow


def panel_of(store, config=LONG, task=None):
    return TrainingPanel(readable_base(), task or rows(), config, store, rows=2)


def begun(store, config=LONG):
    """A panel whose run has taken a step."""
    panel = panel_of(store, config)
    panel.start()
    wait_for(lambda: any(history for history, _ in panel.curves.values()))
    return panel


@pytest.mark.parametrize("generations", [2])
def test_the_last_panel_stops_the_run_of_the_first(store, generations):
    first = begun(store)
    thread = first._thread
    for _ in range(generations):
        panel = panel_of(store)
    assert panel.training and panel.train_button.disabled and not panel.stop_button.disabled
    assert "step " in panel.message.value, "it says what is going on"
    panel.start()  # changes nothing
    assert panel._thread is thread
    panel.stop()
    panel.wait(300)
    assert not thread.is_alive() and not panel.training and not first.training
    (run,) = panel.runs
    assert run.status == "interrupted" and first.runs == [run] and store.all() == [run]
    for each in (panel, first):
        assert not each.train_button.disabled and each.stop_button.disabled and "interrupted" in each.message.value
    panel.start()
    panel.stop()
    panel.wait(300)
    assert len(panel.runs) == 2 and len(first.runs) == 1, "from now on each is on its own"


def test_the_run_is_drawn_and_listed_in_the_new_panel(store):
    first = begun(store, replace(CONFIG, steps=30))
    panel = panel_of(store, replace(CONFIG, steps=30))
    first.wait(300)
    ((history, scores),) = panel.curves.values()
    assert len(history) == 30 and scores and panel.table.value.count("<tr>") == 2
    assert panel.runs == first.runs and panel.runs[0].status == "finished"


def test_a_panel_of_other_data_can_stop_the_run_and_does_not_list_it(store):
    first = begun(store)
    other = panel_of(store, task=rows(5))
    assert other.training and not other.curves
    other.stop_button.click()
    other.wait(300)
    assert (
        other.runs == [] and [run.status for run in first.runs] == ["interrupted"] and not other.train_button.disabled
    )


def test_stopping_in_the_first_panel_ends_it_in_both(store):
    first = begun(store)
    second = panel_of(store)
    first.stop_button.click()
    assert second.stop_button.disabled and "Stopping" in second.message.value
    first.wait(300)
    assert len(second.runs) == 1 and not second.training


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_run_that_fails_frees_both(store, monkeypatch):
    waiting, go_on = threading.Event(), threading.Event()

    def held(*_):
        waiting.set()
        go_on.wait(300)
        raise ValueError("no luck")

    monkeypatch.setattr(training, "train", held)
    first = panel_of(store)
    first.start()
    assert waiting.wait(300)
    second = panel_of(store)
    assert second.training
    go_on.set()
    second.wait(300)
    for panel in (first, second):
        assert "no luck" in panel.message.value and not panel.train_button.disabled and not panel.curves


def test_a_panel_made_after_the_end_is_a_new_one(store):
    first = panel_of(store, CONFIG)
    first.start()
    first.wait(300)
    panel = panel_of(store, CONFIG)
    assert not panel.training and panel.runs == [] and "Nothing is training" in panel.message.value
    assert panel.stop_button.disabled
