"""Sweeps: many configurations in one pass are what each would have been alone; nothing is lost, doubled or spread."""

import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file

from support.failures import breaks_off
from support.small_models import write_model
from workbench import TrainConfig, evaluate, full, hybrid, load_base, load_task, lora, qlora, sweep, train
from workbench.adapters.batched import fits_a_slice
from workbench.cli import main
from workbench.errors import SweepError, WorkbenchError
from workbench.scoring import Scores
from workbench.sweeps.passes import Needs, needs, plan_passes
from workbench.tasks import Example
from workbench.training import lifecycle
from workbench.training.lifecycle import run_trials
from workbench.training.store import RunStore
from workbench.training.trial import Trial

QUICK = TrainConfig(steps=4, batch_size=4, evaluate=False, save=False)
FACTS = load_task("facts")
ORDERS = load_task("orders")  # its rows differ in length, so slices are padded to each other's
VARIED = [
    lora(rank=1, alpha=16),
    lora(rank=16, alpha=32, learning_rate=1e-3),
    lora(rank=3, targets=["q_proj", "down_proj"], learning_rate=5e-3),
    lora(rank=8, layers=[1], rslora=True, init_seed=7),
]


def losses(run) -> list[float]:
    return [entry["loss"] for entry in run.history]


def updates(run) -> torch.Tensor:
    """Every dW of a saved adapter, one after the other."""
    tensors = load_file(run.artifact_dir / "adapter_model.safetensors")
    products = [tensors[name.replace("lora_A", "lora_B")] @ a for name, a in tensors.items() if "lora_A" in name]
    return run.method["scaling"] * torch.cat([product.flatten() for product in products])


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


# A loss is a difference of logits of some twenty to forty, each known to 2e-6 to 4e-6 in float32.
ROUNDING = 5e-6


def assert_the_same(together, alone, loss=1e-5, update=1e-3) -> None:
    assert losses(together) == pytest.approx(losses(alone), rel=loss, abs=ROUNDING)
    assert relative(updates(together), updates(alone)) <= update
    assert together.method == alone.method and together.config == alone.config
    assert together.tokens == alone.tokens and together.trainable_parameters == alone.trainable_parameters


# --- exactly as if alone


@pytest.mark.parametrize("task", [FACTS, ORDERS], ids=["facts", "orders"])
def test_a_pass_gives_each_configuration_what_train_gives(small, tmp_path, task):
    config = replace(QUICK, steps=8, save=True)
    runs = sweep(small, task, VARIED, config, RunStore(tmp_path / "a"), seeds=[0, 3])
    assert [run.together["configurations"] for run in runs] == [8] * 8
    expected = [(method, seed) for method in VARIED for seed in (0, 3)]
    for run, (method, seed) in zip(runs, expected, strict=True):
        alone = train(small, task, method, replace(config, seed=seed), RunStore(tmp_path / "b"))
        assert_the_same(run, alone)


def test_the_real_model(base, tmp_path):
    config = replace(QUICK, steps=3, batch_size=2, save=True)
    methods = [lora(rank=1), lora(rank=32, alpha=32, learning_rate=1e-3)]
    runs = sweep(base, FACTS, methods, config, RunStore(tmp_path / "a"))
    for run, method in zip(runs, methods, strict=True):
        assert_the_same(run, train(base, FACTS, method, config, RunStore(tmp_path / "b")))


@pytest.mark.parametrize("options", [{"accumulation": 3}, {"checkpointing": True}, {"weight_decay": 0.1, "clip": 0.01}])
def test_every_setting_of_the_loop_counts_the_same(small, tmp_path, options):
    config = replace(QUICK, save=True, **options)
    runs = sweep(small, ORDERS, VARIED[:2], config, RunStore(tmp_path / "a"))
    for run, method in zip(runs, VARIED, strict=False):
        assert_the_same(run, train(small, ORDERS, method, config, RunStore(tmp_path / "b")))


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_quantized_bases_share_a_pass_too(small_directory, tmp_path, kind):
    base = load_base(str(small_directory), quantization=kind, dtype="float32")
    config = replace(QUICK, steps=8, save=True)
    methods = [qlora(rank=2), qlora(rank=4, learning_rate=5e-3)]
    runs = sweep(base, FACTS, methods, config, RunStore(tmp_path / "a"))
    for run, method in zip(runs, methods, strict=True):
        assert run.together["configurations"] == 2
        assert_the_same(run, train(base, FACTS, method, config, RunStore(tmp_path / "b")), loss=1e-4, update=1e-2)


