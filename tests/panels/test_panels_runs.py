"""The panels about runs, bets and progress: each control moved, each state seen, nothing lost."""

import time

from workbench.claims import BETS, DEPENDS, SUPPORTED, Verdict, load_bets
from workbench.panels import bets
from workbench.plots import live


def test_a_bet_is_saved_as_it_is_made_and_found_again(store):
    panel = bets.BetsPanel(store)
    assert panel.bets == {} and set(panel.controls) == set(BETS)
    panel.controls["speed"].value = SUPPORTED
    panel.controls["hybrid"].value = DEPENDS
    assert load_bets(store) == {"speed": SUPPORTED, "hybrid": DEPENDS} == bets.BetsPanel(store).bets
    assert "2 of 4" in panel.message.value
    panel.controls["speed"].value = None
    assert load_bets(store) == {"hybrid": DEPENDS}


def test_a_saved_notebook_says_what_was_bet(store, monkeypatch):
    panel = bets.BetsPanel(store)
    panel.controls["speed"].value = SUPPORTED
    shown = []
    monkeypatch.setattr(bets, "show_live", lambda widget, data, metadata, name: shown.append((data, name)))
    panel._ipython_display_()
    ((data, name),) = shown
    assert "speed: supported" in data["text/plain"] and f'class="{name}"' in data["text/html"]


def test_bets_and_verdicts_share_a_table():
    text = bets.bets_and_verdicts(
        {"speed": SUPPORTED}, [Verdict("speed", DEPENDS, "evidence.", "rule"), Verdict("hybrid", DEPENDS, "e.")]
    )
    rows = text.splitlines()[2:]
    assert "| supported | **depends** | evidence. | rule |" in rows[0] and "no bet yet" in rows[1]


def test_losses_are_drawn_while_they_fall_and_once_more_at_the_end(monkeypatch):
    shown, clock = [], iter(range(10, 1000, 3))

    class Handle:
        def update(self, data, metadata, raw):
            shown.append(data["text/plain"])

    def display(data, metadata, raw, display_id):
        shown.append(data["text/plain"])
        return Handle()

    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    monkeypatch.setattr(live, "display", display)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    losses = live.LiveLosses(steps=3)
    for label, method in (("lora r=8", "lora"), ("full", "full")):
        on_step = losses.curve(label, method)
        for step in (1, 2, 3):
            on_step({"step": step, "steps": 3, "loss": 3.0 - step, "seconds_left": 5.0})
    assert len(shown) == 6
    assert shown[-1] == "Training loss against step: lora r=8 ends at 0.00, full ends at 0.00."


def test_silence_means_one_picture_a_run(monkeypatch):
    shown = []
    monkeypatch.setenv("WORKBENCH_PROGRESS", "0")
    monkeypatch.setattr(live, "display", lambda *args, **options: shown.append(args))
    on_step = live.LiveLosses(steps=50).curve("lora r=8", "lora")
    for step in range(1, 51):
        on_step({"step": step, "steps": 50, "loss": 1.0, "seconds_left": 1.0})
    assert len(shown) == 1


def test_two_runs_of_one_label_have_a_curve_each(monkeypatch):
    monkeypatch.setattr(live, "display", lambda *args, **options: None)
    losses = live.LiveLosses(steps=1)
    for loss in (2.0, 1.0):
        losses.curve("lora r=8", "lora")({"step": 1, "steps": 1, "loss": loss, "seconds_left": 0.0})
    assert [history[0]["loss"] for _, history in losses.histories.values()] == [2.0, 1.0]
    assert list(losses.histories) == ["lora r=8", "lora r=8, 2"]
