"""The folder of runs: one JSON record for each run, and a folder with its adapter or checkpoint."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from safetensors import SafetensorError

from workbench.console import first_line, say, tell
from workbench.errors import RunError
from workbench.paths import folder_of, remove_folder, runs_dir, write_json
from workbench.training import store_files
from workbench.training.records import UnreadableError, fingerprint, is_id, progress, read_run
from workbench.training.runs import FAILED, Run


def slug(*words: str) -> str:
    """Words joined into a part of a run's id, which is a file name: lower case, no "..", at most 100 characters."""
    plain = re.sub(r"[^a-z0-9.]+", "-", " ".join(words).lower())
    return re.sub(r"\.+", ".", plain)[:100].strip("-.")


class RunStore:
    """A folder of runs: `<id>.json` is the record of a run, the folder `<id>` holds its adapter or checkpoint.

    path: default: WORKBENCH_RUNS, else `runs/` in the clone of this repository (see `paths.runs_dir`).
    """

    def __init__(self, path: str | os.PathLike | None = None):
        try:
            # Absolute, so that the store stays where it is when the current folder changes.
            self.path = folder_of(path).absolute() if path not in (None, "") else runs_dir()
        except ValueError as error:
            raise RunError(
                f"No runs can be kept there: {first_line(error)}; name another folder, or write it out in full."
            ) from error

    def new_id(self, *words: str) -> str:
        """A readable id with a random end, so that two runs which begin in the same second stay apart."""
        return f"{slug(*words)}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"

    def make_ready(self, size: int = 0) -> None:
        """Create the folder, and remove what killed processes have left in it. Called before training.

        size: bytes of the artifacts to come. Raises RunError if the folder, or the disk, does not take them.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            store_files.take_room(self.path, size).close()
            for name in store_files.remove_leftovers(self.path):
                say(f"Removed {self.path / name}: a process was killed while it was writing that.")
        except OSError as error:
            raise RunError(
                f"No runs can be kept in {self.path} ({error.strerror}); {_needed(size)}choose another folder."
            ) from error

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """Reserve `size` bytes of the disk within the block. Raises RunError if they are not free."""
        try:
            held = store_files.take_room(self.path, size)
        except OSError as error:
            raise RunError(
                f"{self.path} has too little room ({error.strerror}); {_needed(size)}train again."
            ) from error
        with held:
            yield

    def check(self, run: Run) -> None:
        """Raise RunError for an id or a record that `save` could not write. Called before training."""
        self._file(run.id)
        try:
            json.dumps(run.to_dict(), allow_nan=False)
        except (TypeError, ValueError) as error:
            words = f"The record of run {run.id} cannot be written as JSON ({error})"
            raise RunError(f"{words}; give method and config plain, finite numbers and texts.") from error

    def save(self, run: Run) -> Path:
        """Write the record, as `keep` does; returns its file."""
        self.keep(run)
        return self._file(run.id)

    def keep(self, run: Run) -> Run:
        """Write the record, and put the artifact that `saving` has written into its place; returns the run.

        A record that this run did not write stays unless this one is further along, as when two processes run the same
        sweep: then that run is returned. Raises RunError if the writing fails.
        """
        self.check(run)
        file, scratch = self._file(run.id), self._scratch(run.id)
        run.folder = str(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with store_files.locked(self.path):
                if (stored := self._stored(run.id)) and not _replaces(run, stored, scratch.is_dir()):
                    return stored
                if scratch.is_dir() and run.artifact:
                    store_files.replace_folder(scratch, self.path / run.id)
                write_json(file, record := run.to_dict())
        except OSError as error:
            words = f"Run {run.id} could not be recorded in {self.path} ({error.strerror})"
            raise RunError(f"{words}; free some space and train again.") from error
        run.as_stored = fingerprint(record)
        return run

    def _stored(self, run_id: str) -> Run | None:
        """The run of this id, None if there is none or a damaged one; RunError if it cannot be read."""
        try:
            return self.get(run_id)
        except UnreadableError:
            raise
        except RunError:
            return None

    @contextmanager
    def saving(self, run: Run) -> Iterator[Path]:
        """A folder for the run's artifact, which `save` then puts into its place; one that is not whole is removed.

        A full disk is no error but advice in the run's record, so that other runs of the same pass are still saved.
        """
        scratch = self._scratch(run.id)
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            yield scratch
        except BaseException as error:
            shutil.rmtree(scratch, ignore_errors=True)
            run.artifact = run.artifact_bytes = None
            if not isinstance(error, (OSError, SafetensorError, RunError)):
                raise
            run.advice = f"Trained, but not saved: {first_line(error).rstrip('.')}; free some space and train again."
            say(f"{run.label}: {run.advice}")

    def forget_scratch(self, run: Run) -> None:
        """Remove what `saving` wrote if `save` did not use it, as when another process was further along."""
        shutil.rmtree(self._scratch(run.id), ignore_errors=True)

    def get(self, run_id: str) -> Run:
        """The run of this id; raises RunError if there is none or its file is damaged or cannot be read."""
        file = self._file(run_id)
        if not os.path.lexists(file):
            raise RunError(f"No run {run_id!r} in {self.path}.")
        return read_run(file)

    def finished(self, run_id: str, scored: bool, saved: bool) -> Run | None:
        """The run of this id if it is complete: finished, with scores if `scored` and an artifact if `saved`.

        A run that has diverged or was destroyed is complete too, since it would be so again. None otherwise. Raises
        RunError for a record that is there and cannot be read.
        """
        if (run := self._stored(run_id)) is None:
            return None
        complete = run.status == "finished" and (run.metrics or not scored)
        kept = not saved or (run.artifact_dir and run.artifact_dir.is_dir())
        return run if (complete and kept) or run.status in FAILED else None

    def all(self) -> list[Run]:
        """Every readable run, oldest first; any other file is named on stderr and skipped."""
        runs = []
        for file in sorted(self.path.glob("*.json")):
            try:
                runs.append(self.get(file.stem))
            except RunError as error:
                tell(f"skipped: {error}")
        return sorted(runs, key=lambda run: run.began)

    def delete(self, run_id: str) -> None:
        """Remove a run's artifact and record, if they exist. Raises OSError if it cannot; then the record stays."""
        remove_folder(self.path / self._file(run_id).stem)
        self._file(run_id).unlink(missing_ok=True)

    def _file(self, run_id: str) -> Path:
        if not is_id(run_id):
            raise RunError(f"{run_id!r} cannot name a run; use up to 200 letters, digits, '.', '-' and '_'.")
        return self.path / f"{run_id}.json"

    def _scratch(self, run_id: str) -> Path:
        """Where this process writes the artifact of a run."""
        return self.path / store_files.scratch_name(run_id)


def _replaces(run: Run, stored: Run, saved: bool) -> bool:
    """Whether a run may replace the record of its id: if it wrote that, or is further along. saved: an artifact."""
    return stored.as_stored == run.as_stored or (*progress(run)[:-1], saved or progress(run)[-1]) > progress(stored)


def _needed(size: int) -> str:
    return f"free {size / 1e6:,.0f} MB there, or " if size > 1e6 else "free some space there, or "
