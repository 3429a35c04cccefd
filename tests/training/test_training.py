"""The loop: what it leaves alone, what it computes, and what it does when something goes wrong."""

import json
import math
import os
import re
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch._subclasses import FakeTensorMode

from support.failures import breaks_off
from support.fingerprints import fingerprint
from workbench import TrainConfig, evaluate, full, hybrid, load_base, load_task, lora, qlora, sweep, train
from workbench.adapters.inject import apply
from workbench.errors import MethodError, RunError, TaskError, TrainingError, WorkbenchError
from workbench.models import completion_logits, linear_modules
from workbench.models.cpu_kernels import PADDED
from workbench.scoring import Scores, unpack_rows
from workbench.tasks import Example, batches, collate, encode
from workbench.training import lifecycle
from workbench.training.lifecycle import score_of_base
from workbench.training.loop import accelerator_for, alone, make_slot
from workbench.training.step import Group, adapter_gradients, backward, check_gradients, micro_batches, train_step
from workbench.training.store import RunStore
from workbench.training.trial import Trial

QUICK = TrainConfig(steps=4, batch_size=4, evaluate=False, save=False)
FACTS = load_task("facts")


def losses(run) -> list[float]:
    return [entry["loss"] for entry in run.history]


# --- what it computes


@pytest.mark.parametrize("config", [QUICK, replace(QUICK, weight_decay=10.0, clip=0.01)], ids=["usual", "decayed"])
@pytest.mark.parametrize("method", [full(1e-3), lora(rank=2), hybrid(["layers.1.mlp"], rank=2)])
def test_the_loop_is_a_plain_loop(small, store, method, config):
    """Step for step the losses of the few lines that anybody would write."""
    model = apply(small, method, seed=config.seed).train()
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    trained = [parameter for _, parameter in named]
    rates = {
        True: method.learning_rate,
        False: method.full_learning_rate or method.learning_rate,
    }  # of adapters, others
    groups = [{"params": [p for name, p in named if ("lora_" in name) == adapter]} for adapter in rates]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    rows = encode(FACTS.train, small.tokenizer, 512)
    expected = []
    for step, indices in enumerate(batches(len(rows), 4, config.steps, config.seed)):
        chosen = [rows[index] for index in indices]
        total = tokens = 0
        for row in chosen:
            ids = torch.tensor([row.ids])
            labels = ids.clone()
            labels[:, : row.prompt_length] = -100
            count = len(row.ids) - row.prompt_length
            total, tokens = total + model(ids, labels=labels).loss * count, tokens + count
        (total / tokens).backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        for group, rate in zip(optimizer.param_groups, rates.values(), strict=True):
            group["lr"] = rate * config.learning_rate_factor(step)
        optimizer.step()
        optimizer.zero_grad()
        expected.append((total / tokens).item())
    assert losses(train(small, FACTS, method, config, store)) == pytest.approx(expected, rel=1e-4)


# Losses of 20 steps on `orders`, written down at commit 7bbbcbd, when one configuration and several had a loop each.
RECORDED = json.loads((Path(__file__).parents[1] / "fixtures" / "recorded_losses.json").read_text(encoding="utf-8"))
RECORDED_METHODS = {
    "lora": lora(rank=4),
    "dora": lora(rank=4, dora=True),
    "dropout": lora(rank=4, dropout=0.1),
    "qlora": qlora(rank=4),
    "hybrid": hybrid(["layers.1.mlp"], rank=4, full_learning_rate=2e-3),
    "full": full(1e-3),
}
ROUNDING = 5e-6  # relative; on the same processor the losses are equal to the last bit


@pytest.mark.parametrize("name", RECORDED_METHODS)
def test_the_losses_are_those_recorded_before_the_two_loops_became_one(small_directory, store, name):
    base = load_base(str(small_directory), quantization="nf4" if name == "qlora" else None, dtype="float32")
    config = replace(QUICK, steps=20, accumulation=2 if name == "dora" else 1)
    if name == "dropout":  # whose masks were drawn for the padding as well
        base.model.set_attn_implementation(PADDED)
    run = train(base, load_task("orders"), RECORDED_METHODS[name], config, store)
    assert losses(run) == pytest.approx(RECORDED[name], rel=ROUNDING)


