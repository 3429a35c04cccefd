"""The eight weights of lesson 03: what the view says is what `quantize` does."""

import pytest
import torch

from workbench.adapters.quantization import code_book
from workbench.panels.eight_weights import FORMATS, eight_weights_panel, eight_weights_view, with_outlier

WEIGHTS = torch.tensor([0.05, -0.12, 0.03, 0.01, -0.07, 0.15, -0.02, 0.09])


@pytest.mark.parametrize("kind", FORMATS)
def test_each_weight_becomes_the_nearest_value_of_the_code_book(kind):
    numbers = eight_weights_view(WEIGHTS, kind, 3).numbers
    weights, levels = with_outlier(WEIGHTS, 3), 3 * 0.15 * code_book(kind)
    for at, weight in enumerate(weights):
        nearest = int((levels - weight).abs().argmin())
        assert numbers[f"code {at}"] == nearest
        assert numbers[f"restored {at}"] == pytest.approx(levels[nearest].item(), abs=1e-6)


def test_an_outlier_takes_the_others_codes_away():
    found = [eight_weights_view(WEIGHTS, "int4", outlier).numbers for outlier in (1, 4, 32)]
    assert [one["absmax"] for one in found] == pytest.approx([0.15, 0.6, 4.8])
    assert [one["distinct"] for one in found] == sorted((one["distinct"] for one in found), reverse=True)
    assert found[0]["error"] < found[1]["error"] < found[2]["error"] == 1, "at last all others are restored as zero"


def test_the_panel_moves():
    panel = eight_weights_panel(WEIGHTS)
    assert "8 weights in int4" in panel.current.text
    panel.controls["kind"].value = "int8"
    assert "nearest of 255 values" in panel.current.text
    assert panel.current.png.startswith(b"\x89PNG")


@pytest.mark.parametrize("weights", [[], [1.0], [1.0] * 17, [0.0] * 8, [float("nan"), 1.0]])
def test_what_cannot_be_shown_is_refused(weights):
    with pytest.raises(ValueError, match="two to sixteen finite weights"):
        eight_weights_panel(weights)
