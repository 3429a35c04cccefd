"""Which differences count: the sampling noise of exact match, a share of the scored rows, and a bound on forgetting."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, hypot, inf, log, sqrt
from typing import Any

from workbench.scoring.scores import unpack_rows
from workbench.tasks.tasks import SWEEP_FACTS

CLEAR_FORGETTING = 0.1  # nats a token on general text: the right token is a tenth less likely
DOUBLED = log(2)  # nats a token: the perplexity is twice what it was
MOST_NATS = 700.0  # e to more of them is no number
FIRST_STUDY_ROWS = 120  # that a run of the first study was scored on, of `facts` all of them; its rows do not say so


def rows_scored(test_rows: int, test_limit: int | None) -> int:
    """How many of `test_rows` rows a run is scored on with `TrainConfig.test_limit`: the first ones, or all."""
    return min(test_limit or test_rows, test_rows)


def rows_of(row: Mapping[str, Any]) -> int:
    """How many test rows a stored run was scored on."""
    if row.get("right"):
        return len(unpack_rows(row["right"]))
    return SWEEP_FACTS if row.get("task") == "facts" else FIRST_STUDY_ROWS


def two_standard_errors(share: float, rows: int) -> float:
    """Sampling noise of a share measured on `rows` test rows: twice sqrt(p (1 - p) / n).

    With two hits and two misses added (Agresti and Coull, 1998), so that 0 of 8 is not taken for certainty.
    """
    p, n = (share * rows + 2) / (rows + 4), rows + 4
    return 2 * sqrt(p * (1 - p) / n)


def times_of_perplexity(nats: float) -> float:
    """The factor of perplexity for nats a token; infinite beyond what a number holds, as for a destroyed model."""
    return exp(nats) if nats < MOST_NATS else inf


def times_in_words(ratio: float) -> str:
    """A multiple in few digits, for "... times"."""
    return f"{ratio:.2g}" if ratio < 100 else f"{ratio:,.0f}" if ratio < 1e6 else f"{ratio / 1e6:,.0f} million"


def perplexity_in_words(nats: float) -> str:
    """How many times the base's perplexity it is, after so many nats a token were lost."""
    return times_in_words(times_of_perplexity(nats))


def noise_of_difference(*samples: tuple[float, int]) -> float:
    """Two standard errors of the difference of two shares. samples: (share, rows) of both."""
    return hypot(*(two_standard_errors(share, rows) for share, rows in samples))
