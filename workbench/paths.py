"""The folders of shipped data, converted models and runs; and an atomic write of JSON files."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import platformdirs

from workbench.errors import WorkbenchError

_PACKAGE = Path(__file__).resolve().parent
# setup.py puts the repository's data/ inside the package; where it is not, the package is used from a clone.
_INSTALLED = (_PACKAGE / "data").is_dir()

CACHE_VARIABLE, RUNS_VARIABLE = "WORKBENCH_CACHE", "WORKBENCH_RUNS"


def folder_of(path: object) -> Path:
    """The folder that `path` names, there or not. Raises ValueError, with the reason, for what can name none."""
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise ValueError(f"{path!r} is not a path")
    try:
        folder = Path(path).expanduser()
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError, ValueError) as error:  # too long, locked, ~nobody, a zero byte
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        name = os.fspath(path)
        raise ValueError(f"{name if len(name) <= 80 else name[:77] + '...'!r} names no folder: {reason}") from error
    return folder


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was deleted meanwhile
        return Path(os.environ.get("PWD", "/"))


_STARTED_IN = _current_folder()
# The clone of the repository; for an installed wheel, the folder in which Python was started.
CHECKOUT = _STARTED_IN if _INSTALLED else _PACKAGE.parent
DATA = _PACKAGE / "data" if _INSTALLED else CHECKOUT / "data"


def cache_dir() -> Path:
    """The folder of converted models, step times and scores of bases: WORKBENCH_CACHE, else the user's cache folder.

    Raises WorkbenchError if there is no such user, or no home folder to put it into.
    """
    return _named_folder(CACHE_VARIABLE) or _at_home(
        CACHE_VARIABLE, lambda: platformdirs.user_cache_path("lora-workbench", appauthor=False)
    )


def runs_dir() -> Path:
    """The folder of runs: WORKBENCH_RUNS, else `runs/` in the clone or, for a wheel, where Python was started.

    Raises WorkbenchError as `cache_dir` does.
    """
    return _named_folder(RUNS_VARIABLE) or CHECKOUT / "runs"


def named_folders() -> dict[str, str]:
    """The variables that name folders, with full paths: for processes that start in another folder."""
    folders = {variable: _named_folder(variable) for variable in (CACHE_VARIABLE, RUNS_VARIABLE)}
    return {variable: str(folder) for variable, folder in folders.items() if folder}


def _named_folder(variable: str) -> Path | None:
    """The folder that a variable names, as a full path; None for a variable that is unset or empty.

    A relative one starts where Python was started, so that it stays the same folder when a cell changes the current.
    """
    given = os.environ.get(variable, "").strip()
    return _at_home(variable, lambda: _STARTED_IN / Path(given).expanduser()) if given else None


def _at_home(variable: str, find: Callable[[], Path]) -> Path:
    try:
        return find()
    except RuntimeError as error:  # HOME is unset and the user has no entry in the password file, or "~nobody_here"
        raise WorkbenchError(
            f"No home folder is known ({error}); set {variable} to a folder by its full path."
        ) from error


def remove_folder(folder: Path) -> None:
    """Remove a folder and all in it, or the link to it; nothing if it is not there. Raises OSError if it cannot."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON, atomically, into a folder that is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1, allow_nan=False))


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically: a reader sees either the old file or the whole new one."""
    scratch = path.with_name(f"{path.stem[:200]}{secrets.token_hex(4)}.tmp")
    try:
        with scratch.open("x", encoding="utf-8") as file:  # with the permissions of the umask
            file.write(text)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
