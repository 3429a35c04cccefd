"""The memory panel without a browser: every control counts, the words are the arithmetic, the check is a simulation."""

import json
from dataclasses import asdict, replace

import pytest

from workbench import memory
from workbench.adapters.methods import full, hybrid, lora, qlora
from workbench.cost.flops import meta_base
from workbench.cost.gpus import gpus
from workbench.cost.roofline import job, step_phases
from workbench.errors import MemoryModelError
from workbench.panels import memory as panel_module
from workbench.panels.memory import (
    METHODS,
    MemorySettings,
    MoneySettings,
    memory_panel,
    memory_view,
    method_of,
    money_view,
)
from workbench.paths import DATA
from workbench.plots.style import pixel_width

MOVES = {
    "model": "smollm2-135m",
    "method": "full",
    "rank": 64,
    "targets": ("q_proj", "v_proj"),
    "precision": "mixed",
    "batch_size": 8,
    "sequence_length": 1024,
    "optimizer": "adamw8bit",
    "checkpointing": False,
    "gpu": "RTX 4090",
}


@pytest.fixture(scope="module")
def panel():
    return memory_panel()


def test_every_control_has_a_label_and_is_moved_here(panel):
    assert set(MOVES) == set(panel.controls)
    assert panel.values == asdict(MemorySettings()), "the controls start at the defaults"
    assert all(control.description for control in panel.controls.values())
    assert pixel_width(panel.current.figure) <= 1100


@pytest.mark.parametrize("control", MOVES)
def test_each_control_changes_the_picture_and_the_words(panel, control):
    before, words, start = panel.current.png, panel.message.value, panel.controls[control].value
    panel.controls[control].value = MOVES[control]
    assert panel.current.png != before and panel.message.value != words
    panel.controls[control].value = start
    assert panel.current.png == before and panel.message.value == words


def test_the_numbers_are_those_of_the_estimate_and_of_the_job():
    settings = MoneySettings("llama-3.2-3b", "QLoRA", 8, sequence_length=768, gpu="T4", price=1.5, efficiency=40)
    view, report = money_view(settings), memory.estimate("llama-3.2-3b", qlora(rank=8), 4, 768, checkpointing=True)
    expected = job(step_phases(report), gpus({"T4": 1.5})["T4"], 4 * 768, 10e6, 0.4)
    assert (view.numbers["hours"], view.numbers["money"]) == pytest.approx((expected.hours, expected.money))
    assert "no bfloat16; counted in float16" in view.text
    assert f"${expected.money:.2f} at $1.50 an hour (yours, now)" in view.text
    shown = memory_view(MemorySettings("llama-3.2-3b", "QLoRA", 8, sequence_length=768, gpu="T4"))
    assert shown.numbers["bytes"] == report.total_bytes and "not validated against a published run" in shown.text


def test_what_does_not_fit_says_by_how_much_and_how_many_would_do():
    settings = MemorySettings("llama-3.1-8b", "full", precision="mixed", batch_size=1, gpu="A100 80 GB")
    view = memory_view(replace(settings, checkpointing=True))
    report = memory.estimate("llama-3.1-8b", full(), 1, 512, "mixed", "adamw_fused", checkpointing=True)
    over = (report.total_bytes - gpus()["A100 80 GB"].usable_bytes) / 1e9
    assert not view.numbers["fits"] and f"{over:.1f} GB too much; sharded, 2 of them would do" in view.text
    huge = {"model": "llama-3.1-8b", "batch_size": 32, "sequence_length": 8192, "checkpointing": False}
    assert "sharding it over several would not help" in memory_view(MemorySettings(**huge)).text
    assert "fits none of the 14 GPUs" in money_view(MoneySettings(**huge)).text


def test_prices_are_dated():
    text = money_view(MoneySettings()).text
    assert "an hour (Modal, 2026-05)" in text and "It fits 14 of 14 GPUs; the cheapest to finish on is MI300X" in text


def test_the_methods_are_those_of_the_course():
    last = meta_base("smollm2-135m").model.config.num_hidden_layers - 1
    made = [method_of(MemorySettings("smollm2-135m", name, 4, ("q_proj",))) for name in METHODS]
    options = {"rank": 4, "targets": ("q_proj",)}
    assert made == [
        full(),
        lora(**options),
        lora(**options, dora=True),
        qlora(**options),
        hybrid([f"layers.{last}.mlp"], **options),
    ]


@pytest.mark.slow
def test_the_check_is_a_simulation_of_the_settings_shown(tmp_path):
    fields = json.loads((DATA / "models" / "qwen2.5-0.5b.json").read_text()) | {"num_hidden_layers": 2}
    small = tmp_path / "config.json"
    small.write_text(json.dumps(fields))
    panel = memory_panel()
    panel.controls["model"].options = (*panel.controls["model"].options, str(small))
    panel.controls["model"].value, panel.controls["targets"].value = str(small), ("q_proj", "v_proj")
    panel.check()
    found = memory.simulate(small, lora(rank=16, targets=("q_proj", "v_proj")), 4, 512, checkpointing=True)
    assert f"every tensor followed: {found.total_bytes / 1e9:.2f} GB" in panel.checked.value
    assert not panel.button.disabled
    panel.controls["rank"].value = 8
    assert panel.checked.value == "", "the outcome belonged to other settings"


def test_settings_that_cannot_be_are_explained_where_they_were_asked_for(monkeypatch, panel):
    def refuse(*_, **__):
        raise MemoryModelError("this <family> is not known")

    monkeypatch.setattr(panel_module.memory, "simulate", refuse)
    panel.check()
    assert 'role="alert"' in panel.checked.value and "this &lt;family&gt; is not known" in panel.checked.value
    assert not panel.button.disabled
    monkeypatch.setattr(panel_module.memory, "estimate", refuse)
    panel.controls["rank"].value = 2
    assert "this &lt;family&gt; is not known" in panel.message.value and panel.current is None
