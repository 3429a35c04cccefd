"""One explicit loop for every method: `train(base, task, method, config)` gives a `Run`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime
from functools import cache, partial

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from workbench import adapters, evaluation, machine
from workbench.methods import Method, apply, check_method, trainable_parameters
from workbench.models import Base
from workbench.runs import Run, RunStore
from workbench.steps import (
    TrainConfig,
    TrainingError,
    adamw,
    backward,
    check_gradients,
    micro_batches,
    optimizer_tensors,
    train_step,
)
from workbench.tasks import Task, encode

__all__ = ["TrainConfig", "TrainingError", "train"]

OUT_OF_MEMORY_ADVICE = (
    "Halve batch_size and double accumulation (same result), turn on checkpointing, shorten max_length, "
    "or train less: lora() instead of full(), qlora() instead of lora()."
)
DIVERGED_ADVICE = "The loss is no longer a number: lower the learning rate, or lengthen the warm-up."


def train(
    base: Base,
    task: Task,
    method: Method,
    config: TrainConfig | None = None,
    store: RunStore | None = None,
    on_step: Callable[[dict], bool | None] | None = None,
) -> Run:
    """Fine-tune `base` on `task` and record the run; `base` is left as it was found.

    on_step: called after each step with its history entry plus "steps", "seconds_left" and the "model" as it is then;
    returning True stops the run, which is then kept as "interrupted", as Ctrl-C and Jupyter's stop button do.
    Raises MethodError, TaskError, TrainingError or RunError for what cannot work; running out of memory or diverging is
    recorded.
    """
    config, store = config or TrainConfig(), store or RunStore()
    check_kinds(base=base, task=task, method=method, config=config, store=store)
    store.make_ready()
    check_method(base, method)  # what cannot work is told before the base is scored
    run = new_run(store.new_id(task.name, method.label, f"s{config.seed}"), base, task, method, config, store)
    return carry_out(run, base, task, method, config, store, on_step)


KINDS = {
    "base": (Base, "what load_base() returns"),
    "task": (Task, "what load_task() returns"),
    "method": (Method, "one of lora(), qlora(), hybrid() and full()"),
    "config": (TrainConfig, "TrainConfig(steps=...)"),
    "store": (RunStore, "RunStore(folder)"),
}


def check_kinds(**arguments: object) -> None:
    """Raises TrainingError for a name where the thing itself is wanted, before it fails somewhere inside."""
    for name, value in arguments.items():
        kind, wanted = KINDS[name]
        if not isinstance(value, kind):
            raise TrainingError(f"{name}={value!r} must be {wanted}.")


_running = threading.RLock()


@contextmanager
def alone_in_this_process() -> Iterator[None]:
    """Two trainings at once would share Accelerate's state and torch's random numbers; raises TrainingError."""
    if not _running.acquire(blocking=False):
        raise TrainingError("Another training is under way in this process; wait for it, or stop it.")
    try:
        yield
    finally:
        _running.release()


@alone_in_this_process()
def carry_out(run: Run, base: Base, task: Task, method: Method, config: TrainConfig, store: RunStore, on_step) -> Run:
    """Train as `run` says, then save, score and store it."""
    rows = encode(task.train, base.tokenizer, config.max_length, what="Train row")
    accelerator, model = accelerator_for(base), None
    run.precision = precision_of(base, method, accelerator)
    try:
        run.before = score_of_base(base, task, config)
    except TrainingError as error:
        run.status, run.advice = "out_of_memory", str(error)
        return keep(run, model, base, task, config, store, accelerator.is_main_process)
    with machine.forked_random_state(base.model.device):
        torch.manual_seed(config.seed)
        try:
            model = apply(base, method, seed=config.seed)
            count_parameters(run, model)
            _fit(accelerator, model, method, config, rows, run, on_step, base.tokenizer.pad_token_id or 0)
        except KeyboardInterrupt:
            run.status = "interrupted"
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            run.status, run.advice = "out_of_memory", OUT_OF_MEMORY_ADVICE
    return keep(run, model, base, task, config, store, accelerator.is_main_process)


def keep(run: Run, model, base: Base, task: Task, config: TrainConfig, store: RunStore, write: bool = True) -> Run:
    """Save what was trained, score it, and store the record; whoever stops this keeps what there is by then.

    Returns the run; or, and writes nothing, the one that another process with the same sweep has finished meanwhile.
    """
    if done := store.finished(run.id, config.evaluate, config.save):
        return done
    if run.history and run.status in ("finished", "interrupted"):
        model.eval()
        try:
            if config.save and write:
                with store.saving(run) as folder:
                    run.artifact_bytes = adapters.save(model, folder)
                    run.artifact = run.id
                    store.save(run)  # scoring may be stopped, or run out of memory
            if config.evaluate:
                _score(run, replace(base, model=model), task, config)
        except KeyboardInterrupt:
            run.status = "interrupted"
    if write:
        store.save(run)
    return run


def _score(run: Run, tuned: Base, task: Task, config: TrainConfig) -> None:
    """Fill in the scores; running out of memory keeps the run without them."""
    try:
        metrics = _evaluate(tuned, task, config)
    except TrainingError as error:
        kept = "saved" if run.artifact else "not saved"
        run.status, run.advice = "out_of_memory", f"Trained and {kept}. {error}"
        return
    if not all(math.isfinite(value) for value in metrics.values()):
        run.status, run.advice = "diverged", DIVERGED_ADVICE
        return
    run.metrics = metrics
    run.forgetting = evaluation.forgetting(run.before, metrics)


def _evaluate(base: Base, task: Task, config: TrainConfig) -> dict[str, float]:
    """The scores of a base or of a tuned one; raises TrainingError where memory runs out."""
    try:
        return evaluation.evaluate(base, task, config.test_limit, config.max_length)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError("Scoring ran out of memory: lower test_limit, or set evaluate=False.") from error


def _fit(accelerator, model, method, config, rows, run, on_step, pad_id) -> None:
    """The loop. Fills in the run's history, status, times and peak memory."""
    model.train()
    if config.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = adamw(trained, method.learning_rate, config)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    steps = micro_batches(rows, config, accelerator.process_index, accelerator.num_processes, pad_id)
    gpu_peak = machine.gpu_peak(accelerator.device, [*model.parameters(), *model.buffers()])
    started, skipped = time.perf_counter(), 0
    try:
        for step, (batches_of_step, tokens) in enumerate(steps):
            if step == 0:
                seconds = _rehearse(accelerator, model, wrapped, batches_of_step, tokens)
                if accelerator.is_main_process:
                    announce(run.label, config.steps, seconds)
                started = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = method.learning_rate * config.learning_rate_factor(step)
            step_now = partial(train_step, accelerator, wrapped, optimizer, trained, batches_of_step, tokens, config)
            tick = time.perf_counter()
            # The second step is the first with the optimizer's state in place.
            if step == min(1, config.steps - 1) and not gpu_peak:
                live = [*model.parameters(), *model.buffers(), *optimizer_tensors(optimizer)]
                with machine.LiveBytes(live) as memory:
                    loss = step_now()
                run.peak_memory_bytes = memory.peak
            else:
                loss = step_now()
            seconds = time.perf_counter() - tick
            skipped += accelerator.optimizer_step_was_skipped
            if not math.isfinite(loss):
                run.status, run.advice = "diverged", DIVERGED_ADVICE
                break
            run.tokens += tokens
            learning_rate = optimizer.param_groups[0]["lr"]
            entry = {"step": step + 1, "loss": loss, "learning_rate": learning_rate, "seconds": seconds}
            run.history.append(entry)
            left = (time.perf_counter() - started) / (step + 1) * (config.steps - step - 1)
            if on_step and on_step(entry | {"steps": config.steps, "seconds_left": left, "model": model}):
                run.status = "interrupted"
                break
    finally:
        run.seconds = time.perf_counter() - started
        if gpu_peak:
            run.peak_memory_bytes = gpu_peak()
        optimizer.zero_grad(set_to_none=True)
        accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
        accelerator.free_memory()  # it would keep the optimizer's state alive through the scoring
    if run.history and skipped == len(run.history):
        run.status, run.advice = "diverged", "Every step overflowed in float16: use bfloat16 or float32."