def test_the_losses_of_a_sweep_are_those_recorded_too(small, store):
    runs = sweep(small, load_task("orders"), [lora(rank=2), lora(rank=8)], replace(QUICK, steps=20), store)
    for run in runs:
        assert losses(run) == pytest.approx(RECORDED[f"sweep r={run.method['rank']}"], rel=ROUNDING)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(small, store):
    first, again = (train(small, FACTS, lora(rank=2, dropout=0.1), QUICK, store) for _ in range(2))
    other = train(small, FACTS, lora(rank=2, dropout=0.1), replace(QUICK, seed=1), store)
    undropped = train(small, FACTS, lora(rank=2), QUICK, store)
    assert losses(first) == losses(again) != losses(other) and losses(first) != losses(undropped)


def test_accumulation_is_a_larger_batch(small, store):
    """Rows differ in length, so a mean of micro-batch means would not pass."""
    task = load_task("orders")
    whole = train(small, task, lora(rank=2), replace(QUICK, batch_size=8), store)
    parts = train(small, task, lora(rank=2), replace(QUICK, batch_size=2, accumulation=4), store)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-5) and parts.tokens == whole.tokens


def test_checkpointing_changes_memory_not_losses(small, store):
    config = replace(QUICK, batch_size=16)
    plain = train(small, FACTS, lora(rank=2), config, store)
    recomputed = train(small, FACTS, lora(rank=2), replace(config, checkpointing=True), store)
    assert losses(recomputed) == pytest.approx(losses(plain), rel=1e-5)
    assert recomputed.peak_memory_bytes < plain.peak_memory_bytes


def test_two_processes_are_one_with_twice_the_batch(small, small_directory, tmp_path):
    # Accelerate's launcher starts several processes under --multi_gpu only; the variable then says: on the CPU.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--multi_gpu"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "--num_processes", "2"]
    command += [
        str(Path(__file__).parents[1] / "support" / "two_processes.py"),
        str(small_directory),
        str(tmp_path / "runs"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    results = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert len(results) == 1, done.stderr[-3000:]  # one process writes the record
    config = TrainConfig(steps=4, batch_size=4, accumulation=2, evaluate=False, save=False)
    one = train(small, load_task("orders"), lora(rank=2), config, RunStore(tmp_path / "one"))
    assert json.loads(results[0]) == pytest.approx(losses(one), rel=1e-5)


def test_a_step_names_no_device(small):
    """Forward, backward and update with every tensor on `meta`: a stray CPU tensor raises, as the last lines show."""
    batch = collate(encode(load_task("orders").train[:3], small.tokenizer, 512), 0)
    model = apply(small, lora(rank=2)).train()
    mode = FakeTensorMode()  # transformers looks at the values of tensors that are not marked as fake

    def on_meta(tensor: torch.Tensor) -> torch.Tensor:
        return mode.from_tensor(tensor.detach().to("meta"))

    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(on_meta(parameter), parameter.requires_grad)
        for name, buffer in list(module._buffers.items()):
            module._buffers[name] = on_meta(buffer)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    batch = {name: on_meta(tensor) for name, tensor in batch.items()}
    with mode:
        accelerator = SimpleNamespace(
            device="meta", num_processes=1, autocast=nullcontext, backward=torch.Tensor.backward
        )
        group = Group(model, [SimpleNamespace(batches=[batch], tokens=10)], batched=False)
        backward(accelerator, group)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        torch.optim.AdamW(trained, lr=1e-3).step()
        assert {parameter.grad.device.type for parameter in trained} == {"meta"}
        model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0] + torch.zeros(64),))
        with pytest.raises(RuntimeError, match="device"):
            backward(accelerator, group)


