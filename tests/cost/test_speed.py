"""When a step of LoRA is faster than one of full fine-tuning."""

import pytest

from workbench.adapters.methods import lora
from workbench.cost.gpus import gpus
from workbench.cost.speed import published_speed_ratios, speed_ratios
from workbench.memory import Setup

L40S = gpus()["L40S"]


def test_the_lead_of_lora_shrinks_to_that_of_the_arithmetic():
    """Of 6 operations a weight and token LoRA spares 2; recomputation adds 2 to both."""
    few, every = (Setup(lora(16, targets=targets)) for targets in (["q_proj", "v_proj"], "all-linear"))
    found = {setup: speed_ratios("llama-3.2-3b", setup, L40S) for setup in (few, every)}
    for points in found.values():
        ratios = [ratio for _, ratio in points]
        assert ratios == sorted(ratios, reverse=True) and ratios[0] > 2
    assert found[few][-1][1] == pytest.approx(1.5, abs=0.15) and found[every][-1][1] < found[few][-1][1]
    checkpointed = speed_ratios("llama-3.2-3b", Setup(lora(16), checkpointing=True), L40S)
    assert checkpointed[-1][1] < found[every][-1][1]


def test_published_pairs_disagree():
    (_, small_step, large), (_, large_step, small) = published_speed_ratios()
    assert large == pytest.approx(3.1, abs=0.05) and small == pytest.approx(1.12, abs=0.05)
    assert small_step < 1000 < large_step
