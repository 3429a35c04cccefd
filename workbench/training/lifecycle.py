"""From a trial to its stored run: score the base, train, save, score again; `train` does it for one method."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from accelerate.state import AcceleratorState, GradientState

from workbench.adapters.guard import unmoved
from workbench.adapters.inject import check_method, tell_left_out
from workbench.adapters.methods import Method
from workbench.console import say
from workbench.errors import TrainingError
from workbench.models.base import Base
from workbench.models.checks import check_ids
from workbench.models.sharing import own_precision
from workbench.scoring.kept_scores import keep_scores, kept_scores
from workbench.scoring.scores import Scores
from workbench.tasks.encoding import encode
from workbench.tasks.tasks import Task
from workbench.training.keeping import (
    end,
    finite_scores,
    is_out_of_memory,
    keep_all,
    noting_what_is_lost,
    reason,
    scores_of,
)
from workbench.training.loop import OnStep, StopUnscored, accelerator_for, fit, make_slot
from workbench.training.runs import Run
from workbench.training.signals import termination_raised
from workbench.training.step import Slot, TrainConfig
from workbench.training.store import RunStore
from workbench.training.trial import Trial, check_kinds

__all__ = ["TrainConfig", "TrainingError", "train"]

BASE_SCORES: dict[tuple[object, ...], Scores] = {}  # see `score_of_base`
SCORING_SECONDS: dict[tuple[object, ...], float] = {}  # what they took, and those of a tuned model will take
OUT_OF_MEMORY_ADVICE = (
    "Halve batch_size and double accumulation (same result), turn on checkpointing, shorten max_length, "
    "or train less: lora() instead of full(), qlora() instead of lora()."
)


@own_precision()
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
    "interrupted", as it is after Ctrl-C or Jupyter's stop button. Raising `loop.StopUnscored` leaves out the scores.
    Raises MethodError, TaskError, TrainingError or RunError for what cannot work; running out of memory or diverging is
    recorded. Whatever else ends the training, such as an exception of `on_step`, is raised after the run is kept.
    """
    config, store = config or TrainConfig(), store or RunStore()
    check_kinds(base=base, task=task, method=method, config=config, store=store, on_step=on_step)
    store.make_ready()
    check_method(base, method)  # fail before the base is scored
    tell_left_out(base, [method])
    trial = Trial(store.new_id(task.name, method.label, f"s{config.seed}"), base, task, method, config, store)
    store.make_ready(trial.artifact_bytes)
    return run_trials([trial], on_step=on_step)[0]


_running = threading.Lock()


@contextmanager
def alone_in_this_process() -> Iterator[None]:
    """Raise TrainingError if another training is running, or calls this: the two would share Accelerate's state.

    After the block that state is again what it was before: an Accelerator of the caller's own goes on, or can be made.
    """
    if not _running.acquire(blocking=False):
        raise TrainingError("Another training is under way in this process; wait for it, or stop it.")
    kept = [(kind._shared_state, dict(kind._shared_state)) for kind in (AcceleratorState, GradientState)]
    try:
        yield
    finally:
        for state, before in kept:
            state.clear()
            state.update(before)
        _running.release()


def run_trials(trials: Sequence[Trial], together: bool = False, on_step: OnStep | None = None) -> list[Run]:
    """Train the trials together, then save, score and store each of them.

    together: the trials share a pass (see `batched.fits_a_slice`) and differ in method and seed alone; otherwise there
    is one, of any method. If memory runs out with several, each half of them is trained by itself; one that does not
    fit alone is recorded as "out_of_memory". After a stop, the runs have what was trained by then. Whatever else ends
    the training is raised after what was trained is saved and recorded, without scores, as "interrupted" and with the
    reason.
    """
    with alone_in_this_process(), termination_raised(), torch.inference_mode(False), torch.enable_grad():
        return _run_trials(trials, together, on_step)


