"""The stored reference study of retrieval: its rows, and methods compared query by query.

A setting's learning rate is chosen by one seed on the validation queries; other seeds, at that rate, are compared on
the test queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from workbench.paths import DATA
from workbench.results.paired import paired_interval
from workbench.retrieval.metrics import Interval, unpack_ranks
from workbench.stored import read_json_lines

RETRIEVAL = DATA / "reference" / "retrieval.jsonl"
PAGE_STUDY = DATA / "reference" / "pages.jsonl"  # the same for pages as images: needs a GPU, not run yet
BASE, FULL, LORA = "base", "full", "lora r=8"
CHOOSING, COMPARING = 0, (1, 2, 3)  # seeds
MARGIN = 0.01  # NDCG@10: methods that are closer are on par


class RetrievalRow(TypedDict, total=False):
    """One run of the study; see data/reference/README.md."""

    name: str
    part: str
    seed: int
    rate: float
    ranks: str
    ndcg: float
    same_need: float
    kept: float
    cut: dict[str, float]
    merging_error: float | None
    trainable_parameters: int
    seconds: float
    losses: list[float]
    corpus_sha256: str


Row = dict[str, Any]


def retrieval_rows(file: Path = RETRIEVAL) -> list[Row]:
    """The rows of the study as far as it has come. Raises DamagedError, naming the line, if one is not whole."""
    remedy = "restore the file from the repository, or delete this line if you added it"
    return read_json_lines(file, RetrievalRow, remedy) if file.exists() else []


def names(rows: Iterable[Row]) -> list[str]:
    """The settings that can be compared: the base, and those with all compared seeds at their chosen rate."""
    rows = list(rows)
    known = dict.fromkeys(row["name"] for row in rows)
    return [name for name in known if name == BASE or len(at_chosen_rate(rows, name)) >= len(COMPARING)]


def best_rate(rows: Iterable[Row], name: str) -> float | None:
    """The learning rate with the best NDCG@10 on the validation queries; None if none was tried."""
    swept = [row for row in rows if (row["name"], row["part"]) == (name, "validation")]
    return max(swept, key=lambda row: row["ndcg"])["rate"] if swept else None


def at_chosen_rate(rows: Sequence[Row], name: str) -> list[Row]:
    """The test rows of a setting at the rate that was chosen for it: one a seed, or the base's one."""
    rate = best_rate(rows, name)
    own = [row for row in rows if (row["name"], row["part"]) == (name, "test")]
    return sorted((row for row in own if name == BASE or row["rate"] == rate), key=lambda row: row["seed"])


def scores(rows: Sequence[Row], name: str, measure: str = "ndcg") -> np.ndarray[Any, Any]:
    """A measure of `Ranks` for each seed and test query, (seeds, queries). Raises ValueError without rows."""
    own = at_chosen_rate(rows, name)
    if not own:
        raise ValueError(f"The study has no test rows of {name!r}; it has {', '.join(names(rows)) or 'none'}.")
    return np.stack([getattr(unpack_ranks(row["ranks"]), measure) for row in own])


def compare(rows: Sequence[Row], first: str, second: str, measure: str = "ndcg") -> Interval:
    """The first setting less the second: the mean difference and its 95 % interval over queries and seeds.

    The base has no seeds: against it, the interval is that of the setting's own seeds and queries.
    """
    pair = [scores(rows, name, measure) for name in (first, second)]
    seeds = max(map(len, pair))
    one, two = (np.repeat(each, seeds, axis=0) if len(each) == 1 else each for each in pair)
    low, high = paired_interval(one, two)
    return Interval(float(one.mean() - two.mean()), float(low), float(high))
