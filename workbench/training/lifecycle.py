"""From a trial to its stored run: score the base, train, save, score again; `train` does it for one method."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest

import torch
from accelerate import Accelerator

from workbench.adapters import checkpoints
from workbench.adapters.inject import check_method
from workbench.adapters.methods import Method
from workbench.console import say
from workbench.errors import TrainingError
from workbench.models.base import Base
from workbench.tasks.encoding import encode
from workbench.tasks.tasks import Task
from workbench.training import evaluation
from workbench.training.loop import DIVERGED_ADVICE, OnStep, accelerator_for, fit, make_slot
from workbench.training.runs import Run
from workbench.training.step import Model, Slot, TrainConfig
from workbench.training.store import RunStore
from workbench.training.trial import Trial, check_kinds

__all__ = ["TrainConfig", "TrainingError", "train"]

BASE_SCORES: dict[tuple[object, ...], dict[str, float]] = {}  # see `score_of_base`
OUT_OF_MEMORY_ADVICE = (
    "Halve batch_size and double accumulation (same result), turn on checkpointing, shorten max_length, "
    "or train less: lora() instead of full(), qlora() instead of lora()."
)


def train(
    base: Base,
    task: Task,
    method: Method,
    config: TrainConfig | None = None,
    store: RunStore | None = None,
    on_step: OnStep | None = None,
) -> Run:
    """Fine-tune `base` on `task` and record the run; `base` is left as it was found.

    on_step: called after each step with a `loop.StepReport`; returning True stops the run, which is then kept as
    "interrupted", as it is after Ctrl-C or Jupyter's stop button.
    Raises MethodError, TaskError, TrainingError or RunError for what cannot work; running out of memory or diverging is
    recorded.
    """
    config, store = config or TrainConfig(), store or RunStore()
    check_kinds(base=base, task=task, method=method, config=config, store=store)
    store.make_ready()
    check_method(base, method)  # fail before the base is scored
    trial = Trial(store.new_id(task.name, method.label, f"s{config.seed}"), base, task, method, config, store)
    return run_trials([trial], on_step=on_step)[0]


_running = threading.RLock()


@contextmanager
def alone_in_this_process() -> Iterator[None]:
    """Raise TrainingError if another training is running: the two would share Accelerate's state and torch's RNG."""
    if not _running.acquire(blocking=False):
        raise TrainingError("Another training is under way in this process; wait for it, or stop it.")
    try:
        yield
    finally:
        _running.release()


@alone_in_this_process()
def run_trials(
    trials: Sequence[Trial], together: bool = False, compiled: bool = False, on_step: OnStep | None = None
) -> list[Run]:
    """Train the trials together, then save, score and store each of them.

    together: the trials share a pass (see `passes.shares_a_pass`) and differ in method and seed alone; otherwise there
    is one, of any method. compiled: put the model that they share through torch.compile. If memory runs out with
    several, each half of them is trained by itself; one that does not fit alone is recorded as "out_of_memory".
    After a stop, the runs have what was trained by then.
    """
    first = trials[0]
    runs = [trial.new_run() for trial in trials]
    rows = encode(first.task.train, first.base.tokenizer, first.config.max_length, what="Train row")
    accelerator = accelerator_for(first.base)
    slots: list[Slot] = []
    out_of_memory = False
    try:
        before = score_of_base(first.base, first.task, first.config)
    except TrainingError as error:
        _end(runs, "out_of_memory", str(error))
        return _keep_all(trials, runs, [], accelerator)
    try:
        for trial, run in zip(trials, runs, strict=True):
            run.before = dict(before)
            slots.append(make_slot(trial, run, rows, accelerator))
        fit(accelerator, first.base, slots, together, compiled, on_step)
    except KeyboardInterrupt:
        _end(runs, "interrupted")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        out_of_memory = True
        _end(runs, "out_of_memory", OUT_OF_MEMORY_ADVICE)
    accelerator.free_memory()  # it would keep the optimizers' states alive through the scoring
    if out_of_memory and len(trials) > 1:
        slots.clear()
        return _run_in_halves(trials, compiled, on_step)
    models = [slot.model for slot in slots]
    slots.clear()  # the scoring does not need the optimizers' states
    return _keep_all(trials, runs, models, accelerator)


def _run_in_halves(trials: Sequence[Trial], compiled: bool, on_step: OnStep | None) -> list[Run]:
    """Train a pass that did not fit into memory as two; a stop in the first is the end of both."""
    half = len(trials) // 2
    say(f"Out of memory with {len(trials)} configurations at once: first {half} of them, then the rest.")
    runs = run_trials(trials[:half], True, compiled, on_step)
    stopped = any(run.status == "interrupted" for run in runs)
    return runs if stopped else runs + run_trials(trials[half:], True, compiled, on_step)


def _end(runs: Sequence[Run], status: str, advice: str | None = None) -> None:
    """Give the runs that have not ended yet a status and advice."""
    for run in runs:
        if run.status == "finished":
            run.status, run.advice = status, advice


def _keep_all(
    trials: Sequence[Trial], runs: Sequence[Run], models: Sequence[Model], accelerator: Accelerator
) -> list[Run]:
    """Save, score and store each run; of a run that was stopped before its model was built, store the record only."""
    evaluate = trials[0].config.evaluate
    if evaluate and any(run.history and run.status == "interrupted" for run in runs):
        say("Stopped. What was trained is being scored; stop again to leave that out.")
    kept = []
    for number, (trial, run, model) in enumerate(zip_longest(trials, runs, models), start=1):
        kept.append(_keep(trial, run, model, evaluate, accelerator.is_main_process))
        if evaluate and run.status == "interrupted" and not run.metrics:
            # Stopping the scoring of one run stops that of the others; a run without scores is not finished.
            evaluate = False
            _end(runs[number:], "interrupted")
    return kept


def _keep(trial: Trial, run: Run, model: Model | None, evaluate: bool, write: bool) -> Run:
    """Save the model, score it and store the record; a stop in between keeps what is done by then.

    Returns the run. If another process with the same sweep has finished it meanwhile, nothing is written and that run
    is returned.
    """
    if done := trial.store.finished(run.id, evaluate, trial.config.save):
        return done
    if model is not None and run.history and run.status in ("finished", "interrupted"):
        model.eval()
        try:
            if trial.config.save and write:
                with trial.store.saving(run) as folder:
                    run.artifact_bytes = checkpoints.save(model, folder)
                    run.artifact = run.id
                    trial.store.save(run)  # scoring may be stopped, or run out of memory
            if evaluate:
                _score(run, replace(trial.base, model=model), trial.task, trial.config)
        except KeyboardInterrupt:
            run.status = "interrupted"
    if write:
        trial.store.save(run)
    return run


def _score(run: Run, tuned: Base, task: Task, config: TrainConfig) -> None:
    """Fill in the scores; if memory runs out, the run is kept without them."""
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
    """The scores of a base or of a tuned model; raises TrainingError if memory runs out."""
    try:
        return evaluation.evaluate(base, task, config.test_limit, config.max_length)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError("Scoring ran out of memory: lower test_limit, or set evaluate=False.") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out: CUDA has its own exception, the CPU allocator a RuntimeError."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def score_of_base(base: Base, task: Task, config: TrainConfig) -> dict[str, float]:
    """The base's own scores (none if `config.evaluate` is off), computed once a session for each base and task.

    Raises TrainingError if memory runs out.
    """
    if not config.evaluate:
        return {}
    own = (base.name, base.revision, base.quantization, base.dtype_name)
    key = (*own, task.sha256, tuple(task.labels or ()), config.test_limit, config.max_length)
    if key not in BASE_SCORES:
        BASE_SCORES[key] = _evaluate(base, task, config)
    return dict(BASE_SCORES[key])