def _run_trials(trials: Sequence[Trial], together: bool, on_step: OnStep | None) -> list[Run]:
    first = trials[0]
    runs = [trial.new_run() for trial in trials]
    rows = encode(first.task.train, first.base.tokenizer, first.config.max_length, what="Train row")
    check_ids(first.base.model, first.base.tokenizer, [row.ids for row in rows], "Train row")
    accelerator = accelerator_for(first.base)
    try:
        before = score_of_base(first.base, first.task, first.config)
    except TrainingError as error:
        end(runs, "out_of_memory", str(error))
        return keep_all(trials, runs, [], accelerator)
    for run in runs:
        run.before, run.advice = finite_scores(before)
        run.before_right = dict(before.right)
    slots: list[Slot] = []
    ended: BaseException | None = None
    scored = True
    try:
        with first.store.room(sum(trial.artifact_bytes for trial in trials)):
            slots += [make_slot(trial, run, rows, accelerator) for trial, run in zip(trials, runs, strict=True)]
            scoring = len(trials) * SCORING_SECONDS.get(_scores_key(first.base, first.task, first.config), 0.0)
            # Several processes begin by giving all weights the place and the values that the first one has.
            alone = accelerator.num_processes == 1
            with unmoved(first.base.model, "Training", writes=False) if alone else nullcontext():
                fit(accelerator, first.base, slots, together, on_step, scoring)
    except KeyboardInterrupt as stop:
        scored = not isinstance(stop, StopUnscored)
        end(runs, "interrupted")
    except BaseException as error:
        if not any(run.history for run in runs) and not is_out_of_memory(error):
            raise  # nothing was trained
        ended = error
    if scored or first.config.save:  # what follows needs the room of the optimizers' states, which it would keep alive
        accelerator.free_memory()
    models = [slot.model for slot in slots]
    slots.clear()  # the scoring does not need the optimizers' states
    if ended is None:
        return keep_all(trials, runs, models, accelerator, scored)
    if not is_out_of_memory(ended):
        end(runs, "interrupted", reason(ended))
        with noting_what_is_lost(ended):
            keep_all(trials, runs, models, accelerator, scored=False)
        raise ended
    del ended  # its traceback holds the tensors that did not fit
    if len(trials) > 1:
        models.clear()
        return _run_in_halves(trials, on_step)
    end(runs, "out_of_memory", OUT_OF_MEMORY_ADVICE)
    return keep_all(trials, runs, models, accelerator)


def _run_in_halves(trials: Sequence[Trial], on_step: OnStep | None) -> list[Run]:
    """Train a pass that did not fit into memory as two; a stop in the first is the end of both."""
    half = len(trials) // 2
    say(f"Out of memory with {len(trials)} configurations at once: first {half} of them, then the rest.")
    runs = _run_trials(trials[:half], True, on_step)
    stopped = any(run.status == "interrupted" for run in runs)
    return runs if stopped else runs + _run_trials(trials[half:], True, on_step)


def score_of_base(base: Base, task: Task, config: TrainConfig) -> Scores:
    """The base's own scores (none if `config.evaluate` is off), computed once for each base and task.

    That is once a session, and once a machine where `scoring.kept_scores` can tell that they would be the same.
    Raises TrainingError if memory runs out.
    """
    if not config.evaluate:
        return Scores()
    key = _scores_key(base, task, config)
    if key not in BASE_SCORES and (kept := kept_scores(base, key)):
        BASE_SCORES[key], SCORING_SECONDS[key] = kept
    if key not in BASE_SCORES:
        say(f"Scoring the base on {len(task.test[: config.test_limit])} test rows, general text and facts ...")
        started = time.perf_counter()
        BASE_SCORES[key] = scores_of(base, task, config)
        SCORING_SECONDS[key] = time.perf_counter() - started
        keep_scores(base, key, BASE_SCORES[key], SCORING_SECONDS[key])
    return Scores(BASE_SCORES[key], BASE_SCORES[key].right)


def _scores_key(base: Base, task: Task, config: TrainConfig) -> tuple[object, ...]:
    """What the scores of a base depend on."""
    own = (base.name, base.identity, base.quantization, base.dtype_name)
    return (*own, task.sha256, tuple(task.labels or ()), config.test_limit, config.max_length)
