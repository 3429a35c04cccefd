"""The folders of shipped data, converted models and runs; and an atomic write of JSON files."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import platformdirs

from workbench.errors import WorkbenchError

_PACKAGE = Path(__file__).resolve().parent
# setup.py puts the repository's data/ inside the package; where it is not, the package is used from a clone.
_INSTALLED = (_PACKAGE / "data").is_dir()

# The clone of the repository; for an installed wheel, the folder in which Python was started.
CHECKOUT = Path.cwd() if _INSTALLED else _PACKAGE.parent
DATA = _PACKAGE / "data" if _INSTALLED else CHECKOUT / "data"


def cache_dir() -> Path:
    """The folder of converted models and measured step times: WORKBENCH_CACHE, else the user's cache folder.

    Raises WorkbenchError if there is no such user, or no home folder to put it into.
    """
    if given := os.environ.get("WORKBENCH_CACHE"):
        return _at_home("WORKBENCH_CACHE", lambda: Path(given).expanduser())
    return _at_home("WORKBENCH_CACHE", lambda: platformdirs.user_cache_path("lora-workbench", appauthor=False))


def runs_dir() -> Path:
    """The folder of runs: WORKBENCH_RUNS, else `runs/` in the clone or, for a wheel, where Python was started.

    Raises WorkbenchError as `cache_dir` does.
    """
    given = os.environ.get("WORKBENCH_RUNS")
    return _at_home("WORKBENCH_RUNS", lambda: Path(given).expanduser()) if given else CHECKOUT / "runs"


def _at_home(variable: str, find: Callable[[], Path]) -> Path:
    try:
        return find()
    except RuntimeError as error:  # HOME is unset and the user has no entry in the password file, or "~nobody_here"
        raise WorkbenchError(
            f"No home folder is known ({error}); set {variable} to a folder by its full path."
        ) from error


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, atomically: a reader sees either the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.stem[:200]}{secrets.token_hex(4)}.tmp")
    try:
        with scratch.open("x", encoding="utf-8") as file:  # readable by whom the umask says
            json.dump(value, file, indent=1, allow_nan=False)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