def test_micro_batches_share_the_rows_out(small):
    rows = encode(FACTS.train, small.tokenizer, 512)
    config = TrainConfig(steps=2, batch_size=3, accumulation=2)
    one = [list(micro_batches(rows, config, process, 2)) for process in (0, 1)]
    for (mine, tokens), (yours, same) in zip(*one, strict=True):
        assert tokens == same == sum(batch["targets"].numel() for batch in (*mine, *yours))
        assert [len(batch["input_ids"]) for batch in (*mine, *yours)] == [3, 3, 3, 3]


def test_the_learning_rate_rises_and_falls():
    config = TrainConfig(steps=20, warmup=0.25)
    factors = [config.learning_rate_factor(step) for step in range(20)]
    assert 0 < factors[0] < factors[4] < factors[5] == 1.0
    assert all(a > b for a, b in pairwise(factors[5:])) and 0 < factors[-1] < 0.05
    assert TrainConfig(steps=1, warmup=0.0).learning_rate_factor(0) == 1.0


# --- what it leaves alone, and what it records


@pytest.mark.parametrize("method", [full(1e-3), lora(rank=2), hybrid(["layers.1.mlp"], rank=2)])
def test_the_base_is_left_as_it_was(small, store, method):
    before, random_state = fingerprint(small), torch.random.get_rng_state()
    train(small, FACTS, method, QUICK, store)
    assert fingerprint(small) == before
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_the_record_is_whole(small, store):
    run = train(small, FACTS, lora(rank=2), replace(QUICK, evaluate=True, save=True, test_limit=4), store)
    assert store.get(run.id) == run
    assert set(run.metrics) == set(run.before) >= {"loss", "exact_match", "general_loss", "fact_accuracy"}
    for scores, right in ((run.before, run.before_right), (run.metrics, run.right)):
        rows = unpack_rows(right["exact_match"])
        assert len(rows) == 4 and rows.mean() == scores["exact_match"]
    assert [entry["step"] for entry in run.history] == [1, 2, 3, 4]
    assert set(run.history[0]) == {"step", "loss", "learning_rate", "seconds"}
    dtypes = {"frozen": "float32", "trained": "float32", "compute": "float32", "scores": "float32"}
    assert run.precision == {**dtypes, "padding_free": True}
    assert run.tokens > 0 and run.seconds > 0 and run.trainable_parameters < run.total_parameters
    assert run.versions["torch"] == torch.__version__.split("+")[0] or run.versions["torch"] == torch.__version__


def test_peak_memory_is_that_of_the_tensors(small, store):
    """Full fine-tuning holds at least weights, gradients and two moments: sixteen bytes a parameter."""
    whole = train(small, FACTS, full(1e-3), QUICK, store)
    adapters = train(small, FACTS, lora(rank=2), QUICK, store)
    assert whole.peak_memory_bytes >= 16 * whole.trainable_parameters
    weights = 4 * adapters.total_parameters
    assert weights < adapters.peak_memory_bytes < whole.peak_memory_bytes


@pytest.mark.parametrize("method", [lora(rank=2), full(1e-3), hybrid(["layers.1.mlp"], rank=2)])
def test_a_bfloat16_base_trains_under_autocast(small_directory, store, method):
    base = load_base(str(small_directory), dtype="bfloat16")
    run = train(base, FACTS, method, replace(QUICK, steps=8), store)
    assert run.precision["compute"] == "bfloat16" and losses(run)[-1] < losses(run)[0]


