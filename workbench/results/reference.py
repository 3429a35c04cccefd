"""Results that ship with the course, measured once with several rates and seeds, to set the learner's runs beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from workbench.paths import DATA
from workbench.results.rows import at_best_rate, usable
from workbench.training.step import TrainConfig

SWEEPS, STUDY, COSTS = (DATA / "reference" / f"{name}.jsonl" for name in ("sweeps", "study", "costs"))
COMPARED = ("lora", "qlora", "hybrid", "full")  # by lesson 06
STUDY_HIDDEN_SIZE = 576  # SmolLM2-135M
SWEEP_CONFIG = TrainConfig(steps=75, batch_size=16, save=False)  # of every run in sweeps.jsonl


def read_rows(file: Path) -> list[dict]:
    """One row a line of JSON."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def stored_sweeps(*groups: str) -> list[dict]:
    """The stored rank sweeps on the first SWEEP_FACTS of `facts`: all groups, or those named.

    Written by workbench/study/grid.py. A row is one of `runs.table` with its group, memorised_bits and, thinned, the
    losses of its training.
    """
    return [row for row in read_rows(SWEEPS) if not groups or row["group"] in groups]


def study_rows(*names: str) -> list[dict]:
    """The reference study, written by workbench/study/plan.py, of all tasks: all its settings, or those named.

    A row is one of `runs.table` with its name ("lora", "full", "auto" ...), the base's exact match and thinned losses.
    """
    return [row for row in read_rows(STUDY) if not names or row["name"] in names]


def compared(task: str) -> list[dict]:
    """The study's finished rows of the methods in COMPARED on one task, "method" being their short name.

    Raises ValueError for a task on which the study does not have them all.
    """
    own = [row for row in study_rows(*COMPARED) if row["task"] == task]
    rows = [row | {"method": row["name"]} for row in usable(own, "exact_match")]
    if lacking := [name for name in COMPARED if name not in {row["name"] for row in rows}]:
        raise ValueError(f"The study has no {', '.join(lacking)} on {task!r}; use 'tickets' or 'protocol'.")
    return sorted(rows, key=lambda row: COMPARED.index(row["name"]))


def best_learning_rate(rows: Sequence[Mapping], name: str) -> float:
    """The best rate of one method, as in `results.rows.best_rate`."""
    return rows_at_best_rate(rows, name)[0]["learning_rate"]


def rows_at_best_rate(rows: Sequence[Mapping], name: str) -> list[Mapping]:
    """The finished rows of one method at its own best rate, one a seed. Raises ValueError if there are none."""
    if not (own := at_best_rate([row for row in rows if row["name"] == name])):
        raise ValueError(f"There are no finished rows for {name!r}.")
    return own


def scores_at_best_rate(rows: Sequence[Mapping], measure: str) -> dict[str, list[float]]:
    """Method -> its values of `measure` by seed, each method at its own best rate."""
    methods = dict.fromkeys(row["name"] for row in rows)
    return {name: [row[measure] for row in rows_at_best_rate(rows, name)] for name in methods}


def spread_in_words(rows: Sequence[Mapping], measure: str, where: str = "In the study") -> str:
    """One sentence: each method's mean and range over seeds."""
    parts = [
        f"{name} {mean(values):.0%} "
        + (f"({min(values):.0%} to {max(values):.0%}, {len(values)} seeds)" if len(values) > 1 else "(1 seed)")
        for name, values in scores_at_best_rate(rows, measure).items()
    ]
    return f"{where}, {measure.replace('_', ' ')} at each method's best rate: {', '.join(parts)}."


def learning_rate_for(rate: float, hidden_size: int, found_at: int = STUDY_HIDDEN_SIZE) -> float:
    """A rate found on a model of hidden size `found_at` (the study's, 576), carried over to another size.

    The rule is that of tinker-cookbook for Llama-type models: the best rate falls as hidden size to the power 0.781. It
    is a starting point, not a sweep.
    """
    return rate * (found_at / hidden_size) ** 0.781
