"""The record of one fine-tuning run, and the folder that keeps such records: one JSON file a run."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile

import torch
from safetensors import SafetensorError

from workbench import WorkbenchError
from workbench.machine import first_line, say, write_json
from workbench.models.base import Base
from workbench.paths import CHECKOUT

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
TARGET_GROUPS = {frozenset(ATTENTION): "attention", frozenset(MLP): "mlp"}
STATUSES = ("finished", "interrupted", "diverged", "out_of_memory")


class RunError(WorkbenchError, ValueError):
    """A run that cannot be stored or loaded; the message says why."""


@dataclass
class Run:
    """Everything needed to read, compare and repeat one fine-tuning run. Bytes, seconds and tokens throughout."""

    id: str
    status: str
    base: dict  # name, revision, source, quantization, architecture
    task: dict  # name, source, sha256, train and test rows
    method: dict  # Method.to_dict(), with its label
    config: dict  # TrainConfig as a dict
    precision: dict  # dtype of what is frozen, trained, computed and scored
    versions: dict
    hardware: dict
    created: str
    before: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    forgetting: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    trainable_parameters: int = 0
    total_parameters: int = 0
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int | None = None
    artifact_bytes: int | None = None
    artifact: str | None = None  # a folder name inside the store
    general_text_sha256: str | None = None
    together: dict | None = None  # in a sweep: configurations in the same pass, its peak bytes; times are shares of it
    advice: str | None = None
    folder: str = field(default="", compare=False)  # the store's folder; not written to the record

    @property
    def artifact_dir(self) -> Path | None:
        return Path(self.folder) / self.artifact if self.artifact else None

    def to_dict(self) -> dict:
        """The record as it is stored: everything but the store's folder."""
        record = asdict(self)
        del record["folder"]
        return record

    @property
    def label(self) -> str:
        return self.method["label"]

    @property
    def step_seconds(self) -> float | None:
        """Median seconds of a training step."""
        return median(entry["seconds"] for entry in self.history) if self.history else None

    def load(self, base: Base) -> Base:
        """The tuned model again: `base` with this run's adapter in a stock PEFT wrapper, or its full checkpoint."""
        from workbench.adapters import checkpoints

        if self.artifact_dir is None or not self.artifact_dir.is_dir():
            raise RunError(
                f"Run {self.id} has no saved artifact (status {self.status}); train it again with save=True."
            )
        if (base.name, base.revision) != (self.base["name"], self.base["revision"]):
            raise RunError(
                f"Run {self.id} was trained on {self.base['name']} ({self.base['revision']}), "
                f"not on {base.name} ({base.revision}); load that base."
            )
        # A LoRA's updates go with any storage of the base; these were trained to make up for the errors of one.
        wanted = self.base["quantization"]
        if base.quantization != wanted and self.method["name"] in ("qlora", "hybrid"):
            kind = wanted or "unquantized"
            raise RunError(f"Run {self.id} was trained on {kind} weights; load_base(..., quantization={wanted!r}).")
        tuned = replace(base, model=checkpoints.load(base, self.artifact_dir), revision=f"{base.revision} + {self.id}")
        if self.method["name"] == "full":
            return replace(tuned, quantization=None, dtype=torch.float32)
        return tuned


def slug(*words: str) -> str:
    """Words as they may stand in a run's id, which names files: no "..", and not too long for one."""
    plain = re.sub(r"[^a-z0-9.]+", "-", " ".join(words).lower())
    return re.sub(r"\.+", ".", plain)[:100].strip("-.")


