"""How good a ranking is: NDCG@k, recall@k and the reciprocal rank; and what chance in the queries does to a difference.

Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques" (2002), with the gain that trec_eval takes:
the grade itself, not 2^grade - 1. Documents of equal similarity are ranked by their place in the corpus.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import RetrievalError

Array = NDArray[Any]
TOP = 10
CONFIDENCE = 0.95
NORMAL = 1.96  # standard errors to both sides of a mean that make an interval of this confidence
RESAMPLES = 2_000


def ranking(similarities: Array) -> Array:
    """The places of the documents from the most similar to the least; equal ones in the order of the corpus."""
    return np.argsort(-np.asarray(similarities), kind="stable")


def ndcg(ranked: Sequence[int], relevant: Mapping[int, int], k: int = TOP) -> float:
    """The discounted gain of the first k documents, as a share of that of the best ranking.

    relevant: document -> grade above 0. A document at rank i gains its grade / log2(1 + i). Raises RetrievalError
    without a relevant document.
    """
    gains = [_check(relevant).get(document, 0) for document in ranked[:k]]
    return _discounted(gains) / _discounted(sorted(relevant.values(), reverse=True)[:k])


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / log2(1 + rank) for rank, gain in enumerate(gains, start=1))


def recall(ranked: Sequence[int], relevant: Mapping[int, int], k: int = TOP) -> float:
    """The share of the relevant documents that are among the first k."""
    return sum(document in relevant for document in ranked[:k]) / len(_check(relevant))


def reciprocal_rank(ranked: Sequence[int], relevant: Mapping[int, int]) -> float:
    """1 / the rank of the first relevant document, 0 if there is none; its mean over queries is the MRR."""
    _check(relevant)
    return next((1 / rank for rank, document in enumerate(ranked, start=1) if document in relevant), 0.0)


def _check(relevant: Mapping[int, int]) -> Mapping[int, int]:
    if not relevant or min(relevant.values()) <= 0:
        raise RetrievalError("A query needs a relevant document, of a grade above 0; leave out queries without one.")
    return relevant


@dataclass(frozen=True)
class Ranks:
    """The rank of the one document that answers each query, and the three measures by query, which follow from it."""

    ranks: Array  # (queries,), from 1

    @property
    def ndcg(self) -> Array:
        """NDCG@10 of each query: 1 / log2(1 + rank), and 0 beyond rank 10."""
        return np.where(self.ranks <= TOP, 1 / np.log2(1 + self.ranks), 0.0)

    @property
    def recall(self) -> Array:
        """Recall@10 of each query: whether its document is among the first ten."""
        return (self.ranks <= TOP).astype(float)

    @property
    def reciprocal(self) -> Array:
        """The reciprocal rank of each query."""
        return 1 / self.ranks

    def means(self) -> dict[str, float]:
        """The three measures as means over the queries."""
        values = {"ndcg@10": self.ndcg, "recall@10": self.recall, "mrr": self.reciprocal}
        return {name: float(value.mean()) for name, value in values.items()}


def pack_ranks(ranks: Ranks) -> str:
    """The ranks of all queries as their number and a short text: two compressed bytes a query, in base 64."""
    data = np.minimum(ranks.ranks, 2**16 - 1).astype(">u2").tobytes()
    return f"{len(ranks.ranks)}:{base64.b64encode(zlib.compress(data, 9)).decode()}"


def unpack_ranks(packed: str) -> Ranks:
    """What `pack_ranks` was given. Raises ValueError for a text that it does not write."""
    parts = re.fullmatch(r"(\d{1,9}):([A-Za-z0-9+/=]+)", packed)
    try:
        ranks = np.frombuffer(zlib.decompress(base64.b64decode(parts[2])), dtype=">u2") if parts else np.empty(0)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"{packed[:40]!r} does not hold compressed ranks") from error
    if not parts or len(ranks) != int(parts[1]) or not (ranks > 0).all():
        raise ValueError(f"{packed[:40]!r} is not a number of queries, a colon and their ranks")
    return Ranks(ranks.astype(np.int64))


@dataclass(frozen=True)
class Interval:
    """A mean over queries, or a difference of two, and the ends of its 95 % interval."""

    centre: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def verdict(self) -> str:
        """ "better", "worse", or "undecided" where the interval holds 0: for a difference."""
        return ("better" if self.low > 0 else "worse") if self.low > 0 or self.high < 0 else "undecided"


def bootstrap(values: Array, seed: int = 0, queries: int | None = None) -> Interval:
    """The 95 % interval of a mean, by drawing queries with replacement (the percentile bootstrap).

    values: (queries,), of one model, or the difference of two on the same queries, which makes it a paired bootstrap.
    queries: how many are drawn each time, to ask what a smaller or a larger test would have seen. Raises
    RetrievalError for less than two queries.
    """
    values = np.asarray(values, dtype=float)
    count = len(values) if queries is None else queries
    if values.ndim != 1 or len(values) < 2 or count < 2:
        raise RetrievalError("An interval needs the scores of two queries at least, in one dimension.")
    random = np.random.default_rng(seed)
    means = [values[random.integers(len(values), size=count)].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(values.mean()), float(low), float(high))
