"""Forgetting at equal score: the learning rate that forgets least among those that score well enough."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from workbench.results.rows import Row, at_best_rate, grouped, mean_of, swept_rate, usable

ENOUGH = 0.9  # of the lower of the best scores


@dataclass(frozen=True)
class AtRate:
    """The mean over seeds of a setting's rows at one learning rate. forgetting: nats a token of general text."""

    learning_rate: float
    exact_match: float
    forgetting: float
    seeds: int


def means_by_rate(rows: Iterable[Row]) -> list[AtRate]:
    """The finished rows of one setting, a mean for each learning rate, in rising order of the rates."""
    rates = grouped(usable(usable(rows, "exact_match"), "forgetting"), swept_rate)
    return [
        AtRate(rate, mean_of(own, "exact_match"), mean_of(own, "forgetting"), len(own))
        for rate, own in sorted(rates.items())
    ]


def at_best_score(rows: Sequence[Row]) -> AtRate:
    """The mean at the best rate of one setting, which has finished rows."""
    rate = swept_rate(at_best_rate(rows)[0])
    return next(one for one in means_by_rate(rows) if one.learning_rate == rate)


def at_equal_score(settings: Mapping[str, Sequence[Row]], enough: float = ENOUGH) -> tuple[float, dict[str, AtRate]]:
    """A score that all settings reach, and for each the rate that forgets least among those that reach it.

    settings: name -> rows of one task. The score is `enough` times the lowest of their best ones. Raises ValueError if
    a setting has no finished row.
    """
    found = {name: means_by_rate(rows) for name, rows in settings.items()}
    if lacking := [name for name, means in found.items() if not means]:
        raise ValueError(f"{', '.join(lacking)} has no finished row with a score and forgetting; pass other rows.")
    score = enough * min(max(one.exact_match for one in means) for means in found.values())
    least = {
        name: min((one for one in means if one.exact_match >= score), key=lambda one: one.forgetting)
        for name, means in found.items()
    }
    return score, least