# --- when something goes wrong


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_evaluating_first_does_not_spoil_quantized_training(small_directory, store, kind, dtype):
    """Two bitsandbytes faults: on some CPUs one evaluation of 4-bit weights made later training lose its gradients,
    and the first computation with 8-bit weights took their statistics away from every other copy.
    """
    base = load_base(str(small_directory), quantization=kind, dtype=dtype)
    ids = torch.arange(20, 40).view(1, 20)
    with torch.no_grad():
        fresh = base.model(ids).logits
    evaluate(base, FACTS, limit=4)
    run = train(base, FACTS, qlora(rank=2), replace(QUICK, steps=12, save=True), store)
    assert run.status == "finished" and losses(run)[-1] < losses(run)[0]
    run.load(base)
    with torch.no_grad():
        assert torch.equal(base.model(ids).logits, fresh)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base": "smollm2-135m"}, "must be what load_base"),
        ({"task": "facts"}, "task='facts' must be what load_task"),
        ({"method": "lora"}, "method='lora' must be one of lora"),
        ({"config": 40}, "config=40 must be TrainConfig"),
        ({"store": "runs"}, "store='runs' must be RunStore"),
    ],
)
def test_what_is_not_what_it_should_be_is_a_sentence(small, store, change, words):
    arguments = {"base": small, "task": FACTS, "method": lora(rank=1), "config": QUICK, "store": store}
    with pytest.raises(TrainingError, match=words):
        train(**arguments | change)


@pytest.mark.parametrize("make", [lambda seed: TrainConfig(seed=seed), lambda seed: lora(init_seed=seed)])
def test_a_seed_that_torch_cannot_take_is_a_sentence(make):
    assert make(2**63 - 1)
    with pytest.raises(WorkbenchError, match="must be smaller; 0, 1, 2"):
        make(2**63)


def test_no_base_may_take_the_layout_without_a_backward_pass(small_directory, monkeypatch):
    """Wherever this runs: bitsandbytes is told that the processor is one of those that have it."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model = load_base(str(small_directory), quantization="nf4").model
    flags = [model.get_submodule(name).support_avx512bf16_for_cpu for name in linear_modules(model)]
    assert flags and not any(flags)


def test_the_fault_itself_would_be_caught(small_directory, store):
    """With bitsandbytes' CPU layout allowed again, training must refuse wherever the fault is real."""
    from bitsandbytes.functional import has_avx512bf16

    base = load_base(str(small_directory), quantization="nf4", dtype="bfloat16")
    for module in base.model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = has_avx512bf16()
    with torch.no_grad():
        base.model(torch.arange(20, 40).view(1, 20))
    if has_avx512bf16():
        with pytest.raises(TrainingError, match="no usable gradient"):
            train(base, FACTS, qlora(rank=2), QUICK, store)
        assert store.all() == []
    else:
        assert train(base, FACTS, qlora(rank=2), QUICK, store).status == "finished"


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (lambda gradient: torch.zeros_like(gradient), "all zero"),
        (lambda gradient: torch.full_like(gradient, math.nan), "not finite"),
        (None, "none"),
    ],
)
def test_a_parameter_without_a_gradient_is_named(small, cut, words):
    model = apply(small, lora(rank=2)).train()
    name, parameter = next((n, p) for n, p in model.named_parameters() if "layers.1.mlp.down_proj.lora_B" in n)
    batch = collate(encode(FACTS.train[:2], small.tokenizer, 512), 0)
    completion_logits(model, batch).sum().backward()
    check_gradients(model)
    parameter.grad = cut(parameter.grad) if cut else None
    with pytest.raises(TrainingError) as caught:
        check_gradients(model)
    assert f"1 trainable parameters get no usable gradient, first {name} ({words})" in str(caught.value)


@pytest.mark.slow
def test_adapter_gradients_are_those_of_a_step(small):
    batch = collate(encode(FACTS.train[:2], small.tokenizer, 512), 0)
    accelerator, slot = slot_of(small, lora(rank=2), replace(QUICK, batch_size=2))
    slot.batches, slot.tokens = [batch], batch["targets"].numel()
    backward(accelerator, alone(accelerator, small, slot))
    expected = {name: parameter.grad for name, parameter in slot.model.named_parameters() if "lora_B" in name}
    found = adapter_gradients(apply(small, lora(rank=2)), batch)
    assert found.keys() == expected.keys() and all(gradient.any() for gradient in found.values())
    assert all(torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-7) for name in found)


