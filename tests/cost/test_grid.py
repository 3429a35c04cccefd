"""The grid of configurations that the verdicts of lesson 04 are based on."""

import pytest

from workbench.cost.gpus import gpus
from workbench.cost.grid import FULL_BF16, FULL_MASTER, LORA, QLORA, SETTINGS, grid, ratios_by_tokens
from workbench.cost.published import published_pair
from workbench.memory import estimate


def test_a_row_of_the_grid_agrees_with_the_estimate():
    rows = grid(models=("llama-3.2-1b",), shapes=((4, 768),))
    assert len(rows) == 2 * len(SETTINGS)
    for row in rows:
        step = {"batch_size": 4, "sequence_length": 768, "checkpointing": row["checkpointing"]}
        report = estimate("llama-3.2-1b", SETTINGS[row["setting"]], **step)
        assert (row["reserved_bytes"], row["total_bytes"]) == (report.peak_reserved_bytes, report.total_bytes)
        assert row["trainable_parameters"] == report.trainable_parameters and row["parameters"] == 1_235_814_400
        assert row["a100s"] == 1 and gpus()["A100 80 GB"].fits(row["total_bytes"])
    money = {row["setting"]: row["money"] for row in rows if not row["checkpointing"]}
    assert money[LORA] < money[FULL_BF16] <= money[FULL_MASTER] and money[QLORA] < money[FULL_BF16]


def test_the_ratio_falls_as_the_step_grows():
    found = ratios_by_tokens("llama-3.2-3b", FULL_MASTER)
    assert [tokens for tokens, _ in found] == [rows * 768 for rows in (1, 2, 4, 8, 16)]
    ratios = [ratio for _, ratio in found]
    assert ratios == sorted(ratios, reverse=True) and ratios[0] > 4 > 2 > ratios[-1] > 1
    half = dict(ratios_by_tokens("llama-3.2-3b", FULL_BF16))[4 * 768]
    assert half == pytest.approx(published_pair()["memory_ratio"], rel=0.1)
