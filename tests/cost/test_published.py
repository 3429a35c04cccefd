"""Published runs against predictions of their speed."""

import pytest

from support.memory_configs import published
from workbench.adapters.methods import full
from workbench.cost.published import STEPS, TOKENS, evaluation_bytes, predicted_job, published_pair, published_runs
from workbench.memory import Setup, estimate

RUNS = published_runs()
ROWS = [row for _, row in published()]
RUN = pytest.mark.parametrize("run", RUNS, ids=[run.label for run in RUNS])


def test_the_rows_of_the_table_are_read():
    full_run, lora_run = RUNS[:2]
    method = lora_run.setup.method
    assert (method.name, method.rank, method.targets) == ("lora", 32, ("q_proj", "v_proj"))
    assert full_run.gpu == "L40S" and full_run.setup == Setup(full(), 4, 768, "bfloat16", checkpointing=False)
    assert len({run.label for run in RUNS}) == len(RUNS) >= 8
    assert any(run.setup.method.dora for run in RUNS) and any(run.setup.method.rslora for run in RUNS)
    pair = published_pair()
    assert (pair["memory_ratio"], pair["speed_ratio"]) == pytest.approx((1.74, 3.10), abs=0.01)
    assert pair["tokens"] == TOKENS


@pytest.mark.parametrize("row", ROWS, ids=[run.label for run in RUNS])
def test_the_arithmetic_of_a_row_is_right(row):
    """Seconds of the timer from its rate; the whole run, evaluations included, took longer and needed more."""
    timed, whole = int(row["train_seconds"]), int(row["run_seconds"])
    assert timed * int(row["tokens_per_s"]) == pytest.approx(TOKENS, rel=0.002)
    assert 1.1 * timed < whole and float(row["reserved_99th_gib"]) < float(row["peak_reserved_gib"])
    assert int(row["batch_size"]) * int(row["max_seq_len"]) > TOKENS / STEPS
    megabytes = int(row["trainable_params"]) * (2 if row["method"] == "full" else 4) / 2**20
    assert int(row["adapter_or_model_mib"]) == pytest.approx(megabytes, rel=0.03)


def test_the_rows_are_those_of_the_corrected_metric():
    """The DoRA row of January 2026 gave a forgetting of 0.303, from a faulty metric."""
    (dora,) = (row for row in ROWS if row["method"] == "lora dora")
    assert (dora["task_accuracy"], dora["forgetting"]) == ("0.469", "0.051")
    assert all(float(row["forgetting"] or 0) < 0.2 for row in ROWS)


@RUN
def test_the_evaluations_of_a_run_do_not_set_its_peak(run):
    training = estimate(run.model, run.setup).peak_allocated_bytes
    assert evaluation_bytes(run) < min(training, run.peak_reserved_bytes)


def test_the_cache_of_an_evaluation_is_counted_by_hand():
    lora_run = RUNS[1]
    states = 2 * 3_212_749_824 + 4 * 4 * 9_175_040  # weights; adapters, gradients, two averages
    outputs = 4 * 768 * (2 * 128_256 + 28 * 2 * 2 * 1024)
    cache = 50 * 800 * 57 * 2 * 1024
    assert evaluation_bytes(lora_run) == pytest.approx(states + outputs + cache, rel=0.001)


@RUN
def test_the_bound_and_one_efficiency_agree_with_every_run(run):
    assert run.tokens_per_second < predicted_job(run, 1.0).tokens_per_second
    assert predicted_job(run).tokens_per_second == pytest.approx(run.tokens_per_second, rel=0.2)


def test_the_ratio_of_speeds_does_not_depend_on_the_efficiency():
    full_run, lora_run = (predicted_job(run, 0.9).tokens_per_second for run in RUNS[:2])
    assert lora_run / full_run == pytest.approx(published_pair()["speed_ratio"], rel=0.15)
