"""Every panel without a browser: each control changes the numbers and the picture, and errors show in the panel."""

import base64
import threading

import ipywidgets as widgets
import pytest
import torch

from support.waiting import wait_for
from workbench import plots
from workbench.adapters import lowrank
from workbench.adapters.lowrank import LoRALinear
from workbench.panels import base as common, bets, delta_w, lora_layer, predict
from workbench.training.store import RunStore

PANELS = {"delta_w": delta_w.delta_w_panel, "lora_layer": lora_layer.lora_layer_panel}
MOVES = {
    "delta_w": {"target": "noise", "rank": 9, "alpha": 11, "steps": 30},
    "lora_layer": {"layer": (192, 576), "rank": 32, "alpha": 4, "rslora": True, "steps": 2},
}


@pytest.mark.parametrize(("name", "control"), [(name, control) for name in MOVES for control in MOVES[name]])
def test_each_control_changes_numbers_picture_and_words(name, control):
    panel = PANELS[name]()
    before, picture, words = panel.current.numbers, panel.current.png, panel.message.value
    panel.controls[control].value = MOVES[name][control]
    assert panel.current.numbers != before
    assert panel.current.png != picture and picture.startswith(b"\x89PNG")
    assert panel.message.value != words


@pytest.mark.parametrize("name", PANELS)
def test_the_test_moves_every_control(name):
    assert set(MOVES[name]) == set(PANELS[name]().controls)


@pytest.mark.parametrize("name", PANELS)
def test_every_control_has_a_label_and_the_panel_fits(name):
    panel = PANELS[name]()
    assert all(control.description for control in panel.controls.values())
    assert plots.style.pixel_width(panel.current.figure) <= 1100


def test_the_delta_w_numbers_are_those_of_the_mathematics():
    numbers = delta_w.low_rank_view("triangle", rank=6, alpha=3, steps=100).numbers
    target = delta_w.TARGETS["triangle"]
    fit = lowrank.fit_low_rank(target, 6, steps=100)
    missed = (target - lowrank.delta_weight(fit.A, fit.B, 3 / 6)).norm() / target.norm()
    assert numbers["missed"] == pytest.approx(missed.item(), abs=1e-6)
    assert numbers["best"] == pytest.approx(lowrank.best_rank_r_error(target, 6))
    assert numbers["parameters"] == 6 * (32 + 48) and numbers["scaling"] == 0.5
    assert numbers["best"] <= numbers["descent"] + 1e-6


def test_alpha_zero_is_no_update():
    assert delta_w.low_rank_view("smooth", alpha=0).numbers["missed"] == pytest.approx(1)


def test_the_rules_part_company_as_the_rank_grows():
    moved = {
        rslora: [lora_layer.measure_update((96, 96), rank, 16, rslora) for rank in (1, 64)] for rslora in (False, True)
    }
    assert moved[False][0] == pytest.approx(moved[True][0])
    assert moved[False][1] < moved[False][0] / 2 < moved[True][1]


def test_measuring_leaves_the_random_state_alone():
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    lora_layer.measure_update.__wrapped__((40, 32), 2, 4, False)
    assert torch.equal(torch.rand(1), first)


