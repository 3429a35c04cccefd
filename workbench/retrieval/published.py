"""Published scores of encoders tuned to search pages, from data/published_retrieval.csv: what a source really says."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from workbench.paths import DATA
from workbench.retrieval.metrics import NORMAL, Interval


@dataclass(frozen=True)
class PublishedScore:
    """NDCG@10 of one model in an experiment: "base", "lora" or "full"."""

    experiment: str
    method: str
    ndcg: float
    queries: int
    source: str

    @property
    def widest(self) -> float:
        """The half width of the widest 95 % interval that a mean of so many scores between 0 and 1 can have.

        The variance of such scores is at most m (1 - m) (Bhatia and Davis, 2000); the scores of the single queries,
        which would tell more, were not published.
        """
        return NORMAL * sqrt(self.ndcg * (1 - self.ndcg) / self.queries)


def published_scores() -> list[PublishedScore]:
    """All rows of the table."""
    with (DATA / "published_retrieval.csv").open(encoding="utf-8", newline="") as file:
        return [
            PublishedScore(
                row["experiment"], row["method"], float(row["ndcg_at_10"]), int(row["queries"]), row["source"]
            )
            for row in csv.DictReader(file)
        ]


def difference(first: PublishedScore, second: PublishedScore) -> Interval:
    """The first less the second, with the widest interval that two samples of queries allow."""
    centre, half = first.ndcg - second.ndcg, sqrt(first.widest**2 + second.widest**2)
    return Interval(centre, centre - half, centre + half)


def by_method(scores: Iterable[PublishedScore], experiment: str) -> dict[str, PublishedScore]:
    """Method -> its score in one experiment."""
    return {score.method: score for score in scores if score.experiment == experiment}