def test_in_bfloat16_the_difference_is_that_of_another_rounding(small_directory, tmp_path):
    """Two ways to add the same numbers up in bfloat16: a pass, and a run alone whose rows come in micro-batches."""
    base = load_base(str(small_directory), dtype="bfloat16")
    config = replace(QUICK, steps=8, batch_size=2, save=True)  # many processors are thirty times slower in bfloat16
    methods = VARIED[:2]
    for method, run in zip(methods, sweep(base, FACTS, methods, config, RunStore(tmp_path / "a")), strict=True):
        alone = train(base, FACTS, method, config, RunStore(tmp_path / "b"))
        halves = train(base, FACTS, method, replace(config, batch_size=1, accumulation=2), RunStore(tmp_path / "b"))
        assert losses(run) == pytest.approx(losses(alone), rel=1e-2)
        assert relative(updates(run), updates(alone)) <= 2 * relative(updates(halves), updates(alone)) + 1e-2


@pytest.mark.parametrize("architecture", ["olmo2", "qwen3", "gemma2"])
def test_other_architectures(base, tmp_path, architecture):
    model = load_base(str(write_model(tmp_path / "model", architecture, base.tokenizer)), dtype="float32")
    config = replace(QUICK, save=True)
    methods = VARIED[1:3]
    for method, run in zip(methods, sweep(model, ORDERS, methods, config, RunStore(tmp_path / "a")), strict=True):
        assert_the_same(run, train(model, ORDERS, method, config, RunStore(tmp_path / "b")))


def test_slices_that_are_carried_in_turn_are_the_same_too(small, tmp_path, monkeypatch):
    """A CPU carries only so many tokens at once."""
    config = replace(QUICK, save=True)
    whole = sweep(small, ORDERS, VARIED, config, RunStore(tmp_path / "a"))
    monkeypatch.setattr("workbench.training.loop.CPU_TOKENS", 1)
    for run, turn in zip(whole, sweep(small, ORDERS, VARIED, config, RunStore(tmp_path / "b")), strict=True):
        assert turn.together["configurations"] == 4
        assert turn.together["peak_memory_bytes"] < run.together["peak_memory_bytes"]
        assert_the_same(turn, run)


def test_scores_and_adapters_are_ordinary(small, store):
    config = replace(QUICK, evaluate=True, save=True, test_limit=6)
    for run in sweep(small, FACTS, VARIED[:2], config, store):
        assert store.get(run.id) == run and set(run.metrics) == set(run.before)
        assert evaluate(run.load(small), FACTS, 6)["loss"] == pytest.approx(run.metrics["loss"], rel=1e-5)


def test_the_base_and_the_random_state_are_left_alone(small, store):
    from support.fingerprints import fingerprint

    before, state = fingerprint(small), torch.random.get_rng_state()
    sweep(small, FACTS, VARIED, QUICK, store)
    assert fingerprint(small) == before and torch.equal(torch.random.get_rng_state(), state)


# --- what does not share a pass


