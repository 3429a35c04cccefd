"""What a learner has done so far, kept in the folder of runs: exercises solved and lessons that reached their answer.

Each fact is a file of its own, written atomically, so that two notebooks that run at once lose nothing.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.paths import runs_dir, write_json

FOLDER = "learner"  # in the folder of runs; it also holds the bets
SOLVED, LESSON = "solved", "lesson"
# The path of the notebook that a kernel belongs to, as Jupyter's server says it.
SESSION = "JPY_SESSION_NAME"
NAME = re.compile(r"[\w.-]{1,40}")


def note(kind: str, name: str, folder: Path | None = None) -> None:
    """Keep that an exercise is solved or a lesson was run. A full or read-only disk does not stop a lesson."""
    if NAME.fullmatch(name):
        with suppress(OSError, WorkbenchError):
            file = _folder(folder) / f"{kind}-{name}.json"
            if not file.exists():
                write_json(file, {"at": datetime.now().astimezone().isoformat(timespec="seconds")})


def noted(kind: str, folder: Path | None = None) -> list[str]:
    """The exercises solved, or the lessons run, in the order of their names."""
    try:
        files = sorted(_folder(folder).glob(f"{kind}-*.json"))
    except OSError:
        return []
    return [file.stem.removeprefix(f"{kind}-") for file in files]


def note_lesson(folder: Path | None = None) -> None:
    """Keep that the lesson of this kernel has reached its answer, if the server's environment names its notebook."""
    name = Path(os.environ.get(SESSION, "")).name
    if number := re.match(r"\d\d(?=_)", name):
        note(LESSON, number[0], folder)


def _folder(folder: Path | None) -> Path:
    return (folder or runs_dir()) / FOLDER / "progress"
