"""The reference study of lesson 09: an encoder tuned for search in full, with LoRA and as a hybrid.

    .venv/bin/python -m workbench.study.retrieval [--pages]

Each setting's learning rate is swept on one seed and chosen on the validation queries; three other seeds are measured
on the test queries. Every run is appended to a file in data/reference, and what is there is skipped, so that it can be
stopped and started again at any time. About two hours of one core; with --pages, an encoder that reads page images,
for a GPU of 48 GB or more and the Hub.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from workbench.adapters.methods import Method, full, hybrid, lora
from workbench.retrieval.corpus import read_corpus
from workbench.retrieval.experiment import Experiment, scores_of
from workbench.retrieval.pages import page_experiment
from workbench.retrieval.rows import (
    BASE,
    CHOOSING,
    COMPARING,
    FULL,
    LORA,
    PAGE_STUDY,
    RETRIEVAL,
    best_rate,
    retrieval_rows,
)

LAST_MLP = ("layer.5.intermediate", "layer.5.output")  # of MiniLM's six blocks
PAGE_ROWS = 10_000  # as for the published numbers
WIDENED = 3  # times that a grid of rates grows at one end, at most


@dataclass(frozen=True)
class Setting:
    """A method for a learning rate (and LoRA's best rate, for a hybrid), and the first rates that are tried."""

    make: Callable[[float, float], Method]
    rates: tuple[float, ...]


def _lora(rank: int, *rates: float) -> Setting:
    return Setting(lambda rate, _: lora(rank, 2 * rank, rate), rates)


TEXT_RATES = (5e-4, 1e-3, 2e-3)
SETTINGS = {
    LORA: _lora(8, *TEXT_RATES),
    FULL: Setting(lambda rate, _: full(rate), (5e-5, 1e-4, 2e-4)),
    "hybrid": Setting(
        lambda rate, adapters: hybrid(LAST_MLP, 8, 16, adapters, full_learning_rate=rate), (5e-5, 1e-4, 2e-4)
    ),
    "lora r=2": _lora(2, *TEXT_RATES),
    "lora r=32": _lora(32, *TEXT_RATES),
}
PAGE_SETTINGS = {
    LORA: _lora(8, 1e-4, 2e-4, 4e-4),
    FULL: Setting(lambda rate, _: full(rate), (1e-5, 2e-5, 4e-5)),
}


@dataclass(frozen=True)
class Study:
    """The settings of a study, the file of its rows, and its experiment on the test or the validation queries."""

    settings: Mapping[str, Setting]
    file: Path
    experiment: Callable[[str], Experiment]


TEXTS = Study(SETTINGS, RETRIEVAL, cache(lambda part: Experiment(read_corpus(part))))
PAGES = Study(PAGE_SETTINGS, PAGE_STUDY, cache(lambda part: page_experiment(part, rows=PAGE_ROWS)))


def main() -> None:
    """Run the study of texts, or of pages."""
    parser = argparse.ArgumentParser(prog="python -m workbench.study.retrieval", description=__doc__.splitlines()[0])
    parser.add_argument("--pages", action="store_true", help="pages as images; needs a GPU")
    run(PAGES if parser.parse_args().pages else TEXTS)


def run(study: Study) -> None:
    """Measure the base, then sweep and measure each setting."""
    for part in ("test", "validation"):
        if not _stored(study, BASE, part, CHOOSING, 0.0):
            _append(study, BASE, part, CHOOSING, 0.0, scores_of(*[study.experiment(part).before] * 2))
    for name in study.settings:
        choose_rate(study, name)
        for seed in COMPARING:
            measure(study, name, "test", seed, best_rate(retrieval_rows(study.file), name) or 0.0)


def choose_rate(study: Study, name: str) -> None:
    """Sweep a setting's rate on the choosing seed, by factors of two, until the best is at neither end."""
    tried = list(study.settings[name].rates)
    for rate in tried:
        measure(study, name, "validation", CHOOSING, rate)
    for _ in range(WIDENED):
        best = best_rate(retrieval_rows(study.file), name) or 0.0
        if min(tried) < best < max(tried):
            return
        tried.append(best * 2 if best == max(tried) else best / 2)
        measure(study, name, "validation", CHOOSING, tried[-1])


def measure(study: Study, name: str, part: str, seed: int, rate: float) -> None:
    """Train a setting and append its row, unless it is stored."""
    if _stored(study, name, part, seed, rate):
        return
    adapters = best_rate(retrieval_rows(study.file), LORA) or 0.0
    outcome, _ = study.experiment(part).run(study.settings[name].make(rate, adapters), seed)
    record = study.experiment(part).record(outcome)
    row = {key: value for key, value in record.items() if key not in ("before", "after", "seed")}
    _append(study, name, part, seed, rate, scores_of(outcome.after, study.experiment(part).before) | row)


def _stored(study: Study, name: str, part: str, seed: int, rate: float) -> bool:
    texts = study.experiment(part).corpus.sha256
    own = (name, part, seed, rate, texts)
    return any(
        (row["name"], row["part"], row["seed"], row["rate"], row["corpus_sha256"]) == own
        for row in retrieval_rows(study.file)
    )


def _append(study: Study, name: str, part: str, seed: int, rate: float, measures: dict[str, Any]) -> None:
    row = {"name": name, "part": part, "seed": seed, "rate": rate, **measures, **study.experiment(part).provenance()}
    with study.file.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{name} {rate:g} seed {seed}, {part}: NDCG@10 {row['ndcg']:.4f}, kept {row['kept']:.4f}", flush=True)


if __name__ == "__main__":
    main()
