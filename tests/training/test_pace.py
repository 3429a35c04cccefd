"""The time left: told from warm steps, with the scoring, and running down."""

import pytest

from workbench.training import pace
from workbench.training.pace import Pace, duration_in_words


def clocked(monkeypatch, seconds: list[float], **settings) -> Pace:
    """A pace whose steps take what `seconds` says."""
    ends = [0.0]
    for each in seconds:
        ends.append(ends[-1] + each)
    times = iter(ends)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(times))
    return Pace(**settings)


def test_slow_first_steps_do_not_count(monkeypatch):
    timed, left, said = clocked(monkeypatch, [9, 3, 1, 1, 1], steps=60, scoring=30), [], []
    for _ in range(5):
        timed.tick()
        left.append(timed.seconds_left)
        said.append(timed.announcement)
    assert left == [9 * 59 + 30, 3 * 58 + 30, 57 + 30, 56 + 30, 55 + 30]
    assert said == [None, None, "60 steps of 1 s: 87 s left, 30 s of them for the scores", None, None]


def test_the_pace_follows_the_last_steps(monkeypatch):
    timed = clocked(monkeypatch, [1.0] * 10 + [2.0] * 5, steps=20)
    for _ in range(15):
        timed.tick()
    assert timed.seconds_left == 10


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_trainings_are_announced_too(monkeypatch, steps):
    timed, said = clocked(monkeypatch, [2.0] * steps, steps=steps), []
    for _ in range(steps):
        timed.tick()
        said.append(timed.announcement)
    assert said[:-1] == [None] * (steps - 1) and said[-1].startswith(f"{steps} steps of 2 s: 0 s left")


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (89, "89 s"), (234, "3.9 minutes"), (7560, "2.1 hours")])
def test_durations_in_words(seconds, words):
    assert duration_in_words(seconds) == words
