"""Rank, alpha and learning rate found by trying: several settings in one pass, the better half kept at each stage.

This is successive halving (Jamieson and Talwalkar, 2016) on training rows that are held out of the trial; test rows are
never read. All settings train in one pass over the frozen base, under the schedule of the whole run, so that none is
judged by a shorter one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory

import torch

from workbench.adapters.batched import fits_a_slice
from workbench.adapters.methods import Method
from workbench.console import say
from workbench.errors import TrainingError
from workbench.models.base import Base
from workbench.models.sharing import in_float32, own_precision, shared_copy
from workbench.scoring.evaluation import score
from workbench.sweeps.passes import needs
from workbench.tasks.encoding import Encoded, encode
from workbench.tasks.splitting import hold_out
from workbench.tasks.tasks import Task
from workbench.training.lifecycle import alone_in_this_process
from workbench.training.loop import OnStep, accelerator_for, fit, make_slot
from workbench.training.pace import duration_in_words
from workbench.training.runs import Run
from workbench.training.step import Slot, TrainConfig
from workbench.training.store import RunStore
from workbench.training.trial import Trial

# Multiples of the rank, alpha and learning rate that the rule gives, the likeliest to win first. Scaling is alpha / r.
TRIED = ((1, 1, 1), (1, 1, 2), (1, 1, 0.5), (1, 4, 1), (2, 1, 2), (1, 4, 0.5), (4, 4, 0.5), (2, 2, 1))
STAGES = (1 / 6, 1 / 3, 2 / 3)  # of the steps, after which the settings are scored and the worse half is dropped
FEWEST = 2  # settings: one alone is no choice
HELD_OUT = 48  # training rows at most, on which settings are scored
HELD_SHARE = 0.2  # of the training rows, if that is less
TIMED_STEP = 3  # after which the time of a step is known; the first two warm up


@dataclass
class Tried:
    """One setting and how it did: stage -> loss on the held-out rows (nats a token) and exact match there (a share)."""

    method: Method
    scores: dict[int, tuple[float, float]] = field(default_factory=dict)
    dropped: str = ""  # why it was not followed further

    def sentence(self) -> str:
        """The same as `row`, in words."""
        method = f"Rank {self.method.rank}, alpha {self.method.alpha:g}, learning rate {self.method.learning_rate:g}"
        if not self.scores:
            return f"{method}: {self.dropped}."
        last = max(self.scores)
        loss, exact = self.scores[last]
        return f"{method}: {loss:.3f} nats, {exact:.0%} exact after step {last}; {self.dropped or 'chosen'}."

    def row(self) -> dict[str, object]:
        """For a table: the setting, the step of its last score, that score, its outcome, and all losses by step."""
        last = max(self.scores, default=0)
        loss, exact = self.scores.get(last, (math.nan, math.nan))
        return {
            "rank": self.method.rank,
            "alpha": self.method.alpha,
            "learning_rate": self.method.learning_rate,
            "steps": last,
            "held_out_loss": None if math.isnan(loss) else loss,
            "held_out_exact_match": None if math.isnan(exact) else exact,
            "losses": {step: loss for step, (loss, _) in self.scores.items() if math.isfinite(loss)},
            "outcome": self.dropped or "chosen",
        }


@dataclass
class Trying:
    """What was tried, the chosen one first, and what it took. rows: how many were held out; recalled: none could be."""

    tried: list[Tried]
    rows: int
    recalled: bool
    seconds: float
    runs_worth: float  # of one run of the same steps, by steps of a setting

    def table(self) -> list[dict[str, object]]:
        """What was tried, as rows."""
        return [each.row() for each in self.tried]

    def reasons(self, steps: int) -> list[str]:
        """Why the first one was chosen, and a sentence on each setting. steps: of a whole run."""
        what = (
            f"{self.rows} training rows, which are also the rows to be recalled"
            if self.recalled
            else f"{self.rows} training rows that were held out, never on test rows"
        )
        return [
            f"Tried: {len(self.tried)} settings in one pass of up to {stages(steps)[-1]} of {steps} steps, judged by "
            f"the loss on {what}. It took {duration_in_words(self.seconds)}, the steps of {self.runs_worth:.1f} runs.",
            *(each.sentence() for each in self.tried),
        ]

    @property
    def chosen(self) -> Tried:
        """The setting that was best on the held-out rows at the last stage that it reached."""
        return self.tried[0]


def settings_around(first: Method) -> list[Method]:
    """The settings that are tried, the rule's own first."""
    rank, alpha = first.rank or 1, first.alpha or 1.0
    return [
        replace(first, rank=rank * r, alpha=alpha * a, learning_rate=first.learning_rate * rate, reasons=())
        for r, a, rate in TRIED
    ]


