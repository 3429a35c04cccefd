"""Panels that the browser draws, as far as Python goes: what the script is given, and what follows the controls.

tests/browser/test_live_scripts.py runs the scripts.
"""

# ruff: noqa: N806 - matrices keep the capital letters that the papers give them

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as arrays

from workbench.adapters import lowrank
from workbench.panels import delta_w
from workbench.panels.base import choice, slider, steps_slider
from workbench.panels.live.canvas import Canvas, look, options_of, packed, source


@given(st.lists(arrays.arrays(np.float64, arrays.array_shapes(max_dims=3), elements=st.floats(-9, 9)), max_size=4))
def test_packed_arrays_come_out_as_they_went_in(given):
    places, buffer = packed({str(at): array for at, array in enumerate(given)})
    numbers = np.frombuffer(buffer, "<f8")
    for at, array in enumerate(given):
        start, shape = places[str(at)]["start"], places[str(at)]["shape"]
        assert np.array_equal(numbers[start : start + array.size].reshape(shape), array)


def test_the_values_behind_a_control_are_known():
    assert options_of(slider("rank", 4, 1, 8)) is None
    assert options_of(choice("target", "a", ["a", "b"])) == ["a", "b"]
    assert options_of(steps_slider("alpha", "r", [("= r", "r"), ("1", 1)])) == ["r", 1]


def test_a_script_stands_after_the_shared_files():
    text = source("delta_w")
    assert text.index("function heatMap") < text.index("async function render") < text.index("function makeScene")
    assert text.rstrip().endswith("export default { render };")


def test_the_canvas_has_what_the_script_needs():
    panel = delta_w.delta_w_panel()
    canvas = panel.canvas
    assert isinstance(canvas, Canvas) and canvas in panel.widget.children
    assert {name: model for name, (model, _) in canvas.controls.items()} == {
        name: control.model_id for name, control in panel.controls.items()
    }
    last = max(place["start"] + int(np.prod(place["shape"])) for place in canvas.arrays.values())
    assert len(canvas.buffer) == 8 * last
    assert len(look()["matrix"]) == 64 and all(0 <= part <= 255 for shade in look()["matrix"] for part in shade)


def test_no_figure_is_drawn_while_the_controls_move(monkeypatch):
    panel = delta_w.delta_w_panel()
    monkeypatch.setattr(delta_w.plots_lowrank, "low_rank_panel", lambda *_: pytest.fail("a figure was drawn"))
    panel.controls["rank"].value = 9
    assert panel.current.text.startswith("Rank 9")


def test_alpha_follows_the_rank_until_it_is_set():
    panel = delta_w.delta_w_panel()
    missed = []
    for rank in (2, 4, 8, 16):
        panel.controls["rank"].value = rank
        assert panel.current.numbers["scaling"] == 1
        missed.append(panel.current.numbers["missed"])
    assert missed == sorted(missed, reverse=True), "more rank, less missing"
    panel.controls["alpha"].value = 4
    assert panel.current.numbers["scaling"] == 4 / 16


@pytest.mark.parametrize("rank", [1, 7, 32])
def test_the_browser_is_given_the_descent_that_python_runs(rank):
    _, arrays = delta_w.given_to_the_browser()
    wanted = torch.from_numpy(arrays["wanted"][1])
    A = torch.from_numpy(arrays["A"])[:rank]
    goal = wanted / arrays["spectrum"][1][0]
    B = torch.zeros(delta_w.ROWS, rank, dtype=torch.float64) + delta_w.RATE * goal @ A.T  # the first step: E = -goal
    fit = lowrank.fit_low_rank(wanted, rank, steps=1, learning_rate=delta_w.RATE)
    assert torch.allclose(fit.A, A) and torch.allclose(fit.B, arrays["spectrum"][1][0] * B)


def test_learned_pieces_add_up_to_the_spectrum():
    fit = lowrank.fit_low_rank(delta_w.TARGETS["noise"], 32, steps=3000, learning_rate=delta_w.RATE)
    values = lowrank.spectrum(delta_w.TARGETS["noise"])
    assert torch.allclose(delta_w.learned_pieces(fit, "noise"), values / values[0], atol=0.02)
