"""Published runs against predictions of their speed."""

import pytest

from workbench.adapters.methods import full
from workbench.cost.published import TOKENS, predicted_job, published_pair, published_runs
from workbench.memory import Setup

RUNS = published_runs()
RUN = pytest.mark.parametrize("run", RUNS, ids=[run.label for run in RUNS])


def test_the_rows_of_the_table_are_read():
    full_run, lora_run = RUNS[:2]
    method = lora_run.setup.method
    assert (method.name, method.rank, method.targets) == ("lora", 32, ("q_proj", "v_proj"))
    assert full_run.gpu == "L40S" and full_run.setup == Setup(full(), 4, 768, "bfloat16", checkpointing=False)
    assert len({run.label for run in RUNS}) == len(RUNS) >= 8
    assert any(run.setup.method.dora for run in RUNS) and any(run.setup.method.rslora for run in RUNS)
    pair = published_pair()
    assert (pair["memory_ratio"], pair["speed_ratio"]) == pytest.approx((1.74, 2.91), abs=0.01)
    assert pair["tokens"] == TOKENS


@RUN
def test_the_bound_and_one_efficiency_agree_with_every_run(run):
    assert run.tokens_per_second < predicted_job(run, 1.0).tokens_per_second
    assert predicted_job(run).tokens_per_second == pytest.approx(run.tokens_per_second, rel=0.2)


def test_the_ratio_of_speeds_does_not_depend_on_the_efficiency():
    full_run, lora_run = (predicted_job(run, 0.9).tokens_per_second for run in RUNS[:2])
    assert lora_run / full_run == pytest.approx(published_pair()["speed_ratio"], rel=0.15)
