"""Train the beginning of a stored row of the reference study again, and compare its losses with those recorded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

from workbench import Method, RunStore, TrainConfig, train
from workbench.console import say
from workbench.errors import RunError
from workbench.results.reference import STUDY, read_rows
from workbench.study.settings import base, task_of

TOLERANCE = 0.01  # relative, of a loss: in float32 processors differ by rounding, which grows from step to step


@dataclass(frozen=True)
class Repetition:
    """The first losses of a row as recorded and as trained again, in nats a completion token."""

    row: dict[str, Any]
    recorded: tuple[float, ...]
    again: tuple[float, ...]

    @property
    def agrees(self) -> bool:
        """Whether every loss lies within TOLERANCE of the recorded one."""
        pairs = zip(self.recorded, self.again, strict=True)
        return all(abs(again / recorded - 1) <= TOLERANCE for recorded, again in pairs)


def stored_row(row_id: str) -> dict[str, Any]:
    """The row of the study with this id. Raises RunError if there is none, or several."""
    found = [row for row in read_rows(STUDY) if row["id"] == row_id]
    if len(found) != 1:
        known = "Its rows are the lines of data/reference/study.jsonl, and each line has its id."
        raise RunError(f"The study has {len(found)} rows with the id {row_id!r}. {known}")
    return found[0]


def repeat(row_id: str) -> Repetition:
    """Train the first steps of a row again, with the row's own schedule.

    Raises RunError for an unknown id, and if the training ends early.
    """
    row = stored_row(row_id)
    task, recorded = task_of(row["task"]), tuple(row["first_losses"])
    if task.sha256 != row["task_sha256"]:
        say(f"{row['task']} has other rows here than when the row was trained, so its losses will differ.")
    described = row["settings"]["method"]
    tuples = {name: tuple(value) for name, value in described.items() if isinstance(value, list)}
    config = replace(TrainConfig(evaluate=False, save=False), **row["settings"]["config"])
    with TemporaryDirectory() as scratch:
        run = train(
            base(row["quantization"]),
            task,
            Method(**described | tuples),
            config,
            RunStore(scratch),
            on_step=lambda report: report["step"] >= len(recorded),
        )
    if len(run.history) < len(recorded):
        raise RunError(f"The training ended after {len(run.history)} of {len(recorded)} steps ({run.status}).")
    return Repetition(row, recorded, tuple(entry["loss"] for entry in run.history))