class RunStore:
    """A folder of runs: `<id>.json` beside the folder `<id>` that holds the run's adapter or checkpoint.

    path: WORKBENCH_RUNS, else `runs/` in this project.
    """

    def __init__(self, path: str | os.PathLike | None = None):
        default = os.environ.get("WORKBENCH_RUNS") or CHECKOUT / "runs"
        self.path = Path(path or default).expanduser()

    def new_id(self, *words: str) -> str:
        """A readable id, ended by chance: two runs that begin in the same second must not overwrite each other."""
        return f"{slug(*words)}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"

    def make_ready(self) -> None:
        """Create the folder; raises RunError where nothing can be written, before minutes of training are lost."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.path).close()
        except OSError as error:
            raise RunError(f"No runs can be kept in {self.path} ({error.strerror}); choose another folder.") from error

    def check(self, run: Run) -> None:
        """Raises RunError for a name or a record that `save` could not write, before minutes of training are lost."""
        self._file(run.id)
        try:
            json.dumps(run.to_dict(), allow_nan=False)
        except (TypeError, ValueError) as error:
            words = f"The record of run {run.id} cannot be written as JSON ({error})"
            raise RunError(f"{words}; give method and config plain, finite numbers and texts.") from error

    def save(self, run: Run) -> Path:
        """Write the record; raises RunError where the disk does not take it."""
        try:
            write_json(self._file(run.id), run.to_dict())
        except OSError as error:
            words = f"Run {run.id} could not be recorded in {self.path} ({error.strerror})"
            raise RunError(f"{words}; free some space and train again.") from error
        run.folder = str(self.path)
        return self._file(run.id)

    @contextmanager
    def saving(self, run: Run) -> Iterator[Path]:
        """The folder for a trained run's artifact. Half of one is removed; a full disk is told in the run's advice.

        It is no error, since the runs that were trained in the same pass are still to be kept.
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
        """Raises RunError for an unknown id or a damaged file."""
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
        """The run of this id, if it is finished and has the scores and the artifact that are asked for.

        Or if it has diverged, which it would do again.
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
        self._file(run_id).unlink(missing_ok=True)
        shutil.rmtree(self.path / run_id, ignore_errors=True)

    def _file(self, run_id: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", run_id) or ".." in run_id:
            raise RunError(f"{run_id!r} cannot name a run; use letters, digits, '.', '-' and '_'.")
        return self.path / f"{run_id}.json"


def _check_fields(run: Run) -> None:
    """Raises TypeError or KeyError where tables and plots would fail over a record that somebody has changed."""
    kinds = {"str": str, "dict": dict, "list[dict]": list}
    for each in fields(run):
        if not isinstance(value := getattr(run, each.name), kinds.get(each.type, object)):
            raise TypeError(f"{each.name} is {value!r}")
    for dictionary, name in ((run.method, "label"), (run.config, "seed"), (run.task, "name"), (run.base, "name")):
        dictionary[name]


def targets_in_words(targets: str | list[str]) -> str:
    """Target modules as one short word where there is one: "all-linear", "attention", "mlp", or their names."""
    if isinstance(targets, str):
        return targets
    return TARGET_GROUPS.get(frozenset(targets), ", ".join(targets))


def provenance(run: Run) -> dict:
    """What a row that ships with the course says of its making."""
    return {
        "task_sha256": run.task["sha256"],
        "precision": run.precision["compute"],
        "versions": run.versions,
        "processor": run.hardware["processor"],
    }


def table(runs: Iterable[Run]) -> list[dict]:
    """One flat row a run, for tables and plots: sizes in MB (10^6 bytes), times in seconds."""
    return [
        {
            "method": run.label,
            "task": run.task["name"],
            **{
                name: run.method.get(name) for name in ("rank", "alpha", "scaling", "learning_rate", "layers", "rslora")
            },
            "targets": targets_in_words(run.method.get("targets", "all-linear")),
            "steps": run.config.get("steps"),
            "seed": run.config["seed"],
            "status": run.status,
            **{name: run.metrics.get(name) for name in ("loss", "exact_match", "label_accuracy")},
            "forgetting": run.forgetting.get("general_loss"),
            "trainable_parameters": run.trainable_parameters,
            "step_seconds": run.step_seconds,
            "peak_memory_mb": run.peak_memory_bytes and run.peak_memory_bytes / 1e6,
            "artifact_mb": run.artifact_bytes and run.artifact_bytes / 1e6,
        }
        for run in runs
    ]
