"""The quantization panel on a small random model: each control moved, numbers checked, wrong settings explained."""

import pytest

from workbench.adapters.quantization import dequantize, quantize, relative_error
from workbench.adapters.quantized_models import model_bytes
from workbench.models import linear_modules
from workbench.panels.quantization import quantization_panel, quantization_view
from workbench.plots.style import pixel_width

MOVES = {"data_type": "nf", "bits": 8, "block_size": 1024, "double_quantization": True}


@pytest.fixture
def panel(small):
    return quantization_panel(small)


@pytest.mark.parametrize("control", [*MOVES, "layer"])
def test_each_control_changes_numbers_picture_and_words(control, panel):
    before, picture, words = panel.current.numbers, panel.current.png, panel.message.value
    value = MOVES.get(control) or panel.controls["layer"].options[-1][1]
    panel.controls[control].value = value
    assert panel.current.numbers != before
    assert panel.current.png != picture and picture.startswith(b"\x89PNG")
    assert panel.message.value != words


def test_the_test_moves_every_control_and_each_has_a_label(panel):
    assert {*MOVES, "layer"} == set(panel.controls)
    assert all(control.description for control in panel.controls.values())
    assert pixel_width(panel.current.figure) <= 1100


def test_the_numbers_are_those_of_the_module(small):
    layer = list(linear_modules(small.model))[3]
    weight = small.model.get_submodule(layer).weight
    numbers = quantization_view(small.model, layer, "nf", 4, 128, True).numbers
    q = quantize(weight, "nf4", 128, True)
    assert numbers["bits"] == q.bits_per_parameter
    assert numbers["error"] == relative_error(weight, dequantize(q))
    assert numbers["model_mb"] == model_bytes(small.model, "nf4", 128, True) / 1e6


def test_a_type_that_has_no_such_bits_is_explained_in_the_panel(panel):
    panel.controls["bits"].value = 8
    for data_type in ("nf", "fp"):
        panel.controls["data_type"].value = data_type
        assert 'role="alert"' in panel.message.value and "choose the integer type" in panel.message.value
        assert panel.canvas.layout.display == "none"
    panel.controls["bits"].value = 4
    assert "as fp4" in panel.message.value and panel.canvas.layout.display is None


def test_a_setting_seen_before_is_not_computed_again(panel, monkeypatch):
    panel.controls["block_size"].value = 512
    monkeypatch.setattr("workbench.panels.quantization.quantize", None)
    panel.controls["block_size"].value = 64
    assert "blocks of 64" in panel.current.text
