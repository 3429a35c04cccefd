"""What is kept of runs whose training is over: artifact, scores and record, and no status before it is true."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from statistics import median

import torch
from accelerate import Accelerator

from workbench.adapters.saved import checkpoints
from workbench.console import first_line, say
from workbench.errors import TrainingError
from workbench.models.base import Base
from workbench.scoring import evaluation
from workbench.scoring.scores import Scores
from workbench.tasks.tasks import Task
from workbench.training.loop import DIVERGED_ADVICE
from workbench.training.runs import UNDER_WAY, Run
from workbench.training.signals import termination_waits
from workbench.training.step import Model, TrainConfig
from workbench.training.trial import Trial

LAST_STEPS = 5  # whose median loss is that at the end of a training
SAME = 1e-4  # two losses differ by less than this share
NO_BETTER = 0.95  # of the base's own loss
SURE_ROWS = 16  # in a step, from which on its loss stands for the base's own
GUESSING = 0.95  # of the loss of guessing, the logarithm of the vocabulary


def end(runs: Sequence[Run], status: str, advice: str | None = None) -> None:
    """Give the runs that have not ended yet a status, and advice."""
    for run in runs:
        if run.status in UNDER_WAY:
            run.status, run.advice = status, advice or run.advice


def keep_all(
    trials: Sequence[Trial], runs: Sequence[Run], models: Sequence[Model], accelerator: Accelerator, scored: bool = True
) -> list[Run]:
    """Save, score and store each run; of a run that was stopped before its model was built, store the record only.

    scored: False leaves the scores out, whatever the configuration says.
    """
    evaluate = trials[0].config.evaluate and scored
    kept: list[Run] = []
    for number, (trial, run, model) in enumerate(zip_longest(trials, runs, models), start=1):
        try:
            kept.append(_keep(trial, run, model, evaluate, accelerator.is_main_process))
        except BaseException as error:  # of the scoring, after this run was stored: store the others too
            end(runs[number:], "interrupted", reason(error))
            for rest in zip_longest(trials[number:], runs[number:], models[number:]):
                _keep(*rest, evaluate=False, write=accelerator.is_main_process)
            raise
        if evaluate and run.status == "interrupted" and not run.metrics:
            # Stopping the scoring of one run stops that of the others; a run without scores is not finished.
            evaluate = False
            end(runs[number:], "interrupted")
    return kept


@contextmanager
def noting_what_is_lost(ended: BaseException) -> Iterator[None]:
    """Within the block, an error in the keeping is added to the exception that ended the training."""
    try:
        yield
    except Exception as error:
        ended.add_note(f"What was trained until then could not be kept: {error}")


def _keep(trial: Trial, run: Run, model: Model | None, evaluate: bool, write: bool) -> Run:
    """Save the model, score it and store the record; a stop in between keeps what is done by then.

    Returns the run. If another process with the same sweep has finished it meanwhile, nothing is written and that run
    is returned.
    """
    store = trial.store
    if done := store.finished(run.id, trial.config.evaluate, trial.config.save):
        return done
    raised: BaseException | None = None
    try:
        if model is not None and run.history and run.status in (*UNDER_WAY, "interrupted") and _has_diverged(model):
            run.status, run.advice = "diverged", DIVERGED_ADVICE
        if model is not None and run.history and run.status in (*UNDER_WAY, "interrupted", "out_of_memory"):
            _save(trial, run, model, evaluate and run.status == "training", write)
            if evaluate and run.status != "out_of_memory":
                stopped = " It was stopped; stop again to leave that out." if run.status == "interrupted" else ""
                say(f"Scoring {run.label} ...{stopped}")
                _score(run, replace(trial.base, model=model), trial.task, trial.config)
        judge(run, trial.base)
    except KeyboardInterrupt:
        run.status = "interrupted"
    except BaseException as error:
        raised = error
        end([run], "interrupted", reason(error))
    with termination_waits():
        kept = store.keep(run) if write else run
        store.forget_scratch(run)
    if raised:
        raise raised
    return kept


def _has_diverged(model: Model) -> bool:
    """Whether the last update, whose loss nobody has computed, has left a model that gives no numbers."""
    try:
        return not checkpoints.gives_numbers(model)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False  # not known: it is saved


def _save(trial: Trial, run: Run, model: Model, scored_next: bool, write: bool) -> None:
    """Save what was trained and the record as it is so far: scoring may be stopped, or run out of memory."""
    model.eval()
    if scored_next:
        run.status = "scoring"
    if not write:
        return
    with termination_waits():
        if trial.config.save:
            with trial.store.saving(run) as folder:
                run.artifact_bytes = checkpoints.save(model, folder)
                _check_saved(trial, run, model, folder)
                run.artifact = run.id
                if trial.method.name == "full":  # the folder is then a base by itself; its size is that of the weights
                    trial.base.tokenizer.save_pretrained(folder)
        trial.store.keep(run)


def _check_saved(trial: Trial, run: Run, model: Model, folder: Path) -> None:
    """Raise AdapterError, which ends the run as interrupted, if what was saved is not what was trained."""
    try:
        checkpoints.check_saved(trial.base, model, folder)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        say(f"{run.label}: too little memory to load back what was saved; it is not compared with what was trained.")


def _score(run: Run, tuned: Base, task: Task, config: TrainConfig) -> None:
    """Fill in the scores; if memory runs out, the run is kept without them."""
    try:
        scores = scores_of(tuned, task, config)
    except TrainingError as error:
        kept = "saved" if run.artifact else "not saved"
        run.status, run.advice = "out_of_memory", f"Trained and {kept}. {error}"
        return
    metrics = {name: value for name, value in scores.items() if math.isfinite(value)}
    if any(name in run.before or not run.before for name in scores.keys() - metrics.keys()):
        run.status, run.advice = "diverged", DIVERGED_ADVICE
        return
    run.metrics, run.right = metrics, scores.right
    known = ("general_loss", "fact_accuracy")
    if all(name in scores for name in known for scores in (run.before, metrics)):
        run.forgetting = evaluation.forgetting(run.before, metrics)


def judge(run: Run, base: Base) -> None:
    """The status of a run that has come to its end: finished, or destroyed if its loss is far above the base's own.

    A run is also destroyed if it is as bad as guessing; and if it is no better than the base, and its loss rose far
    during training or every token is equally likely at the end. The two losses are those of the test rows; without
    scores, those of the first step, before any update, and of the last steps; of steps of a few rows only guessing, and
    tokens that are equally likely, count.
    """
    if run.status not in UNDER_WAY:
        return
    run.status = "finished"
    if not run.history:
        return
    losses = [entry["loss"] for entry in run.history]
    first, last = run.before.get("loss"), run.metrics.get("loss")
    known = True
    if first is None or last is None:
        first, last = losses[0], median(losses[-LAST_STEPS:])
        # The loss of a few rows says little about that of others.
        known = run.config.get("batch_size", SURE_ROWS) * run.config.get("accumulation", 1) >= SURE_ROWS
    guessing = math.log(base.model.config.get_text_config().vocab_size)
    blown_up = known and _far_above(max(losses), max(losses[0], first)) and last > NO_BETTER * first
    as_likely = all(abs(loss / guessing - 1) < SAME for loss in losses[-LAST_STEPS:])  # every token is
    dead = as_likely and last > NO_BETTER * first and len(losses) > LAST_STEPS
    if blown_up or dead or (known and _far_above(last, first)) or last > max(first + 1, GUESSING * guessing):
        run.status = "destroyed"
        run.advice = (
            f"The loss is {last:.3g} nats a token, the base's own {first:.3g} and the highest during training "
            f"{max(losses):.3g}: the model is destroyed. Lower the learning rate, or lengthen the warm-up."
        )


def _far_above(loss: float, base: float) -> bool:
    return loss > 2 * base + 1


def finite_scores(scores: dict[str, float]) -> tuple[dict[str, float], str | None]:
    """The scores of a base that are finite, which alone a record can hold, and a sentence about the others."""
    finite = {name: value for name, value in scores.items() if math.isfinite(value)}
    others = ", ".join(sorted(scores.keys() - finite.keys()))
    return finite, f"Left out, because they are not finite for the base: {others}." if others else None


def scores_of(base: Base, task: Task, config: TrainConfig) -> Scores:
    """The scores of a base or of a tuned model; raises TrainingError if memory runs out."""
    try:
        return evaluation.evaluate(base, task, config.test_limit, config.max_length)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError("Scoring ran out of memory: lower test_limit, or set evaluate=False.") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: CUDA has its own exception, the CPU allocator a RuntimeError."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory"))
    )


def reason(error: BaseException) -> str:
    """What ended a training, as its record says it."""
    return f"Ended by {type(error).__name__}: {first_line(error).rstrip('.')}."
