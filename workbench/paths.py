"""Where files are: data that ships, converted models, runs; and how a JSON file is written whole."""

from __future__ import annotations

import json
import os
import tempfile
from importlib.resources import files
from pathlib import Path

import platformdirs

CHECKOUT = Path(__file__).resolve().parents[1]  # where the package lies in a clone of the repository
# A wheel holds data/ inside the package; in a clone it lies beside it, at the top level.
_PACKAGED_DATA = Path(str(files("workbench"))) / "data"
DATA = _PACKAGED_DATA if _PACKAGED_DATA.is_dir() else CHECKOUT / "data"


def cache_dir() -> Path:
    """The folder of converted models and of timings: WORKBENCH_CACHE, else the user's cache folder."""
    given = os.environ.get("WORKBENCH_CACHE")
    return Path(given).expanduser() if given else platformdirs.user_cache_path("lora-workbench", appauthor=False)


def runs_dir() -> Path:
    """The folder of runs: WORKBENCH_RUNS, else runs/ in the clone; without a clone, in the current folder."""
    if given := os.environ.get("WORKBENCH_RUNS"):
        return Path(given).expanduser()
    return (CHECKOUT if (CHECKOUT / "pyproject.toml").is_file() else Path.cwd()) / "runs"


def write_json(path: Path, value: object) -> None:
    """Write `value` so that a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, allow_nan=False)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise
