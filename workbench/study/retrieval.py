"""The reference study of lesson 09: an encoder tuned for search in full, with LoRA and as a hybrid.

    .venv/bin/python -m workbench.study.retrieval

Each setting's learning rate is swept on one seed and chosen on the validation queries; three other seeds are measured
on the test queries. Every run is appended to data/reference/retrieval.jsonl, and what is there is skipped, so that it
can be stopped and started again at any time. About two hours of one core.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from workbench.adapters.methods import Method, full, hybrid, lora
from workbench.retrieval.corpus import read_corpus
from workbench.retrieval.experiment import Experiment, scores_of
from workbench.retrieval.rows import BASE, CHOOSING, COMPARING, RETRIEVAL, best_rate, retrieval_rows

LAST_MLP = ("layer.5.intermediate", "layer.5.output")  # of MiniLM's six blocks
WIDENED = 3  # times that a grid of rates grows at one end, at most


@dataclass(frozen=True)
class Setting:
    """A method for a learning rate (and LoRA's best rate, for a hybrid), and the first rates that are tried."""

    make: Callable[[float, float], Method]
    rates: tuple[float, ...]


def _lora(rank: int) -> Setting:
    return Setting(lambda rate, _: lora(rank, 2 * rank, rate), (5e-4, 1e-3, 2e-3))


SETTINGS = {
    "lora r=8": _lora(8),
    "full": Setting(lambda rate, _: full(rate), (5e-5, 1e-4, 2e-4)),
    "hybrid": Setting(
        lambda rate, adapters: hybrid(LAST_MLP, 8, 16, adapters, full_learning_rate=rate), (5e-5, 1e-4, 2e-4)
    ),
    "lora r=2": _lora(2),
    "lora r=32": _lora(32),
}


@cache
def experiment(part: str) -> Experiment:
    """The experiment on the test or the validation queries; both train on the same rows."""
    return Experiment(read_corpus(part))


def main() -> None:
    """Measure the base, then sweep and measure each setting."""
    for part in ("test", "validation"):
        if not _stored(BASE, part, CHOOSING, 0.0):
            _append(BASE, part, CHOOSING, 0.0, scores_of(*[experiment(part).before] * 2))
    for name in SETTINGS:
        choose_rate(name)
        for seed in COMPARING:
            measure(name, "test", seed, best_rate(retrieval_rows(RETRIEVAL), name) or 0.0)


def choose_rate(name: str) -> None:
    """Sweep a setting's rate on the choosing seed, by factors of two, until the best is at neither end."""
    tried = list(SETTINGS[name].rates)
    for rate in tried:
        measure(name, "validation", CHOOSING, rate)
    for _ in range(WIDENED):
        best = best_rate(retrieval_rows(RETRIEVAL), name) or 0.0
        if min(tried) < best < max(tried):
            return
        tried.append(best * 2 if best == max(tried) else best / 2)
        measure(name, "validation", CHOOSING, tried[-1])


def measure(name: str, part: str, seed: int, rate: float) -> None:
    """Train a setting and append its row, unless it is stored."""
    if _stored(name, part, seed, rate):
        return
    adapters = best_rate(retrieval_rows(RETRIEVAL), "lora r=8") or 0.0
    outcome, _ = experiment(part).run(SETTINGS[name].make(rate, adapters), seed)
    record = experiment(part).record(outcome)
    row = {key: value for key, value in record.items() if key not in ("before", "after", "seed")}
    _append(name, part, seed, rate, scores_of(outcome.after, experiment(part).before) | row)


def _stored(name: str, part: str, seed: int, rate: float) -> bool:
    texts = experiment(part).corpus.sha256
    own = (name, part, seed, rate, texts)
    return any(
        (row["name"], row["part"], row["seed"], row["rate"], row["corpus_sha256"]) == own
        for row in retrieval_rows(RETRIEVAL)
    )


def _append(name: str, part: str, seed: int, rate: float, measures: dict[str, Any]) -> None:
    row = {"name": name, "part": part, "seed": seed, "rate": rate, **measures, **experiment(part).provenance()}
    with RETRIEVAL.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{name} {rate:g} seed {seed}, {part}: NDCG@10 {row['ndcg']:.4f}, kept {row['kept']:.4f}", flush=True)


if __name__ == "__main__":
    main()