def test_the_measured_update_is_what_the_whole_layer_gains():
    linear, x, wanted, _ = lora_layer.toy_layer((24, 16))
    base = linear(x).detach()
    torch.manual_seed(1)
    layer = LoRALinear(linear, 4, 8)
    optimizer = torch.optim.AdamW([layer.A, layer.B], lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(layer(x), base + wanted).backward()
        optimizer.step()
    gained = ((layer(x) - base).norm() / base.norm()).item()
    assert lora_layer.measure_update((24, 16), 4, 8, False) == pytest.approx(gained, rel=1e-4)


def test_settings_that_do_not_go_together_are_explained_in_the_panel():
    panel = lora_layer.lora_layer_panel()
    panel.controls["alpha"].min = 0
    panel.controls["alpha"].value = 0
    assert "switches the update off; use 1 or more" in panel.message.value and 'role="alert"' in panel.message.value
    assert panel.canvas.layout.display == "none"
    panel.controls["alpha"].value = 8
    assert panel.canvas.layout.display is None and "alert" not in panel.message.value


def test_a_bug_is_shown_and_raised():
    def view(number):
        if number > 1:
            raise RuntimeError("no <b>luck")
        return common.View(lambda: plots.described(plots.new_figure(), "empty"), "fine", {})

    panel = common.Panel("title", {"number": widgets.IntSlider(1)}, view)
    with pytest.raises(RuntimeError, match="no <b>luck"):
        panel.controls["number"].value = 2
    assert "RuntimeError: no &lt;b&gt;luck" in panel.message.value


def test_changes_that_pile_up_cost_one_drawing():
    calls, gate = [], threading.Event()

    def view(number):
        calls.append(number)
        if len(calls) == 2:
            gate.wait(5)
        return common.View(lambda: plots.described(plots.new_figure(), "empty"), str(number), {})

    slider = widgets.IntSlider(0)
    panel = common.Panel("title", {"number": slider}, view)
    threads = [threading.Thread(target=setattr, args=(slider, "value", value)) for value in range(1, 9)]
    threads[0].start()
    wait_for(lambda: len(calls) >= 2)
    for thread in threads[1:]:
        thread.start()
    wait_for(lambda: slider.value == 8)
    gate.set()
    for thread in threads:
        thread.join()
    assert panel.current.text == "8" and len(calls) == 3


def shown(thing, monkeypatch):
    """What the notebook would hold: (data, metadata) of each display call."""
    calls = []
    monkeypatch.setattr(common, "display", lambda data, metadata=None, raw=False: calls.append((data, metadata)))
    thing._ipython_display_()
    return calls


@pytest.mark.parametrize("name", PANELS)
def test_a_saved_notebook_keeps_a_still_picture_that_the_live_panel_hides(name, monkeypatch):
    panel = PANELS[name]()
    (live, _), (still, metadata) = shown(panel, monkeypatch)
    rule = live.children[0].value
    css_class = rule.removeprefix("<style>.").split(" ")[0]
    assert "display: none !important" in rule and f'class="{css_class}"' in still["text/html"]
    assert base64.b64decode(still["image/png"]) == panel.current.png
    assert metadata["image/png"]["alt"] == still["text/plain"] == panel.current.text
    (again, _), _ = shown(panel, monkeypatch)
    assert again.children[0].value != rule, "each display hides its own picture only"


def test_a_choice_is_open_until_it_is_made():
    guess = predict.predict_choice("How much?", ["little", "half", "nearly all"])
    assert guess.value is None and guess.words() == "none yet"
    assert guess.compare("half") == "You made no prediction. It was: half."
    guess.control.value = "half"
    assert guess.compare("half") == "You predicted: half. It was: half. You were right."
    guess.control.value = "little"
    assert guess.compare("half") == "You predicted: little. It was: half. You were wrong."


def test_a_question_asked_again_keeps_its_answer():
    """A click on the picked choice makes its cell the active one, and *Run* begins there."""
    options = ["little", "half"]
    predict.predict_choice("Asked twice?", options).control.value = "little"
    assert predict.predict_choice("Asked twice?", options).value == "little"
    assert predict.predict_choice("Asked twice?", ["half", "all"]).value is None, "other options"


def test_a_prediction_leaves_its_words_in_a_saved_notebook(monkeypatch):
    guess = predict.predict_choice("How <much>?", ["little", "half"])
    (live, _), (still, _) = shown(guess, monkeypatch)
    assert guess.widget in live.children
    assert still["text/plain"] == "Predict. How <much>? little / half Your prediction: none yet"
    assert "How &lt;much&gt;?" in still["text/html"]


def test_bets_that_cannot_be_saved_are_an_alert(tmp_path):
    (tmp_path / "file").touch()
    panel = bets.BetsPanel(RunStore(tmp_path / "file"))
    panel.controls["speed"].value = bets.SUPPORTED
    assert 'role="alert"' in panel.message.value and "WORKBENCH_RUNS" in panel.message.value
    (tmp_path / "file").unlink()
    panel.controls["hybrid"].value = bets.DEPENDS
    assert "2 of 4 bets made and saved" in panel.message.value


def test_the_layers_of_the_panel_are_those_of_the_packaged_model():
    from workbench.models import linear_modules, load_base

    modules = linear_modules(load_base("smollm2-135m").model)
    for label, shape in lora_layer.LAYERS.items():
        for name in label.split(":")[0].split(", "):
            assert {size for module, size in modules.items() if module.endswith(name)} == {shape}
