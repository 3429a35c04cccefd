"""Rows of the study of search, made up: settings with a given chance to rank the right document first."""

from __future__ import annotations

import numpy as np

from workbench.retrieval.metrics import Ranks, pack_ranks
from workbench.retrieval.rows import BASE, CHOOSING, COMPARING


def ranks(share: float, seed: int, queries: int = 400) -> Ranks:
    """A share of the queries finds its document first; which ones, depends little on the seed."""
    ease = np.random.default_rng(0).random(queries) + 0.05 * np.random.default_rng(seed).standard_normal(queries)
    return Ranks(np.where(ease < share, 1, 20))


def row(name: str, part: str, seed: int, share: float, rate: float = 1e-3, queries: int = 400) -> dict:
    found = ranks(share, seed, queries)
    means = found.means()
    return {
        "name": name,
        "part": part,
        "seed": seed,
        "rate": 0.0 if name == BASE else rate,
        "ndcg": means["ndcg@10"],
        "recall": means["recall@10"],
        "mrr": means["mrr"],
        "cut": {"192": 0.9 * means["ndcg@10"], "48": 0.6 * means["ndcg@10"]},
        "same_need": 0.6,
        "kept": 1.0 if name == BASE else 0.9 - 0.01 * seed,
        "ranks": pack_ranks(found),
    }


def search_rows(base: float = 0.5, queries: int = 400, **shares: float) -> list[dict]:
    """A base, and for each setting two rates on validation queries and three seeds on the test, at the better rate.

    shares: "full" or "lora" (of rank 8), or any other name -> the share of test queries that are found first.
    """
    rows = [row(BASE, "test", 0, base, queries=queries)]
    for short, share in shares.items():
        name = {"lora": "lora r=8"}.get(short, short)
        rows += [row(name, "validation", CHOOSING, share - 0.1 * (rate > 1e-3), rate) for rate in (1e-3, 2e-3)]
        rows += [row(name, "test", seed, share, queries=queries) for seed in COMPARING]
        rows.append(row(name, "test", COMPARING[0], 0.01, 2e-3, queries))  # at a rate that was not chosen
    return rows
