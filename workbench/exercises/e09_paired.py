"""Exercise 09.paired: what chance in the choice of queries does to the difference of two models."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np

from workbench.exercises.framework import Exercise, Mistake


def interval(before, after, draws):
    gains = np.array(after) - np.array(before)
    means = [gains[draw].mean() for draw in draws]
    low, high = np.quantile(means, [0.025, 0.975])
    return [float(low), float(high)]


def _unpaired(before, after, draws):
    means = [
        np.mean(np.array(after)[one]) - np.mean(np.array(before)[two])
        for one, two in zip(draws, reversed(draws), strict=True)
    ]
    return [float(end) for end in np.quantile(means, [0.025, 0.975])]


def _wrong_way(before, after, draws):
    return interval(after, before, draws)


def _extremes(before, after, draws):
    gains = np.array(after) - np.array(before)
    means = [gains[draw].mean() for draw in draws]
    return [float(min(means)), float(max(means))]


def _of_single_queries(before, after, draws):
    gains = np.array(after) - np.array(before)
    return [float(end) for end in np.quantile(gains, [0.025, 0.975])]


def _only_after(before, after, draws):
    return interval([0.0] * len(after), after, draws)


def _case(number: int, queries: int, count: int) -> tuple[list[float], list[float], list[list[int]]]:
    draw = Random(number)
    before = [draw.choice([0.0, 0.5, 1.0]) for _ in range(queries)]
    after = [min(1.0, max(0.0, score + draw.choice([0.0, 0.0, 0.5, -0.25]))) for score in before]
    return before, after, [[draw.randrange(queries) for _ in range(queries)] for _ in range(count)]


def _in_words(before: Sequence[float], after: Sequence[float], draws: Sequence[Sequence[int]]) -> str:
    if len(draws) <= 3:
        return f"before = {before}, after = {after}, draws = {[list(draw) for draw in draws]}"
    return f"{len(before)} queries and {len(draws)} draws"


PAIRED = Exercise(
    id="09.paired",
    title="how wide is the difference?",
    difficulty="medium",
    minutes=10,
    task="""\
Other queries would have given another difference. To see how different, draw queries from those that you have, with
replacement, many times (the bootstrap). Write `interval(before, after, draws)`:

- `before` and `after` hold the NDCG of every query, of two models, in the same order;
- `draws` holds many lists of places, for example `[[0, 2, 2], [1, 0, 1], ...]`: each is one drawn set of queries. Both
  models answer the *same* drawn queries;
- for each draw, take the mean of `after - before` over its queries (a query drawn twice counts twice);
- return `[low, high]`: the 2.5 % and the 97.5 % quantile of these means, by `np.quantile`.""",
    function="interval",
    stub="""\
def interval(before, after, draws):
    # returns [low, high]; numpy is here as np
    ...
""",
    solution=interval,
    explanation="That is the paired bootstrap. Because both models answer the same queries, a hard query is hard for "
    "both and drops out of the difference: the interval is far narrower than that of two separate samples.",
    hints=(
        "First the gains: np.array(after) - np.array(before), one number for each query.",
        "A numpy array takes a list of places: gains[draw] holds the gains of the drawn queries.",
        "Collect one mean for each draw, then np.quantile(means, [0.025, 0.975]).",
    ),
    show=_in_words,
    cases=(
        ([0.0, 0.5], [1.0, 0.5], [[0, 1], [1, 1], [0, 0]]),
        ([0.5, 0.5, 1.0], [0.5, 1.0, 0.0], [[0, 1, 1], [2, 1, 0], [2, 2, 0]]),
        lambda: _case(0, 20, 40),
        lambda: _case(1, 50, 100),
    ),
    wrong=(
        Mistake(
            _unpaired,
            "Your two models answer different draws. Take the difference query by query first, and draw "
            "then: otherwise luck with easy queries looks like a difference of the models.",
        ),
        Mistake(
            _wrong_way,
            "The sign is the wrong way round: a model that got better must have a difference above 0, "
            "so take after - before.",
        ),
        Mistake(
            _extremes,
            "You return the smallest and the largest mean, which grow apart with every further draw. "
            "Take the 2.5 % and 97.5 % quantiles.",
        ),
        Mistake(
            _of_single_queries,
            "Those are quantiles of single queries. The question is about the mean: draw sets "
            "of queries, take the mean of each set, then the quantiles of the means.",
        ),
        Mistake(
            _only_after, "You forgot `before`: the interval is that of the second model's score, not of the difference."
        ),
    ),
)
