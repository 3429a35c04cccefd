"""What a folder that should hold a model holds, before anything in it is read as one."""

from __future__ import annotations

import json
from pathlib import Path

from workbench.errors import ModelError

POINTER = b"version https://git-lfs.github.com/"
ADAPTER = "adapter_config.json"


def holds_model(name: str) -> bool:
    """Whether `name` is a folder with a config.json. Raises ModelError for a path that cannot be followed."""
    try:
        (Path(name).expanduser() / "config.json").stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, RuntimeError, ValueError) as error:  # too long, locked, "~nobody", a zero byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(
            f"{short(name)!r} cannot be read ({reason}); give a directory that you may read, or a model's name."
        ) from error
    return True


def check_folder(folder: Path) -> None:
    """Raise ModelError for a folder with a config.json that is not, or not only, a model."""
    if (folder / ADAPTER).exists():
        raise ModelError(
            f"{folder} is a model and an adapter at once: transformers would attach the adapter unasked. Move "
            f"{ADAPTER} and adapter_model.* into a folder of their own, which `adapters.load(base, folder)` reads."
        )
    for file in sorted(folder.iterdir()):
        if is_pointer(file):
            raise ModelError(
                f"{file} is a git-lfs pointer, not the file itself: run `git lfs pull` in its clone, or download the "
                "model with `hf download`."
            )


def is_pointer(file: Path) -> bool:
    """Whether git-lfs has left a note in the place of a file, which a clone without it does."""
    if not file.is_file() or file.stat().st_size > 1024:
        return False
    with file.open("rb") as stream:
        return stream.read(len(POINTER)) == POINTER


def without_config(folder: Path) -> str:
    """What is wrong with a folder without config.json, and what to do."""
    if (folder / ADAPTER).exists():
        return (
            f"{folder} holds an adapter{_base_of(folder)}, not a model: load its base, then "
            "`adapters.load(base, folder)` gives the tuned model."
        )
    if below := sorted(path.parent.name for path in folder.glob("*/config.json")):
        return f"{folder} holds no config.json, but its folders {', '.join(below[:4])} do; give one of them."
    return f"{folder} holds no config.json; give the directory that save_pretrained wrote."


def _base_of(folder: Path) -> str:
    """ " of <base>", as far as an adapter's configuration tells."""
    try:
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f" of {short(base)}" if base and isinstance(base, str) else ""


def short(name: str) -> str:
    """A name as it is quoted in a sentence: its beginning, if it is long."""
    return name if len(name) <= 80 else f"{name[:77]}..."
