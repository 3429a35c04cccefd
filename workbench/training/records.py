"""The record of a run as a file: read, checked by shape, and compared with another record of the same run."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from workbench.errors import DamagedError, RunError
from workbench.scoring.scores import unpack_rows
from workbench.stored import check_shape, read_json
from workbench.training.runs import COMPLETE, NOT_STORED, STATUSES, Run

METHOD_NAMES = ("lora", "qlora", "hybrid", "full")
# What tables and plots read of any record, and what else they read of one that `train` wrote (which names versions).
ALWAYS = {"base": ("name",), "task": ("name",), "method": ("name", "label", "learning_rate"), "config": ("seed",)}
TRAINED = {
    "base": ("revision", "source", "quantization"),
    "task": ("sha256", "train_rows", "test_rows"),
    "config": ("steps", "batch_size", "test_limit", "evaluate", "save"),
    "precision": ("compute",),
    "hardware": ("processor",),
}
WHOLE = ("history", "together")  # fields whose mappings have all their keys


class UnreadableError(RunError):
    """A record that is there and cannot be read, so that nothing can be said about it."""


def read_run(file: Path) -> Run:
    """The run of a record. Raises RunError: UnreadableError if the file cannot be opened, else if it is damaged."""
    try:
        record = read_json(file, dict)
        _check(record, file.stem)
    except OSError as error:
        raise UnreadableError(
            f"{file} cannot be read ({error.strerror}); ask its owner, or change its permissions."
        ) from error
    except DamagedError as error:
        raise RunError(f"{error}; delete it or restore it from a copy.") from error
    except ValueError as error:
        raise RunError(f"{file} is damaged ({error}); delete it or restore it from a copy.") from error
    run = as_run(record)
    run.folder, run.as_stored = str(file.parent), fingerprint(record)
    return run


def as_run(record: dict[str, Any]) -> Run:
    """The run of a record, without what only a newer version knows."""
    known = {each.name for each in fields(Run)} - {*NOT_STORED}
    return Run(**{name: value for name, value in record.items() if name in known})


def fingerprint(record: dict[str, Any]) -> str:
    """What tells two states of a record apart."""
    return json.dumps(record, sort_keys=True)


def progress(run: Run) -> tuple[bool, int, bool, bool]:
    """How far a run is along; the same configuration's records are compared by it."""
    saved = run.artifact_dir is not None and run.artifact_dir.is_dir()
    return run.status in COMPLETE, len(run.history), bool(run.metrics), saved


def is_id(run_id: object) -> bool:
    """Whether a run can have this id, which is a file name."""
    if not isinstance(run_id, str):
        return False
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", run_id)) and ".." not in run_id and len(run_id) <= 200


@cache
def _shapes() -> dict[str, Any]:
    return get_type_hints(Run, include_extras=True)


def _check(record: dict[str, Any], run_id: str) -> None:
    """Raise ValueError for a record, such as an edited one, with which tables and plots would fail."""
    for each in fields(Run):
        if each.name in record and each.name not in NOT_STORED:
            check_shape(record[each.name], _shapes()[each.name], each.name, complete=each.name in WHOLE)
        elif each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f"{each.name} is missing")
    for wanted in (ALWAYS, TRAINED) if record["versions"] else (ALWAYS,):
        for part, names in wanted.items():
            if lacking := [name for name in names if name not in record[part]]:
                raise ValueError(f"{part}.{lacking[0]} is missing")
    for packed in (*record.get("before_right", {}).values(), *record.get("right", {}).values()):
        unpack_rows(packed)
    if record["method"]["name"] not in METHOD_NAMES:
        raise ValueError(f"method {record['method']['name']!r} is unknown to this version")
    datetime.fromisoformat(record["created"])
    if record["status"] not in STATUSES:
        raise ValueError(f"status {record['status']!r}")
    if record["id"] != run_id or record.get("artifact") not in (None, run_id):
        raise ValueError(f"id {record['id']!r}, artifact {record.get('artifact')!r}")
