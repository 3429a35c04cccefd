"""Results that ship with the course, measured once with several rates and seeds, for comparison with learners' runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, TypedDict

from workbench.paths import DATA
from workbench.results.rows import Row, by_best_rate, grouped, usable
from workbench.stored import read_json_lines
from workbench.training.step import TrainConfig

SWEEPS, STUDY, FIRST_STUDY, COSTS = (
    DATA / "reference" / f"{name}.jsonl" for name in ("sweeps", "study", "first_study", "costs")
)
COMPARED = ("lora", "qlora", "hybrid", "full")  # by lesson 06
# The settings that `recommend` and its rivals differ in: rank and alpha, all adapters on all linear layers.
RANKS_AND_ALPHAS = ("auto", "lora", "lora r=64", "rslora", "alpha=8", "alpha=128")
SEVERAL = 3  # seeds at one rate, with which a setting of the study can be compared
STUDY_HIDDEN_SIZE = 576  # SmolLM2-135M
SWEEP_CONFIG = TrainConfig(steps=75, batch_size=16, save=False)  # of every run in sweeps.jsonl


class StoredRow(TypedDict, total=False):
    """The fields of stored rows that tables and figures compute with."""

    name: str
    group: str
    method: str
    task: str
    rank: int | None
    alpha: float | None
    scaling: float | None
    learning_rate: float
    full_learning_rate: float | None
    layers: list[int] | None
    rslora: bool
    targets: str
    steps: int | None
    seed: int
    status: str
    loss: float | None
    exact_match: float | None
    right: str | None
    right_labels: str | None
    forgetting: float | None
    memorised_bits: float | None
    trainable_parameters: int
    step_seconds: float | None
    peak_memory_mb: float | None
    artifact_mb: float | None
    losses: list[float]
    precision: str


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file with one JSON object per line. Raises DamagedError, naming the line, if one is not whole."""
    remedy = "restore the file from the repository, or delete this line if you added it"
    return read_json_lines(file, StoredRow, remedy)


def stored_sweeps(*groups: str) -> list[dict[str, Any]]:
    """The stored rank sweeps on the first SWEEP_FACTS of `facts`: all groups, or those named.

    Written by workbench/study/grid.py. A row is one of `runs.table` with its group, memorised_bits and every fifth
    training loss.
    """
    return [row for row in read_rows(SWEEPS) if not groups or row["group"] in groups]


def study_rows(*names: str, needed: Iterable[str] = ("lora", "full")) -> list[dict[str, Any]]:
    """The reference study's rows of all settings, or of those named.

    Written by workbench/study/plan.py, task by task. A row is one of `runs.table` with its task and settings; at its
    best rate a setting has several seeds. Until a task has these of all settings in `needed`, its rows are those of the
    first study (November 2026), which scored 120 test rows at most; they are marked by `first_study`.
    """
    needed, found = tuple(needed), paired_rows()
    ready = {task for task, own in grouped(found, lambda row: row["task"]).items() if have_seeds(own, needed)}
    rows = [row for row in found if row["task"] in ready]
    rows += [row | {"first_study": True} for row in read_rows(FIRST_STUDY) if row["task"] not in ready]
    return [row for row in rows if not names or row["name"] in names]


def paired_rows() -> list[dict[str, Any]]:
    """The rows of the reference study as far as it has come, all of which say which test rows were right."""
    return read_rows(STUDY)


def have_seeds(rows: Iterable[Row], names: Iterable[str]) -> bool:
    """Whether the rows of a task have all these settings with SEVERAL seeds at their best rates."""
    at_best = by_best_rate(rows, "name")
    return all(len(at_best.get(name, ())) >= SEVERAL for name in names)


def compared(task: str) -> list[dict[str, Any]]:
    """The study's finished rows of the methods in COMPARED on one task, "method" being their short name.

    Raises ValueError for a task on which the study does not have them all.
    """
    own = [row for row in study_rows(*COMPARED, needed=COMPARED) if row["task"] == task]
    rows = [{**row, "method": row["name"]} for row in usable(own, "exact_match")]
    if lacking := [name for name in COMPARED if name not in {row["name"] for row in rows}]:
        raise ValueError(
            f"The study has no {', '.join(lacking)} on {task!r}; use a task that has {', '.join(COMPARED)}."
        )
    return sorted(rows, key=lambda row: COMPARED.index(row["name"]))


def spread_in_words(rows: Sequence[Row], measure: str, where: str = "In the study") -> str:
    """One sentence: the mean and range over seeds of each method, at its own best rate."""
    parts = []
    for name, own in by_best_rate(rows, "name").items():
        values = [row[measure] for row in own]
        seeds = f"{min(values):.0%} to {max(values):.0%}, {len(values)} seeds" if len(values) > 1 else "1 seed"
        parts.append(f"{name} {mean(values):.0%} ({seeds})")
    return f"{where}, {measure.replace('_', ' ')} at each method's best rate: {', '.join(parts)}."


def learning_rate_for(rate: float, hidden_size: int, found_at: int = STUDY_HIDDEN_SIZE) -> float:
    """A rate that was best on a model of hidden size `found_at` (the study's, 576), converted to another hidden size.

    The rule is that of tinker-cookbook for Llama-type models: the best rate falls as hidden size to the power 0.781. It
    is a starting point and does not replace a sweep.
    """
    return rate * (found_at / hidden_size) ** 0.781
