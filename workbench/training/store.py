"""The folder of runs: one JSON record for each run, and a folder with its adapter or checkpoint."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile

from safetensors import SafetensorError

from workbench.console import first_line, say
from workbench.errors import RunError
from workbench.paths import runs_dir, write_json
from workbench.training.runs import Run

# The type of each field of a record that tables and plots rely on.
FIELD_KINDS: dict[str, type] = {
    **dict.fromkeys(("id", "status", "created"), str),
    **dict.fromkeys(("base", "task", "method", "config", "precision", "versions", "hardware"), dict),
    **dict.fromkeys(("before", "metrics", "forgetting"), dict),
    "history": list,
}
STATUSES = ("finished", "interrupted", "diverged", "out_of_memory")


def slug(*words: str) -> str:
    """Words joined into a part of a run's id, which is a file name: lower case, no "..", at most 100 characters."""
    plain = re.sub(r"[^a-z0-9.]+", "-", " ".join(words).lower())
    return re.sub(r"\.+", ".", plain)[:100].strip("-.")


class RunStore:
    """A folder of runs: `<id>.json` is the record of a run, the folder `<id>` holds its adapter or checkpoint.

    path: default: WORKBENCH_RUNS, else `runs/` in the clone of this repository (see `paths.runs_dir`).
    """

    def __init__(self, path: str | os.PathLike | None = None):
        self.path = Path(path).expanduser() if path else runs_dir()

    def new_id(self, *words: str) -> str:
        """A readable id with a random end, so that two runs which begin in the same second stay apart."""
        return f"{slug(*words)}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"

    def make_ready(self) -> None:
        """Create the folder; raises RunError if it cannot be written to. Called before training."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.path).close()
        except OSError as error:
            raise RunError(f"No runs can be kept in {self.path} ({error.strerror}); choose another folder.") from error

    def check(self, run: Run) -> None:
        """Raise RunError for an id or a record that `save` could not write. Called before training."""
        self._file(run.id)
        try:
            json.dumps(run.to_dict(), allow_nan=False)
        except (TypeError, ValueError) as error:
            words = f"The record of run {run.id} cannot be written as JSON ({error})"
            raise RunError(f"{words}; give method and config plain, finite numbers and texts.") from error

    def save(self, run: Run) -> Path:
        """Write the record and return its file; raises RunError if that fails."""
        try:
            write_json(self._file(run.id), run.to_dict())
        except OSError as error:
            words = f"Run {run.id} could not be recorded in {self.path} ({error.strerror})"
            raise RunError(f"{words}; free some space and train again.") from error
        run.folder = str(self.path)
        return self._file(run.id)

    @contextmanager
    def saving(self, run: Run) -> Iterator[Path]:
        """The folder for the run's artifact; an artifact that is not whole is removed again.

        A full disk is no error but advice in the run's record, so that other runs of the same pass are still saved.
        """
        try:
            yield self.path / run.id
        except BaseException as error:
            shutil.rmtree(self.path / run.id, ignore_errors=True)
            run.artifact = run.artifact_bytes = None
            if not isinstance(error, (OSError, SafetensorError, RunError)):
                raise
            run.advice = f"Trained, but not saved: {first_line(error).rstrip('.')}; free some space and train again."
            say(f"{run.label}: {run.advice}")

    def get(self, run_id: str) -> Run:
        """The run of this id; raises RunError if there is none or its file is damaged."""
        file = self._file(run_id)
        if not file.is_file():
            raise RunError(f"No run {run_id!r} in {self.path}.")
        known = {f.name for f in fields(Run)}
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            run = Run(**{name: value for name, value in record.items() if name in known})
            _check_fields(run)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(f"{file} is damaged ({error}); delete it or restore it from a copy.") from error
        if run.id != run_id or run.status not in STATUSES or run.artifact not in (None, run_id):
            raise RunError(f"{file} is damaged (id {run.id!r}, status {run.status!r}, artifact {run.artifact!r}).")
        run.folder = str(self.path)
        return run

    def finished(self, run_id: str, scored: bool, saved: bool) -> Run | None:
        """The run of this id if it is complete: finished, with scores if `scored` and an artifact if `saved`.

        A run that has diverged is complete too, since it would diverge again. None otherwise.
        """
        try:
            run = self.get(run_id)
        except RunError:
            return None
        complete = run.status == "finished" and (run.metrics or not scored)
        kept = not saved or (run.artifact_dir and run.artifact_dir.is_dir())
        return run if (complete and kept) or run.status == "diverged" else None

    def all(self) -> list[Run]:
        """Every readable run, oldest first; a damaged file is named on stderr and skipped."""
        runs = []
        for file in sorted(self.path.glob("*.json")):
            try:
                runs.append(self.get(file.stem))
            except RunError as error:
                print(f"skipped: {error}", file=sys.stderr)
        return sorted(runs, key=lambda run: run.created)

    def delete(self, run_id: str) -> None:
        """Remove a run's record and artifact, if they exist."""
        self._file(run_id).unlink(missing_ok=True)
        shutil.rmtree(self.path / run_id, ignore_errors=True)

    def _file(self, run_id: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", run_id) or ".." in run_id:
            raise RunError(f"{run_id!r} cannot name a run; use letters, digits, '.', '-' and '_'.")
        return self.path / f"{run_id}.json"


def _check_fields(run: Run) -> None:
    """Raise TypeError or KeyError for a record that somebody has changed so that tables and plots would fail."""
    for name, kind in FIELD_KINDS.items():
        if not isinstance(value := getattr(run, name), kind):
            raise TypeError(f"{name} is {value!r}")
    _ = run.method["label"], run.config["seed"], run.task["name"], run.base["name"]