def test_what_cannot_share_a_pass_is_trained_alone_in_the_same_call(small, store):
    methods = [lora(rank=2), lora(rank=2, dropout=0.1), lora(rank=2, dora=True), full(1e-3), lora(rank=4)]
    methods.append(hybrid(["layers.1.mlp"], rank=2))
    told = []
    runs = sweep(small, FACTS, methods, QUICK, store, on_step=lambda entry: told.append(len(entry["runs"])))
    assert told == [2] * 4 + [1] * 16  # the records of those that train at that time
    assert [run.method["name"] for run in runs] == [method.name for method in methods]
    assert [bool(run.together) for run in runs] == [fits_a_slice(small, method) for method in methods]
    assert [bool(run.together) for run in runs] == [True, False, False, False, True, False]
    for run, method in zip(runs, methods, strict=True):
        assert losses(run) == pytest.approx(losses(train(small, FACTS, method, QUICK, store)), rel=1e-5)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("methods", "options", "words"),
    [
        ([], {}, "at least one method"),
        ([lora(rank=2)], {"seeds": []}, "at least one seed"),
        ([lora(rank=2), lora(rank=2, targets=["nowhere"])], {}, "no such linear layer"),
        ([qlora(rank=2)], {}, "does not go with this unquantized base"),
        ([lora(rank=2)], {"max_memory": "8 GB"}, "max_memory='8 GB' must be a number of bytes"),
        ([lora(rank=2), full()], {"max_memory": 10**12}, "full is trained alone, where max_memory has no effect"),
        ([lora(rank=2)], {"executor": ThreadPoolExecutor(1), "on_step": print}, "leave out on_step, or the executor"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(small, store, methods, options, words):
    with pytest.raises(ValueError, match=words):
        sweep(small, FACTS, methods, QUICK, store, **options)
    assert store.all() == []


def test_every_method_has_every_seed_of_a_generator(small, store):
    runs = sweep(small, FACTS, VARIED[:2], replace(QUICK, steps=1), store, seeds=(seed for seed in (0, 3)))
    assert [(run.method["rank"], run.config["seed"]) for run in runs] == [(1, 0), (1, 3), (16, 0), (16, 3)]


# --- stopping, diverging, going on


def test_finished_configurations_are_skipped(small, store):
    steps = []
    first = sweep(small, FACTS, VARIED[:2], QUICK, store, on_step=steps.append)
    again = sweep(small, FACTS, VARIED[:3], QUICK, store, on_step=steps.append)
    assert again[:2] == first and len(steps) == 8 and len(steps[-1]["runs"]) == 1 and len(store.all()) == 3
    other = sweep(small, FACTS, VARIED[:2], replace(QUICK, steps=2), store)  # another length is another experiment
    assert {run.id for run in other}.isdisjoint(run.id for run in first)


def test_the_same_configuration_twice_is_one_run(small, store):
    twice = (lora(2, alpha) for alpha in (32, 32.0))
    runs = sweep(small, FACTS, twice, QUICK, store)
    assert runs[0] == runs[1] and len(store.all()) == 1


def test_a_base_with_dropout_of_its_own_shares_no_pass(small, monkeypatch):
    assert fits_a_slice(small, VARIED[0])
    monkeypatch.setattr(small.model.config, "attention_dropout", 0.1)
    assert not fits_a_slice(small, VARIED[0])


def test_a_score_that_is_no_number_is_one_runs_own_matter(small, store, monkeypatch):
    monkeypatch.setattr(lifecycle, "BASE_SCORES", {})  # another test may have scored this base
    losses = iter([1.0, math.nan, 1.0, 1.0])  # of the base, then of each configuration
    monkeypatch.setattr("workbench.scoring.evaluation.evaluate", lambda *_: Scores({"loss": next(losses)}))
    monkeypatch.setattr("workbench.scoring.evaluation.forgetting", lambda *_: {})
    runs = sweep(small, FACTS, VARIED[:3], replace(QUICK, evaluate=True, test_limit=7), store)
    assert [run.status for run in runs] == ["diverged", "finished", "finished"]
    assert [bool(run.metrics) for run in runs] == [False, True, True]


def test_a_diverging_configuration_does_not_touch_the_others(small, tmp_path):
    config = replace(QUICK, steps=8, warmup=0.0, save=True)
    broken = lora(rank=2, learning_rate=1e30)
    runs = sweep(small, FACTS, [VARIED[0], broken, VARIED[1]], config, RunStore(tmp_path / "a"))
    assert [run.status for run in runs] == ["finished", "diverged", "finished"]
    assert "lower the learning rate" in runs[1].advice and all(math.isfinite(loss) for loss in losses(runs[1]))
    for run, method in ((runs[0], VARIED[0]), (runs[2], VARIED[1])):
        assert len(run.history) == 8
        assert_the_same(run, train(small, FACTS, method, config, RunStore(tmp_path / "b")))
    again = sweep(small, FACTS, [broken], config, RunStore(tmp_path / "a"))
    assert again == [runs[1]]  # it would diverge again


def test_stopping_keeps_what_there_is_and_the_same_call_goes_on(small, store, monkeypatch, capsys):
    config = replace(QUICK, save=True, evaluate=True, test_limit=4)
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    limit = needs([Trial("x", small, FACTS, VARIED[0], config, store)])
    room = limit.of([0]) + limit.members[0] // 2  # a pass for each
    stopped = sweep(small, FACTS, VARIED[:1] * 1 + [lora(rank=1, alpha=32)], config, store, max_memory=room,
                    on_step=lambda entry: entry["step"] == 2)  # fmt: skip
    assert [run.status for run in stopped] == ["interrupted"]  # the second pass never began
    assert "It was stopped; stop again to leave that out." in capsys.readouterr().err
    assert len(stopped[0].history) == 2 and stopped[0].metrics and stopped[0].load(small)
    runs = sweep(small, FACTS, [VARIED[0], lora(rank=1, alpha=32)], config, store)
    assert [run.status for run in runs] == ["finished"] * 2 and len(store.all()) == 2
    assert runs[0].id == stopped[0].id and len(runs[0].history) == 4


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": lora()}, r"must be a list, e.g. \[lora\(rank=r\)"),
        ({"methods": ["lora"]}, "method='lora' must be one of lora"),
        ({"seeds": 3}, "seeds=3 must be a list"),
        ({"task": "facts"}, "task='facts' must be what load_task"),
    ],
)
def test_what_is_not_what_it_should_be_is_a_sentence(small, store, change, words):
    with pytest.raises(WorkbenchError, match=words):
        sweep(**{"base": small, "task": FACTS, "methods": VARIED, "config": QUICK, "store": store} | change)


@pytest.mark.parametrize("stopped_at", [2, None], ids=["stopped", "to the end"])
def test_what_another_process_has_finished_meanwhile_stays(small, store, tmp_path, stopped_at):
    """The same sweep in two kernels: each looked at the store before the other had written anything."""
    config, other = replace(QUICK, save=True, evaluate=True, test_limit=4), RunStore(tmp_path / "other")
    methods = [VARIED[0], lora(rank=1, dropout=0.1)]  # of which the second trains alone
    finished = sweep(small, FACTS, methods, config, other)

    def other_finishes(entry):
        if entry["step"] == 1:
            shutil.copytree(other.path, store.path, dirs_exist_ok=True)
        return entry["step"] == stopped_at

    assert sweep(small, FACTS, methods, config, store, on_step=other_finishes) == finished
    assert [store.get(run.id) for run in finished] == finished and all(run.load(small) for run in finished)


def test_ctrl_c_in_the_middle_is_a_stop(small, store):
    def interrupt(entry):
        if entry["step"] == 3:
            raise KeyboardInterrupt

    runs = sweep(small, FACTS, VARIED[:2], replace(QUICK, save=True), store, on_step=interrupt)
    assert [run.status for run in runs] == ["interrupted"] * 2 and all(run.load(small) for run in runs)


def test_ctrl_c_while_scoring_leaves_the_later_ones_to_be_done(small, store, monkeypatch, capsys):
    monkeypatch.setattr(lifecycle, "BASE_SCORES", {})  # another test may have scored this base
    scored = []

    def stopped(*_):
        scored.append(None)
        if len(scored) == 3:  # after the base and the first configuration
            raise KeyboardInterrupt
        return Scores({"loss": 1.0})

    monkeypatch.setattr("workbench.scoring.evaluation.evaluate", stopped)
    monkeypatch.setattr("workbench.scoring.evaluation.forgetting", lambda *_: {})
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    config = replace(QUICK, evaluate=True, save=True, test_limit=5)
    runs = sweep(small, FACTS, VARIED[:3], config, store)
    assert [run.status for run in runs] == ["finished", "interrupted", "interrupted"] and len(scored) == 3
    assert "Stopped with 2 configurations to go" in capsys.readouterr().err
    assert all(store.get(run.id) == run and run.load(small) for run in runs)
    again = sweep(small, FACTS, VARIED[:3], config, store)
    assert again[0] == runs[0] and all(run.status == "finished" and run.metrics for run in again)


def test_an_adapter_that_finds_the_disk_full_takes_no_other_with_it(small, store, monkeypatch):
    with monkeypatch.context() as patch:
        full = OSError(28, "No space left on device")
        patch.setattr("workbench.adapters.saved.checkpoints.save", breaks_off(full, at=2))
        runs = sweep(small, FACTS, VARIED[:3], replace(QUICK, save=True), store)
    assert [run.status for run in runs] == ["finished"] * 3
    assert [bool(run.artifact) for run in runs] == [True, False, True]
    assert "free some space" in runs[1].advice and all(store.get(run.id) == run for run in runs)
    again = sweep(small, FACTS, VARIED[:3], replace(QUICK, save=True), store)
    assert (again[0], again[2]) == (runs[0], runs[2]) and again[1].load(small)  # only the second is trained again


@pytest.mark.parametrize("evaluated", [True, False], ids=["scored", "unscored"])
def test_ctrl_c_while_saving_keeps_the_others(small, store, monkeypatch, evaluated):
    config = replace(QUICK, save=True, evaluate=evaluated, test_limit=3)
    with monkeypatch.context() as patch:
        patch.setattr("workbench.adapters.saved.checkpoints.save", breaks_off(KeyboardInterrupt(), at=2))
        runs = sweep(small, FACTS, VARIED[:3], config, store)
    last = "interrupted" if evaluated else "finished"  # what has no scores to wait for is whole
    assert [run.status for run in runs] == ["finished", "interrupted", last]
    assert [bool(run.artifact) for run in runs] == [True, False, True] and all(store.get(run.id) == run for run in runs)
    again = sweep(small, FACTS, VARIED[:3], config, store)
    assert all(run.status == "finished" and run.load(small) for run in again) and again[0] == runs[0]


def test_ctrl_c_before_the_first_step_is_a_stop_too(small, store, monkeypatch):
    from workbench.training import loop

    real, built = loop.apply, []

    def interrupted(*arguments, **options):
        built.append(arguments)
        if len(built) == 3:  # the first was to measure the memory
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(loop, "apply", interrupted)
    runs = sweep(small, FACTS, VARIED, QUICK, store)
    assert [run.status for run in runs] == ["interrupted"] * 4 and len(built) == 3
    assert not any(run.history for run in runs)


def test_a_killed_sweep_loses_the_pass_in_flight_only(small_directory, tmp_path):
    """In a process of its own; afterwards the same call, here, trains the rest."""
    base, store = load_base(str(small_directory), dtype="float32"), RunStore(tmp_path)
    config = replace(QUICK, steps=6, save=True)
    methods = [lora(rank=2, learning_rate=rate) for rate in (1e-3, 2e-3, 3e-3, 4e-3)]
    needed = needs([Trial(str(i), base, FACTS, method, config, store) for i, method in enumerate(methods)])
    room = needed.of([0, 1])  # for two at a time
    code = f"""
import time
from workbench import RunStore, TrainConfig, load_base, load_task, lora, sweep
def tell(entry):
    if entry["runs"][0].method["learning_rate"] >= 3e-3:
        print("second pass", flush=True)
        time.sleep(60)
base = load_base({str(small_directory)!r}, dtype="float32")
methods = [lora(rank=2, learning_rate=rate) for rate in {[method.learning_rate for method in methods]}]
config = {config!r}
sweep(base, load_task("facts"), methods, config, RunStore({str(tmp_path)!r}), max_memory={room}, on_step=tell)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "second pass\n"
    process.kill()
    process.wait()
    process.stdout.close()
    survivors = store.all()
    assert [run.method["learning_rate"] for run in survivors] == [1e-3, 2e-3]
    runs = sweep(base, FACTS, methods, config, store, max_memory=room)
    assert [run.status for run in runs] == ["finished"] * 4 and runs[:2] == survivors and len(store.all()) == 4


# --- memory


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=12),
    st.integers(0, 30),
    st.integers(1, 4),
    st.integers(100, 300),
    st.integers(1, 12),
)
def test_passes_hold_everything_once_and_fit(members, activations, at_once, room, at_most):
    needed = Needs(10, members, activations, at_once)
    passes = plan_passes(needed, room, at_most)
    assert sorted(index for group in passes for index in group) == list(range(len(members)))
    assert all(needed.of(group) <= room and len(group) <= at_most for group in passes)
    # No two could have been joined: first-fit leaves at most one pass half empty.
    for a, b in ((a, b) for a in passes for b in passes if a < b and len(a) + len(b) <= at_most):
        assert needed.of([*a, *b]) > room


def test_a_configuration_that_cannot_fit_is_told_so(small, store):
    with pytest.raises(SweepError, match=r"needs about .* GB of tensors"):
        sweep(small, FACTS, VARIED, QUICK, store, max_memory=1_000_000)
    assert store.all() == []


@pytest.mark.parametrize(("dtype", "ranks", "batch"), [("float32", (1, 4, 16, 64), 16), ("bfloat16", (1, 64), 8)])
def test_the_planned_memory_is_the_measured_one(small_directory, store, dtype, ranks, batch):
    """Few and short in bfloat16, which many processors have to imitate."""
    base = load_base(str(small_directory), dtype=dtype)
    config = replace(QUICK, steps=2, batch_size=batch)
    methods = [lora(rank=rank) for rank in ranks]
    needed = needs([Trial(str(method.rank), base, ORDERS, method, config, store) for method in methods])
    measured = sweep(base, ORDERS, methods, config, store)[0].together["peak_memory_bytes"]
    planned = needed.of(range(len(methods)))
    assert 0.8 * planned <= measured <= planned


@pytest.mark.parametrize(("targets", "steps", "seeds"), [(15, 2, (1,)), (15, 1, (1, 0)), (5, 1, (0, 1, 5, 7))])
def test_no_batch_is_larger_than_was_planned(small, store, targets, steps, seeds):
    """A row of many tokens, with which only seed 1 begins, and one of more targets, which takes more from 15 on.

    Of four together, three have the targets and all are padded to the many tokens.
    """
    task = replace(FACTS, train=(Example("so " * 300, "on"), Example("so", " on" * targets)))
    config = replace(QUICK, steps=steps, batch_size=1)
    trials = [Trial(str(seed), small, task, VARIED[0], replace(config, seed=seed), store) for seed in seeds]
    planned = needs(trials).of(range(len(seeds)))
    runs = sweep(small, task, VARIED[:1], config, store, seeds=seeds)
    assert runs[0].together["configurations"] == len(seeds) and runs[0].together["peak_memory_bytes"] <= planned


def test_when_memory_runs_out_after_all_the_pass_is_cut_in_two(small, store, monkeypatch):
    """The allocator refuses more than two configurations at once, as a full machine would."""
    from workbench.training import loop

    real = loop.multi_adapter_model

    def refuse(base, models):
        if len(models) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return real(base, models)

    monkeypatch.setattr(loop, "multi_adapter_model", refuse)
    runs = sweep(small, FACTS, VARIED, QUICK, store)
    assert [run.status for run in runs] == ["finished"] * 4 and {run.together["configurations"] for run in runs} == {2}
    stopped = sweep(small, FACTS, VARIED, replace(QUICK, seed=1), store, on_step=lambda entry: entry["step"] == 2)
    assert [run.status for run in stopped] == ["interrupted"] * 2  # the other half does not begin
    monkeypatch.setattr(loop, "multi_adapter_model", lambda *_: refuse(None, [None] * 3))
    assert run_trials([Trial("one", small, FACTS, VARIED[0], QUICK, store)], together=True)[0].status == "out_of_memory"
    with pytest.raises(SweepError, match="One configuration alone is out of memory: lower batch_size"):
        sweep(small, FACTS, VARIED, replace(QUICK, seed=2), store)


# --- executors


class InThreads(ThreadPoolExecutor):
    """What `sweep` uses of a RayExecutor, in this process."""

    workers = 2


def test_an_executor_carries_the_passes(small_directory, tmp_path):
    base = load_base(str(small_directory), dtype="float32")
    config = replace(QUICK, save=True, evaluate=True, test_limit=4)
    here = sweep(base, FACTS, VARIED, config, RunStore(tmp_path / "here"))
    with InThreads(max_workers=1) as executor:
        there = sweep(base, FACTS, VARIED, config, RunStore(tmp_path / "there"), executor)
    assert {run.together["configurations"] for run in there} == {2}
    for a, b in zip(here, there, strict=True):
        assert a.id == b.id and b.load(base) and RunStore(tmp_path / "there").get(b.id) == b
        assert_the_same(b, a)


def test_a_pass_that_fails_elsewhere_does_not_take_the_others(small_directory, tmp_path):
    class Unlucky(InThreads):
        def submit(self, function, *arguments):
            self.jobs = getattr(self, "jobs", 0) + 1
            return super().submit(function if self.jobs > 1 else lambda *_: 1 / 0, *arguments)

    base, store = load_base(str(small_directory), dtype="float32"), RunStore(tmp_path)
    with Unlucky(max_workers=1) as executor, pytest.raises(SweepError, match=r"1 of 2 passes failed \(ZeroDivision"):
        sweep(base, FACTS, VARIED, QUICK, store, executor)
    assert len(store.all()) == 2
    assert len(sweep(base, FACTS, VARIED, QUICK, store)) == 4 and len(store.all()) == 4


def test_what_comes_back_to_a_full_disk_takes_no_other_with_it(small_directory, store, monkeypatch):
    real, written = Path.write_bytes, []

    def full(file, content):
        written.append(file)
        if store.path in file.parents and len([each for each in written if store.path in each.parents]) == 2:
            raise OSError(28, "No space left on device")
        return real(file, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    base = load_base(str(small_directory), dtype="float32")
    with InThreads(max_workers=1) as executor:
        runs = sweep(base, FACTS, VARIED[:2], replace(QUICK, steps=1, save=True), store, executor)
    assert [bool(run.artifact) for run in runs] == [False, True] and "free some space" in runs[0].advice
    assert not (store.path / runs[0].id).exists() and runs[1].load(base)


@pytest.mark.slow
def test_the_command_line_sweeps_through_ray_without_telling_each_step(small_directory, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("workbench.sweeps.ray_executor.RayExecutor", lambda address: InThreads(max_workers=1))
    arguments = ["sweep", "--model", str(small_directory), "--dtype", "float32", "--task", "facts", "--test-limit", "1"]
    arguments += ["--steps", "1", "--batch-size", "1", "--ranks", "1", "--out", str(tmp_path), "--ray", "auto"]
    assert main(arguments) == 0, capsys.readouterr().err
    assert len(RunStore(tmp_path).all()) == 1


def test_the_stop_button_of_jupyter_is_a_signal(small, store):
    """It comes at any moment of a step, not only when a callback runs."""
    config, stop = replace(QUICK, steps=2000, save=True), threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    # Where the tests are a job in the background, the signal is switched off.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        methods = [lora(rank=2), lora(rank=4)]
        runs = sweep(small, FACTS, methods, config, store, on_step=lambda entry: entry["step"] == 3 and stop.start())
    finally:
        signal.signal(signal.SIGINT, before)
    assert [run.status for run in runs] == ["interrupted"] * 2 and all(run.load(small) for run in runs)
