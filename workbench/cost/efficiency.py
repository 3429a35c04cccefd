"""How much of the bound's speed published runs reach: one number for a GPU family and a kind of step, with an interval.

Steps of few tokens wait for kernels to be launched, whatever trains, so that a step is short or long; the bound knows
the method. Each number is the geometric mean over one half of the published step times; the other half tests it.
Memory is not involved: nothing here changes a prediction of bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from scipy.stats import t as student

from workbench.cost.gpus import gpus
from workbench.cost.other_programs import OtherRun, other_runs
from workbench.cost.published import STEPS, TOKENS, predicted_job, published_runs
from workbench.cost.roofline import job, step_phases
from workbench.memory.closed_form import estimate

SHORT, LONG = "short step", "long step"
LONG_TOKENS = 2048  # in one step
COVERAGE = 0.9  # of the interval, for a further run
FEWEST = 2  # step times that an interval is made from


@dataclass(frozen=True)
class StepTime:
    """A published step time, as the share of the bound's speed that it reached."""

    family: str
    kind: str
    label: str
    share: float


@dataclass(frozen=True)
class Efficiency:
    """The share of the bound's speed that steps of one kind reach, and where COVERAGE of further runs should lie.

    family: of GPUs; "any" if there are too few runs of one. kind: SHORT or LONG. runs: published step times that it is
    made from.
    """

    family: str
    kind: str
    share: float
    low: float
    high: float
    runs: int

    def holds(self, time: StepTime) -> bool:
        """Whether a step time lies in the interval."""
        return self.low <= time.share <= self.high


def kind_of(tokens: float) -> str:
    """The kind of a step of so many tokens: SHORT or LONG."""
    return SHORT if tokens < LONG_TOKENS else LONG


def step_times() -> list[StepTime]:
    """The published step times of runs on one GPU, whose tokens are known, in the order of the tables.

    LitGPT's are left out: they are means over rows whose mean length is not published.
    """
    table = gpus()
    found = [
        StepTime(
            table[run.gpu].family,
            kind_of(TOKENS / STEPS),
            f"PEFT: {run.label}, {run.gpu}",
            run.tokens_per_second / predicted_job(run, 1.0).tokens_per_second,
        )
        for run in published_runs()
    ]
    for run in other_runs():
        if (share := _share(run)) is not None and run.setup is not None:
            words = f"{run.program}: {run.label}, {run.gpu}"
            found.append(StepTime(table[run.gpu].family, kind_of(run.setup.tokens), words, share))
    return found


def _share(run: OtherRun) -> float | None:
    """The share of the bound's speed, None if the row does not say enough."""
    if run.setup is None or run.program == "LitGPT" or run.suspicious or run.setup.sharded or run.gpu not in gpus():
        return None
    if run.tokens_per_second is None:
        return None
    # Only the bound is used, which does not depend on a price.
    gpu = replace(gpus()[run.gpu], price_per_hour=0.0)
    bound = job(step_phases(estimate(run.model, run.setup)), gpu, run.setup.tokens, 1.0, 1.0)
    return run.tokens_per_second / bound.tokens_per_second


def halves(times: Iterable[StepTime]) -> tuple[list[StepTime], list[StepTime]]:
    """Every second step time of each family and kind, and the others."""
    groups: dict[tuple[str, str], list[StepTime]] = {}
    for time in times:
        groups.setdefault((time.family, time.kind), []).append(time)
    return (
        [time for group in groups.values() for time in group[::2]],
        [time for group in groups.values() for time in group[1::2]],
    )


def efficiency(family: str, kind: str, times: Iterable[StepTime] | None = None) -> Efficiency:
    """The efficiency of a kind of step on a family of GPUs, from `times` (default: the half that is meant for it).

    Where there are fewer than FEWEST step times of the family, those of all families are taken.
    """
    times = list(halves(step_times())[0] if times is None else times)
    own = [time for time in times if (time.family, time.kind) == (family, kind)]
    chosen = own if len(own) >= FEWEST else [time for time in times if time.kind == kind]
    logs = [math.log(time.share) for time in chosen]
    middle, count = fmean(logs), len(logs)
    spread = stdev(logs) * student.ppf((1 + COVERAGE) / 2, count - 1) * math.sqrt(1 + 1 / count)
    low, high = math.exp(middle - spread), min(1.0, math.exp(middle + spread))
    return Efficiency(family if chosen is own else "any", kind, math.exp(middle), low, high, count)