def stages(steps: int) -> list[int]:
    """The steps after which settings are scored: whole numbers, rising."""
    return sorted({max(1, round(share * steps)) for share in STAGES})


def halved(count: int) -> int:
    """How many of so many settings go on to the next stage: the better half, and two at least, to be compared there."""
    return min(count, max(FEWEST, math.ceil(count / 2)))


def cost_in_steps(count: int, steps: int, scoring: float = 0.0) -> float:
    """Steps of one setting that trying `count` of them takes. scoring: how many such steps scoring one takes."""
    total, before = 0.0, 0
    for stage in stages(steps):
        total += count * (stage - before + scoring)
        before, count = stage, halved(count)
    return total


@own_precision()
def try_settings(
    base: Base,
    task: Task,
    settings: Sequence[Method],
    config: TrainConfig,
    budget_minutes: float,
    on_step: OnStep | None = None,
) -> Trying:
    """Train the settings together and halve them at each stage; as many of them, from the first, as the budget allows.

    Raises TrainingError if the budget or the memory is too small for FEWEST settings, or if all diverge.
    """
    learnt, held, recalled = _divided(task, config)
    if not fits_a_slice(base, settings[0]):
        raise TrainingError("These settings cannot share a pass, so they cannot be tried at once: use `sweep`.")
    started = time.perf_counter()
    rows = encode(learnt.train, base.tokenizer, config.max_length, "Train row")
    scored = encode(held.train, base.tokenizer, config.max_length, "Held-out train row")
    own = replace(config, evaluate=False, save=False)
    with TemporaryDirectory() as scratch:
        store = RunStore(scratch)
        trials = [Trial(f"try-{n}", base, learnt, method, own, store) for n, method in enumerate(settings)]
        trials = trials[: _fitting(trials)]
        halving = _Halving([Tried(trial.method) for trial in trials], scored, own, 60 * budget_minutes, started)
        with alone_in_this_process(), torch.inference_mode(False), torch.enable_grad():
            accelerator = accelerator_for(base)
            runs = [trial.new_run() for trial in trials]
            slots = [make_slot(trial, run, rows, accelerator) for trial, run in zip(trials, runs, strict=True)]
            halving.known = {id(run): each for run, each in zip(runs, halving.tried, strict=True)}
            fit(accelerator, base, slots, True, on_step, choose=halving)
            accelerator.free_memory()
    return Trying(
        halving.ranked(runs), len(scored), recalled, time.perf_counter() - started, halving.setting_steps / own.steps
    )


def _divided(task: Task, config: TrainConfig) -> tuple[Task, Task, bool]:
    """The rows to train on and those to score on, as tasks, and whether these are the same.

    They are where the test rows are the training rows: what is to be learnt by heart cannot be held out.
    """
    recalled = set(task.test) <= set(task.train)
    if recalled:
        return task, replace(task, train=task.train[:HELD_OUT]), True
    share_held = min(HELD_SHARE, HELD_OUT / len(task.train))
    texts = [row.prompt for row in task.train]
    kept, held = hold_out(texts, range(len(texts)), share_held, config.seed)
    sides = [tuple(task.train[place] for place in places) for places in (kept, held)]
    return replace(task, train=sides[0]), replace(task, train=sides[1]), False


