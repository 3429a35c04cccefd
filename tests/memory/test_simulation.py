"""`simulate` against a published peak and plain arithmetic, and its log of storages."""

from itertools import accumulate

import pytest
import torch
from transformers import LlamaConfig

from support.memory_configs import SIZES, TINY, published
from workbench import full, lora
from workbench.memory import estimate, simulate
from workbench.memory.report import CUBLAS_BYTES
from workbench.memory.steps import fake_steps
from workbench.memory.steps.recorder import Recorder


def test_the_simulation_predicts_the_published_peak_of_lora():
    run, row = next((run, row) for run, row in published() if row["method"] == "lora")
    report = simulate(run.model, run.setup)
    assert report.trainable_parameters == int(row["trainable_params"])
    assert report.peak_reserved_bytes == pytest.approx(run.peak_reserved_bytes, rel=0.05)


def test_full_takes_four_copies_of_the_weights_in_bfloat16_or_float32():
    """Weights, gradients and two averages: with tiny activations they are all that is left in the optimizer step."""
    config = LlamaConfig(**SIZES | {"vocab_size": 64, "hidden_size": 1024, "intermediate_size": 4096})
    parameters = estimate(config, full()).trainable_parameters

    def copies(dtype, optimizer):
        report = simulate(config, full(), 1, 8, dtype, optimizer)
        return (report.peaks["optimizer"] - CUBLAS_BYTES) / parameters, report

    assert copies("bfloat16", "adamw_fused")[0] == pytest.approx(4 * 2, rel=0.01)
    assert copies("mixed", "adamw_fused")[0] == pytest.approx(4 * 4, rel=0.01)
    # foreach makes sqrt(exp_avg_sq) of all weights at once
    assert copies("bfloat16", "adamw")[0] == pytest.approx(5 * 2, rel=0.01)
    size, report = copies("bfloat16", "adamw8bit")
    assert size == pytest.approx(2 * 2 + 2 * (1 + 4 / 256), rel=0.01)
    assert not report.validated and "not validated against a published run" in report.note


def test_checkpointing_and_flash_attention_save_memory_and_eager_attention_takes_more():
    config = LlamaConfig(**SIZES | {"num_hidden_layers": 6, "vocab_size": 128})
    plain = simulate(config, lora(8), 8, 256)
    saved = simulate(config, lora(8), 8, 256, checkpointing=True)
    assert saved.peak_allocated_bytes < plain.peak_allocated_bytes / 2
    assert estimate(config, lora(8), 8, 256, attention="flash").peak_allocated_bytes < plain.peak_allocated_bytes
    assert estimate(config, lora(8), 8, 256, attention="eager").peak_allocated_bytes > plain.peak_allocated_bytes


def test_a_bug_of_this_package_is_not_reported_as_a_model_error(monkeypatch):
    def broken(*_):
        raise TypeError("a bug")

    monkeypatch.setattr(fake_steps, "make_optimizer", broken)
    with pytest.raises(TypeError, match="a bug"):
        simulate(LlamaConfig(**TINY), full(), 1, 8)


def test_a_recorder_logs_allocations_and_releases_but_not_views():
    with Recorder(set()) as recorder:
        recorder.begin("forward")
        first = torch.ones(1000)
        second = first.view(10, 100) * 2
        del first
        third = second + 1
        del second, third
    lives = [
        (storage.bytes, storage.allocated_at, storage.released_at)
        for storage, allocated in recorder.events
        if allocated
    ]
    assert lives == [(4000, 0, 2), (4000, 1, 4), (4000, 3, 5)]


def test_adding_two_gradients_of_a_tied_weight_counts_as_in_place():
    with Recorder({(100, 10)}) as recorder:
        recorder.begin("backward")
        old, new = torch.ones(100, 10), torch.ones(100, 10)
        total = old + new
    changes = (storage.bytes if allocated else -storage.bytes for storage, allocated in recorder.events)
    assert max(accumulate(changes)) == 8000 and total.shape == (100, 10)