def test_a_diverging_run_is_recorded(small, store):
    run = train(small, FACTS, full(learning_rate=1e30), replace(QUICK, steps=6, warmup=0.0), store)
    assert run.status == "diverged" and "lower the learning rate" in run.advice
    assert all(math.isfinite(loss) for loss in losses(run)) and store.get(run.id).status == "diverged"


def test_a_run_that_breaks_in_its_last_update_is_recorded_too(small, store):
    config = replace(QUICK, steps=1, evaluate=True, test_limit=4, warmup=0.0)
    run = train(small, FACTS, full(learning_rate=1e30), config, store)
    assert run.status == "diverged" and run.metrics == {} and store.get(run.id) == run


def test_stopping_while_scoring_keeps_the_run(small, store, monkeypatch):
    from workbench.scoring import evaluation

    config = replace(QUICK, evaluate=True, save=True, test_limit=3)
    monkeypatch.setattr(lifecycle, "BASE_SCORES", {})  # another test may have scored this base
    calls, real = [], evaluation.evaluate

    def stopped_the_second_time(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(evaluation, "evaluate", stopped_the_second_time)
    run = train(small, FACTS, lora(rank=2), config, store)
    assert len(calls) == 2 and run.status == "interrupted" and run.metrics == {}
    assert store.get(run.id).load(small)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_what_cannot_be_saved_is_scored_and_recorded_with_advice(small, store, monkeypatch, error):
    monkeypatch.setattr("workbench.adapters.saved.checkpoints.save", breaks_off(error))
    run = train(small, FACTS, lora(rank=2), replace(QUICK, evaluate=True, save=True, test_limit=3), store)
    assert run.status == "finished" and run.metrics and run.artifact is run.artifact_bytes is None
    assert re.fullmatch("Trained, but not saved: .*No space left.*; free some space and train again.", run.advice)
    assert store.get(run.id) == run and not (store.path / run.id).exists()


def test_stopping_while_saving_keeps_the_record_without_half_an_adapter(small, store, monkeypatch):
    monkeypatch.setattr("workbench.adapters.saved.checkpoints.save", breaks_off(KeyboardInterrupt()))
    run = train(small, FACTS, lora(rank=2), replace(QUICK, evaluate=True, save=True, test_limit=3), store)
    assert run.status == "interrupted" and run.artifact is None and not run.metrics and len(run.history) == 4
    assert store.get(run.id) == run and not (store.path / run.id).exists()


def test_stopping_keeps_what_was_learned(small, store):
    config = replace(QUICK, steps=50, evaluate=True, save=True, test_limit=4)
    asked = train(small, FACTS, lora(rank=2), config, store, on_step=lambda entry: entry["step"] == 2)

    def interrupt(entry):
        if entry["step"] == 2:
            raise KeyboardInterrupt

    interrupted = train(small, FACTS, lora(rank=2), config, store, on_step=interrupt)
    for run in (asked, interrupted):
        assert run.status == "interrupted" and len(run.history) == 2 and run.metrics
        assert run.load(small)
    assert losses(asked) == losses(interrupted)


def test_running_out_of_memory_is_recorded_with_advice(small_directory, tmp_path):
    """For real, in a process that may not take more than 400 MB on top of what it has."""
    code = f"""
import psutil, resource, torch
torch.set_num_threads(1)
from workbench import RunStore, TrainConfig, load_base, load_task, lora, train
base, store = load_base({str(small_directory)!r}, dtype="float32"), RunStore({str(tmp_path)!r})
task = load_task("orders")
train(base, task, lora(rank=2), TrainConfig(steps=2, batch_size=2, evaluate=False, save=False), store)
limit = psutil.Process().memory_info().vms + 400_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
run = train(base, task, lora(rank=2), TrainConfig(steps=2, batch_size=400, evaluate=False), store)
print(run.status, "|", run.advice)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("out_of_memory | Halve batch_size"), done.stderr[-2000:]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"clip": 0}, "clip=0"),
        ({"clip": math.inf}, "clip=inf must be above 0 and finite; to clip nothing, use a large number"),
        ({"weight_decay": math.inf}, "weight_decay=inf"),
        ({"weight_decay": -1}, "weight_decay=-1"),
        ({"test_limit": 2.5}, "test_limit=2.5 must be a whole number"),
        ({"test_limit": 0}, "test_limit=0 must be at least 1"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
        ({"warmup": "long"}, "warmup='long' must be a number"),
        ({"clip": 10**5000}, "clip is larger than any float"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(TrainingError) as caught:
        TrainConfig(**changes)
    assert words in str(caught.value)


def test_numpys_numbers_and_a_name_with_dots_are_recorded(small, store):
    config = replace(QUICK, steps=np.int64(1), seed=np.int64(3), warmup=np.float32(0), test_limit=np.int32(2))
    run = train(small, replace(FACTS, name="data..v2"), lora(rank=1, layers=np.arange(2)), config, store)
    assert store.get(run.id) == run and run.config["seed"] == 3 and run.method["layers"] == [0, 1]


@pytest.mark.quick
def test_a_record_that_cannot_be_kept_is_told_before_the_base_is_scored(small, store, monkeypatch):
    monkeypatch.setattr("workbench.scoring.evaluation.evaluate", lambda *_: pytest.fail("scored first"))
    with pytest.raises(RunError, match="cannot be written as JSON"):
        train(small, FACTS, replace(lora(rank=1), reasons=(object(),)), replace(QUICK, evaluate=True), store)


def test_batches_that_are_padded_are_recorded_and_said(small_directory, store, monkeypatch, capsys):
    base = load_base(str(small_directory), dtype="float32")
    base.model.set_attn_implementation(PADDED)
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    run = train(base, FACTS, lora(rank=1), replace(QUICK, steps=1), store)
    assert store.get(run.id).precision["padding_free"] is False
    assert "(this model's batches are padded)" in capsys.readouterr().err


def test_two_precisions_one_after_the_other(small, small_directory, store):
    """Accelerate keeps its precision for a process unless it is told otherwise."""
    lower = load_base(str(small_directory), dtype="bfloat16")
    first = train(small, FACTS, lora(rank=2), QUICK, store)
    second = train(lower, FACTS, lora(rank=2), QUICK, store)
    third = train(small, FACTS, lora(rank=2), QUICK, store)
    assert second.precision["compute"] == "bfloat16" and losses(first) == losses(third)


def slot_of(base, method, config):
    """The slot of a trial on the facts, and the Accelerator that it was made with."""
    accelerator = accelerator_for(base)
    trial = Trial("one", base, FACTS, method, config, RunStore())
    return accelerator, make_slot(trial, trial.new_run(), encode(FACTS.train, base.tokenizer, 512), accelerator)


@pytest.mark.slow
def test_a_train_step_returns_the_loss_before_its_update(small):
    accelerator, slot = slot_of(small, lora(rank=2, learning_rate=1e-2), replace(QUICK, warmup=0.0))
    group = alone(accelerator, small, slot)
    slot.next_step()
    (first,), (second,) = (train_step(accelerator, group, step=0) for _ in range(2))
    assert second < first


@pytest.mark.quick
@pytest.mark.parametrize(
    ("quantization", "method", "words"),
    [
        (None, lora(targets=["nosuch"]), "has no such linear layer"),
        (None, qlora(), "does not go with this unquantized base"),
        ("nf4", lora(), "does not go with this nf4 base"),
        ("nf4", full(), "cannot train nf4 weights"),
        ("nf4", hybrid(["layers.1.mlp"]), "cannot be trained whole"),
    ],
)
def test_what_cannot_work_is_told_before_the_base_is_scored(
    small_directory, store, monkeypatch, quantization, method, words
):
    base = load_base(small_directory, quantization, dtype="float32")
    monkeypatch.setattr("workbench.scoring.evaluation.evaluate", lambda *_: pytest.fail("scored first"))
    config = replace(QUICK, evaluate=True, test_limit=5)
    for act in (train, lambda base, task, method, config, store: sweep(base, task, [method], config, store)):
        with pytest.raises(MethodError, match=words):
            act(base, FACTS, method, config, store)


@pytest.mark.parametrize(
    ("fails_at", "save", "words"),
    [(1, True, "^Scoring ran out"), (2, True, "^Trained and saved. Scoring"), (2, False, "^Trained and not saved. Sc")],
)
def test_running_out_of_memory_while_scoring_is_recorded(small, store, monkeypatch, fails_at, save, words):
    monkeypatch.setattr(lifecycle, "BASE_SCORES", {})  # another test may have scored this base
    calls = []

    def out_of_memory(*arguments):
        calls.append(arguments)
        if len(calls) == fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return Scores({"loss": 1.0})

    monkeypatch.setattr("workbench.scoring.evaluation.evaluate", out_of_memory)
    run = train(small, FACTS, lora(rank=1), replace(QUICK, steps=1, evaluate=True, save=save, test_limit=6), store)
    assert run.status == "out_of_memory" and re.search(words, run.advice) and store.get(run.id) == run
    assert len(run.history) == fails_at - 1 and bool(run.artifact) == (save and fails_at == 2)


def test_a_row_that_is_too_long_is_named_with_its_split(small, store):
    for evaluate_too, split in ((False, "Train"), (True, "Test")):
        short = replace(FACTS, train=FACTS.train[:1], test=(Example("so " * 60, " long"),))
        task = short if evaluate_too else replace(short, train=short.test)
        with pytest.raises(TaskError, match=f"^{split} row 1 "):
            train(small, task, lora(rank=1), replace(QUICK, steps=1, evaluate=evaluate_too, max_length=50), store)


def test_a_shorter_max_length_is_not_hidden_by_a_score_of_the_base(small, store):
    long = replace(QUICK, evaluate=True, test_limit=3, steps=1)
    train(small, FACTS, lora(rank=1), long, store)
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "workbench.scoring.evaluation.evaluate", lambda *asked: calls.append(asked) or Scores({"loss": 1.0})
        )
        score_of_base(small, FACTS, replace(long, max_length=300))
        score_of_base(small, replace(FACTS, labels=("1", "2")), long)
    assert len(calls) == 2


@pytest.mark.quick
def test_a_store_that_cannot_be_written_is_told_before_anything_is_trained(small, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.training.loop.apply", lambda *_, **__: pytest.fail("began to train"))
    (tmp_path / "file").write_text("")
    for act in (train, lambda base, task, method, config, store: sweep(base, task, [method], config, store)):
        with pytest.raises(RunError, match=r"No runs can be kept in .*file .*choose another folder"):
            act(small, FACTS, lora(rank=1), QUICK, RunStore(tmp_path / "file"))


@pytest.mark.parametrize("several", [False, True], ids=["train", "sweep"])
def test_a_second_training_in_another_thread_is_refused_and_the_first_goes_on(small, store, monkeypatch, several):
    begun, over = threading.Event(), threading.Event()

    def hold(_):
        begun.set()
        over.wait(60)

    thread = threading.Thread(target=lambda: train(small, FACTS, lora(rank=1), replace(QUICK, steps=2), store, hold))
    thread.start()
    try:
        assert begun.wait(60)
        with pytest.raises(TrainingError, match="Another training is under way"):
            if several:
                monkeypatch.setattr(
                    "workbench.sweeps.passes.accelerator_for", lambda _: pytest.fail("touched its state")
                )
                sweep(small, FACTS, [lora(rank=1), lora(rank=2)], QUICK, store)
            else:
                train(small, FACTS, lora(rank=1), QUICK, store)
    finally:
        over.set()
        thread.join()
    assert [run.status for run in store.all()] == ["finished"]
    assert train(small, FACTS, lora(rank=1), replace(QUICK, steps=1), store).status == "finished"