def _fitting(trials: Sequence[Trial]) -> int:
    """How many of the trials, from the first, fit into memory together."""
    needed = needs(trials)
    room = needed.room(trials[0].base.model.device)
    count = next((n for n in range(len(trials), 0, -1) if needed.of(range(n)) <= room), 0)
    if count < FEWEST:
        raise TrainingError("Two settings do not fit into memory together: lower batch_size or max_length.")
    return count


@dataclass
class _Halving:
    """Called after each step with the slots that are left; returns those that continue."""

    tried: list[Tried]
    rows: Sequence[Encoded]
    config: TrainConfig
    budget: float  # seconds
    started: float
    known: dict[int, Tried] = field(default_factory=dict)
    setting_steps: int = 0
    timed_from: float = 0.0

    def cost(self, count: int) -> float:
        """Steps of one setting that trying so many takes; a forward pass alone takes a third of a step."""
        scoring = len(self.rows) / (3 * self.config.batch_size * self.config.accumulation)
        return cost_in_steps(count, self.config.steps, scoring)

    def __call__(self, step: int, slots: list[Slot]) -> list[Slot]:
        self.setting_steps += len(slots)
        if step == TIMED_STEP - 1:
            self.timed_from = time.perf_counter()
        if step == TIMED_STEP:
            slots = self._within_budget(slots, time.perf_counter() - self.timed_from)
        return self._better_half(step, slots) if step in stages(self.config.steps) else slots

    def _within_budget(self, slots: list[Slot], seconds: float) -> list[Slot]:
        """The first slots whose whole trying takes no longer than the budget, at the pace of this step."""
        a_setting = seconds / len(slots)
        spent = time.perf_counter() - self.started - TIMED_STEP * seconds
        count, fewest = len(slots), min(FEWEST, len(slots))  # one may be all that has not diverged
        while count >= fewest and spent + a_setting * self.cost(count) > self.budget:
            count -= 1
        if count < fewest:
            least = spent + a_setting * self.cost(FEWEST)
            raise TrainingError(
                f"Trying {FEWEST} settings takes about {duration_in_words(least)}, more than budget_minutes="
                f"{self.budget / 60:g}. Raise it, take fewer steps, or leave it out: the rule takes seconds."
            )
        for slot in slots[count:]:
            self.known[id(slot.run)].dropped = "not tried further: the budget"
        left = a_setting * self.cost(count)
        say(f"Trying {count} settings in one pass: about {duration_in_words(left)}")
        return slots[:count]

    def _better_half(self, step: int, slots: list[Slot]) -> list[Slot]:
        for slot in slots:
            scores = score(shared_copy(in_float32(slot.model)).eval(), self.rows)
            self.known[id(slot.run)].scores[step] = (scores["loss"], scores["exact_match"])
        ranked = sorted(slots, key=lambda slot: self._loss(slot.run, step))
        last = step == stages(self.config.steps)[-1]
        count = 1 if last else halved(len(slots))
        for slot in ranked[count:]:
            self.known[id(slot.run)].dropped = f"dropped after step {step}"
        kept = set() if last else {id(slot) for slot in ranked[:count]}  # after the last stage all is known
        return [slot for slot in slots if id(slot) in kept]

    def _loss(self, run: Run, step: int) -> float:
        loss = self.known[id(run)].scores[step][0]
        return loss if math.isfinite(loss) else math.inf

    def ranked(self, runs: Sequence[Run]) -> list[Tried]:
        """All settings, those that came further first, then by loss. Raises TrainingError if all have diverged."""
        diverged = [self.known[id(run)] for run in runs if run.status == "diverged"]
        for each in diverged:
            each.dropped = "diverged"

        def key(each: Tried) -> tuple[bool, int, float]:
            last = max(each.scores, default=0)
            return each in diverged, -last, each.scores.get(last, (math.inf, 0.0))[0]

        ranked = sorted(self.tried, key=key)
        if ranked[0] in diverged or not ranked[0].scores:
            raise TrainingError("Every setting diverged: lower the learning rate, or lengthen the warm-up.")
        ranked[0].dropped = ""
        return ranked