def _rehearse(accelerator, model, wrapped, batches_of_step, tokens) -> float:
    """One forward and backward without an update: checks the gradients and times a step (seconds)."""
    with machine.forked_random_state(accelerator.device):
        started = time.perf_counter()
        backward(accelerator, wrapped, batches_of_step, tokens).item()  # .item() waits for a GPU to be done
        seconds = time.perf_counter() - started
    check_gradients(model, scaled=accelerator.scaler is not None)
    for parameter in model.parameters():
        parameter.grad = None
    return seconds


def announce(what: str, steps: int, seconds_a_step: float) -> None:
    """Say how long a training is going to take."""
    minutes = steps * seconds_a_step / 60
    machine.say(f"{what}: {steps} steps of about {seconds_a_step:.2g} s, about {minutes:.1f} minutes")


def accelerator_for(base: Base) -> Accelerator:
    """A fresh Accelerator: compute in the base's dtype under autocast, with loss scaling for float16."""
    AcceleratorState._reset_state(reset_partial_state=False)
    precision = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[base.dtype]
    return Accelerator(mixed_precision=precision)


def is_out_of_memory(error: Exception) -> bool:
    """CUDA has an exception of its own for it; the CPU allocator's is a plain RuntimeError."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def precision_of(base: Base, method: Method, accelerator: Accelerator) -> dict[str, str]:
    compute = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[accelerator.mixed_precision]
    frozen = "nothing" if method.name == "full" else base.quantization or base.dtype_name
    return {"frozen": frozen, "trained": "float32", "compute": compute, "scores": "float32"}


def count_parameters(run: Run, model: torch.nn.Module) -> None:
    run.trainable_parameters = trainable_parameters(model)
    run.total_parameters = sum(parameter.numel() for parameter in model.parameters())


def score_of_base(base: Base, task: Task, config: TrainConfig) -> dict[str, float]:
    """The base's own scores (none if `config.evaluate` is off), computed once for each base and task in a session.

    Raises TrainingError where memory runs out: no method could be trained and scored then.
    """
    if not config.evaluate:
        return {}
    own = (base.name, base.revision, base.quantization, base.dtype_name)
    key = (*own, task.sha256, tuple(task.labels or ()), config.test_limit, config.max_length)
    if key not in _scores():
        _scores()[key] = _evaluate(base, task, config)
    return dict(_scores()[key])


@cache
def _scores() -> dict:
    return {}


def new_run(run_id: str, base: Base, task: Task, method: Method, config: TrainConfig, store: RunStore) -> Run:
    """The record as far as it is known before the first step; raises RunError if `store` could not keep it."""
    run = Run(
        id=run_id,
        status="finished",
        base={
            "name": base.name,
            "revision": base.revision,
            "source": base.source,
            "quantization": base.quantization,
            "architecture": type(base.model).__name__,
        },
        task={
            "name": task.name,
            "source": task.source,
            "sha256": task.sha256,
            "train_rows": len(task.train),
            "test_rows": len(task.test),
        },
        method=method.to_dict() | {"label": method.label, "scaling": method.scaling},
        config=asdict(config),
        precision={},
        versions=machine.versions(),
        hardware=machine.hardware(),
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        general_text_sha256=evaluation.general_text()[1],
        folder=str(store.path),
    )
    store.check(run)
    return run
