"""Published runs against what is predicted for them, and the grid that the verdicts go through."""

import pytest

from workbench.adapters.methods import full
from workbench.cost.gpus import gpus
from workbench.cost.grid import FULL_BF16, FULL_MASTER, LORA, QLORA, SETTINGS, grid, ratios_by_tokens
from workbench.cost.published import TOKENS, predicted_job, published_pair, published_runs
from workbench.memory import Setup, estimate

RUNS = published_runs()
RUN = pytest.mark.parametrize("run", RUNS, ids=[run.label for run in RUNS])


def test_the_rows_are_read_as_they_stand():
    whole, low_rank = RUNS[:2]
    assert (whole.setup.method.name, low_rank.setup.method.rank, low_rank.setup.method.targets) == (
        "full",
        32,
        ("q_proj", "v_proj"),
    )
    assert whole.gpu == "L40S" and whole.setup == Setup(full(), 4, 768, "bfloat16", checkpointing=False)
    assert len({run.label for run in RUNS}) == len(RUNS) >= 8
    assert any(run.setup.method.dora for run in RUNS) and any(run.setup.method.rslora for run in RUNS)
    pair = published_pair()
    assert (pair["memory_ratio"], pair["speed_ratio"]) == pytest.approx((1.74, 2.91), abs=0.01)
    assert pair["tokens"] == TOKENS


@RUN
def test_no_run_is_faster_than_the_bound_and_one_efficiency_does_for_all_within_a_fifth(run):
    assert run.tokens_per_second < predicted_job(run, 1.0).tokens_per_second
    assert predicted_job(run).tokens_per_second == pytest.approx(run.tokens_per_second, rel=0.2)


def test_the_ratio_of_speeds_owes_nothing_to_the_efficiency():
    whole, low_rank = (predicted_job(run, 0.9).tokens_per_second for run in RUNS[:2])
    assert low_rank / whole == pytest.approx(published_pair()["speed_ratio"], rel=0.15)


def test_a_row_of_the_grid_is_what_the_estimate_says():
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
