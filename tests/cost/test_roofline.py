"""Bounds of time, jobs, sharding and serving, against arithmetic by hand."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as some

from workbench.adapters.methods import full, lora, qlora
from workbench.cost.flops import meta_base, step_flops
from workbench.cost.gpus import gpus, priced
from workbench.cost.roofline import (
    CACHE_SHARE,
    EFFICIENCY,
    HOURS_A_MONTH,
    SERVER,
    Phase,
    cheapest,
    gpus_if_sharded,
    job,
    serve,
    step_phases,
)
from workbench.errors import HardwareError
from workbench.memory import Setup, estimate
from workbench.models import linear_modules

TABLE = priced(gpus())
PHASES = [Phase("forward", 2e12, 1e9), Phase("backward", 4e12, 2e9), Phase("optimizer step", 0.0, 6e9)]
ONE_B = "llama-3.2-1b"
SHAPE = {"batch_size": 4, "sequence_length": 512}


def test_the_bound_of_a_phase_is_the_slower_of_arithmetic_and_memory():
    l40s = TABLE["L40S"]
    by_hand = 2e12 / 362e12 + 4e12 / 362e12 + 6e9 / 864e9
    assert job(PHASES, l40s, 1000, 1e6).bound_seconds == pytest.approx(by_hand)
    assert [phase.bottleneck(l40s) for phase in PHASES] == ["arithmetic", "arithmetic", "memory"]


def test_hours_and_money_follow_from_the_step():
    l4 = TABLE["L4"]
    half, whole = (job(PHASES, l4, 1000, 5e6, efficiency) for efficiency in (0.5, 1.0))
    assert whole.step_seconds == whole.bound_seconds and half.step_seconds == 2 * whole.step_seconds
    assert half.tokens_per_second == pytest.approx(1000 / half.step_seconds)
    assert half.hours == pytest.approx(5e6 / half.tokens_per_second / 3600)
    assert half.money == pytest.approx(half.hours * 0.80)
    assert job(PHASES, l4, 1000, 5e6).step_seconds == pytest.approx(whole.step_seconds / EFFICIENCY)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gpus({"H900": 1.0}), "no GPU 'H900' in the table; use one of T4, RTX 5080, L4"),
        (lambda: gpus({"L4": -1.0}), "price of L4, -1.0, must be at least 0"),
        (lambda: gpus({"L4": float("nan")}), "must be at least 0"),
        (lambda: job(PHASES, TABLE["L4"], 1000, 1e6, efficiency=0), "must be above 0 and at most 1"),
        (lambda: job(PHASES, TABLE["L4"], 1000, 1e6, efficiency=1.1), "must be above 0 and at most 1"),
        (lambda: job(PHASES, TABLE["L4"], 1000, 0), "tokens=0 must be above 0"),
        (lambda: job(PHASES, TABLE["L4"], 0, 1e6), "tokens_a_step=0 must be above 0"),
        (lambda: serve(0, 1e9, 1e6, TABLE["L4"]), "tasks=0 must be above 0"),
        (lambda: serve(5, 0, 1e6, TABLE["L4"]), "base_bytes=0 must be above 0"),
        (lambda: serve(5, 1e9, -1.0, TABLE["L4"]), "adapter_bytes=-1.0 must be above 0"),
        (lambda: serve(5, float("inf"), 1e6, TABLE["L4"]), "must be above 0 and finite"),
    ],
)
def test_numbers_out_of_range_are_refused(call, words):
    with pytest.raises(HardwareError, match=re.escape(words)):
        call()


def test_the_cheapest_job_is_on_a_gpu_that_fits():
    jobs = [job(PHASES, gpu, 1000, 1e6) for gpu in TABLE.values()]
    for size in (10e9, 30e9, 100e9):
        best = cheapest(jobs, size)
        assert best.gpu.fits(size) and best.money == min(one.money for one in jobs if one.gpu.fits(size))
    assert cheapest(jobs, 500e9) is None


def test_the_gpus_of_serving_agree_with_hand_counts():
    l4 = TABLE["L4"]  # 23.65 GB usable, of which requests leave 16.6 GB
    ways = serve(10, base_bytes=6e9, adapter_bytes=0.05e9, gpu=l4)
    adapters, full = ways["adapters on one base"], ways["full models"]
    assert (adapters.stored_bytes, full.stored_bytes) == (6.5e9, 60e9)
    assert (adapters.gpus, full.gpus) == (1, 5)  # two full models on each: a model that fits one GPU is not split
    assert full.money_a_month == pytest.approx(5 * 0.80 * HOURS_A_MONTH)
    assert serve(3, 40e9, 1e9, l4)["full models"].gpus == 9  # three for each
    assert serve(1, 200e9, 1e9, l4)["full models"].gpus == 13  # more than one server, because it does not fit


def test_a_base_that_almost_fills_a_gpu_is_split_to_make_room_for_adapters():
    """One GPU would hold the base and a single adapter."""
    ways = serve(50, base_bytes=16.06e9, adapter_bytes=0.3e9, gpu=TABLE["L4"])
    assert ways["adapters on one base"].gpus == 2  # 31.06 GB in 33.1 GB
    assert ways["full models"].gpus == 50


def test_one_task_takes_as_many_gpus_either_way():
    l4 = TABLE["L4"]
    assert serve(1, 6e9, 0.05e9, l4)["full models"].gpus == serve(1, 6e9, 0.05e9, l4)["adapters on one base"].gpus == 1


@settings(deadline=None, max_examples=60)
@given(
    tasks=some.integers(1, 500),
    base=some.floats(1e8, 2e11),
    share=some.floats(1e-4, 0.5),
    name=some.sampled_from(list(TABLE)),
)
def test_serving_takes_the_fewest_gpus_that_hold_everything(tasks, base, share, name):
    gpu, each = TABLE[name], base * share
    room = gpu.usable_bytes * (1 - CACHE_SHARE)
    adapters, full = serve(tasks, base, each, gpu).values()
    assert full.gpus * room >= full.stored_bytes and adapters.gpus * room >= adapters.stored_bytes
    if base + tasks * each <= 0.999 * SERVER * room:
        assert adapters.gpus == math.ceil((base + tasks * each) / room)


def phases_of(method, dtype="bfloat16", **options) -> dict[str, Phase]:
    report = estimate(ONE_B, method, dtype=dtype, **SHAPE, **options)
    return {phase.name: phase for phase in step_phases(report)}


def test_the_phases_of_a_step_have_its_flops():
    for method, options in ((full(), {}), (lora(rank=16), {}), (lora(rank=16), {"checkpointing": True})):
        phases = phases_of(method, **options)
        counted = step_flops(meta_base(ONE_B), Setup(method, **SHAPE, **options))
        total = sum(sum(parts.values()) for parts in counted.values())
        assert sum(phase.flops for phase in phases.values()) == pytest.approx(total)
        assert ("recomputation" in phases) == bool(options)


def test_the_optimizer_reads_gradients_and_reads_and_writes_weights_and_state():
    parameters = meta_base(ONE_B).model.num_parameters()
    for dtype, size in (("mixed", 4), ("bfloat16", 2)):
        # gradients read, weights read and written, two averages read and written
        assert phases_of(full(), dtype)["optimizer step"].bytes == pytest.approx(7 * size * parameters, rel=0.01)
    assert phases_of(lora(rank=1))["optimizer step"].bytes < 0.01 * phases_of(full())["optimizer step"].bytes


def test_four_bit_weights_are_dequantized_written_and_read_again():
    lora_pass, qlora_pass = (phases_of(method)["forward"].bytes for method in (lora(rank=16), qlora(rank=16)))
    weights = sum(out * into for out, into in linear_modules(meta_base(ONE_B).model).values())
    reports = [estimate(ONE_B, method, **SHAPE) for method in (lora(rank=16), qlora(rank=16))]
    forward = [report.peaks["forward"] - report.components["optimizer state"] for report in reports]
    assert qlora_pass - lora_pass == pytest.approx(4 * weights + forward[1] - forward[0])


def test_a_step_is_sharded_if_it_does_not_fit_one_gpu():
    a100 = TABLE["A100 80 GB"]
    small, large = (estimate(name, full(), 1, 512, "mixed", checkpointing=True) for name in (ONE_B, "llama-3.1-8b"))
    assert gpus_if_sharded(small, a100) == 1 and a100.fits(small.total_bytes)
    assert not a100.fits(large.total_bytes) and gpus_if_sharded(large, a100) == 2
    counts = [gpus_if_sharded(large, gpu) for gpu in sorted(TABLE.values(), key=lambda gpu: gpu.usable_bytes)]
    assert None not in counts and counts == sorted(counts, reverse=True) and counts[0] > 8
    # 16 bytes per parameter, and a little for what each GPU keeps
    assert counts[0] * TABLE["T4"].usable_bytes > 16 * 8.03e9 > (counts[0] - 3) * TABLE["T4"].usable_bytes
    wide = estimate("llama-3.1-8b", full(), 32, 8192, "mixed")
    assert gpus_if_sharded(wide, a100) is None, "activations are not sharded"


def test_sharding_leaves_the_logits_on_each_gpu():
    """At the loss, logits and two gradients take more than the forward pass; each GPU needs room for them."""
    a100 = TABLE["A100 80 GB"]
    report = estimate("llama-3.1-70b", full(), 16, 1024, "mixed", checkpointing=True)
    count = gpus_if_sharded(report, a100)
    logits = 16 * 1024 * 128256 * (2 + 4 + 4 + 4)
    inputs = 80 * 16 * 1024 * 8192 * 4  # of the blocks
    states = 12 * report.trainable_parameters  # no gradients yet
    assert logits + inputs + states / count < a100.usable_bytes < logits + inputs + states / (count // 2)


def test_sharding_leaves_the_previous_outputs_on_each_gpu():
    """The logits, keys and values of the last forward pass are not freed before the optimizer step."""
    a_gpu = TABLE["A100 80 GB"]
    report = estimate("qwen2.5-14b", full(), 4, 768, "mixed")
    outputs = 4 * 768 * (152064 * 2 + 48 * 2 * 8 * 128 * 4)  # and 8.5 MB of cuBLAS
    states = 20 * report.trainable_parameters  # weights, gradients, two averages and sqrt(exp_avg_sq)
    assert report.moments[-1] == pytest.approx((states, outputs), rel=0.01)
    filling = report.peak_allocated_bytes / report.peak_reserved_bytes
    tight = replace(a_gpu, usable_bytes=report.context_bytes + (states + outputs) / 4 / filling)
    assert gpus_if_sharded(report, tight) > 4, "four would be enough if all of it were sharded"


def test_sharding_needs_an_estimate():
    with pytest.raises(HardwareError, match="needs a report of memory"):
        gpus_if_sharded(replace(estimate(ONE_B, full()), moments=[]), TABLE["T4"])
