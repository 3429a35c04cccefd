"""How long a training still takes: its remaining steps at the pace of the last ones, and the scoring after them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median

WARM_UP = 2  # steps: the first is slow, and the memory of the second is measured
LAST = 5  # steps, whose median is the pace


@dataclass
class Pace:
    """Times the steps of a training. scoring: the seconds that its scores take afterwards."""

    steps: int
    scoring: float = 0.0
    ends: list[float] = field(default_factory=lambda: [time.perf_counter()])

    @property
    def done(self) -> int:
        """The number of steps so far."""
        return len(self.ends) - 1

    def tick(self) -> None:
        """Note that a step has ended, with what `on_step` did after the step before it."""
        self.ends.append(time.perf_counter())

    @property
    def seconds_a_step(self) -> float:
        """The median of the last steps, those that warm up left out where there are others."""
        taken = [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)]
        return median((taken[WARM_UP:] or taken[-1:])[-LAST:])

    @property
    def seconds_left(self) -> float:
        """Until the scores are there."""
        return self.seconds_a_step * (self.steps - self.done) + self.scoring

    @property
    def announcement(self) -> str | None:
        """What is said once, after the first step that is warm; None after every other step."""
        if self.done != min(WARM_UP + 1, self.steps):
            return None
        scoring = f", {duration_in_words(self.scoring)} of them for the scores" if self.scoring >= 1 else ""
        return (
            f"{self.steps} steps of {self.seconds_a_step:.2g} s: {duration_in_words(self.seconds_left)} left{scoring}"
        )


def duration_in_words(seconds: float) -> str:
    """A duration as a person says it: "45 s", "3.9 minutes", "2.1 hours"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
