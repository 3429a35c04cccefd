"""Any two measures of many runs, the learner's, the study's and published ones, and which runs to choose from."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.console import first_line
from workbench.errors import RunError
from workbench.results.rows import Row
from workbench.training.runs import Run, table


@dataclass(frozen=True)
class Measure:
    """A column of a table of runs. more: whether more of it is better. share: whether it is a share, from 0 to 1."""

    name: str
    label: str
    more: bool = False
    share: bool = False


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("exact_match", "exact match (share of rows)", more=True, share=True),
        Measure("label_accuracy", "right labels (share of rows)", more=True, share=True),
        Measure("loss", "test loss (nats a token)"),
        Measure("forgetting", "forgetting (nats a token)"),
        Measure("step_seconds", "seconds a step"),
        Measure("peak_memory_mb", "peak memory (MB)"),
        Measure("artifact_mb", "saved on disk (MB)"),
        Measure("trainable_parameters", "trainable parameters"),
        Measure("tokens_per_second", "tokens a second", more=True),
    )
}


def gathered(runs: Sequence[Run], study: Iterable[Row] = (), published: Iterable[Row] = ()) -> list[Row]:
    """One row a run, with its `source`, a `label` and the measures that it has. Only finished runs."""
    own = [row | {"source": "yours", "label": row["method"]} for row in table(runs)]
    stored = [{**row, "source": "study", "label": row["name"]} for row in study]
    others = [{**row, "source": "published", "status": "finished"} for row in published]
    return [row for row in (*own, *stored, *others) if row["status"] == "finished"]


def with_both(rows: Iterable[Row], x: Measure, y: Measure) -> list[Row]:
    """The rows that have both measures."""
    return [row for row in rows if row.get(x.name) is not None and row.get(y.name) is not None]


def front(rows: Iterable[Row], x: Measure, y: Measure) -> list[Row]:
    """The rows with both measures that no other row beats in one without losing in the other, from the best in `x` on.

    Of rows that are equal in both the first is kept.
    """

    def key(row: Row) -> tuple[float, float]:
        return (-row[x.name] if x.more else row[x.name], -row[y.name] if y.more else row[y.name])

    kept: list[Row] = []
    for row in sorted(with_both(rows, x, y), key=key):
        if not kept or key(row)[1] < key(kept[-1])[1]:
            kept.append(row)
    return kept


def write_csv(rows: Sequence[Row], path: Path) -> Path:
    """Write rows as a CSV file with all of their plain columns, and return its path.

    Raises RunError if there are none, or if the file cannot be written.
    """
    if not rows:
        raise RunError("There are no rows to write.")
    columns = dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, list | dict))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(columns), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {first_line(error)}. Name another file.") from error
    return path
