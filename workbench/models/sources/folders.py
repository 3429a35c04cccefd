"""What a folder that should hold a model holds, before anything in it is read as one."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from workbench.console import say
from workbench.errors import ModelError

POINTER = b"version https://git-lfs.github.com/"
ADAPTER = "adapter_config.json"
# The forms of weights, in the order in which transformers looks for them; it reads the first.
FORMS = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
WHOLE_NUMBERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")  # as safetensors spells them


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
    _check_stored(folder)
    forms = [form for form in FORMS if (folder / form).is_file()]
    if forms[1:]:
        say(f"{folder} holds weights in several forms: {forms[0]} is read, and {', '.join(forms[1:])} left unread.")


def _check_stored(folder: Path) -> None:
    """Raise ModelError for weights that are stored as whole numbers: transformers would take codes for values.

    A model whose configuration says how it is quantized is refused by `load_base` itself.
    """
    if b'"quantization_config"' in (folder / "config.json").read_bytes():
        return
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                weights = [name for name in opened.keys() if name.endswith(".weight")]  # noqa: SIM118 - no mapping
                kinds = {name: opened.get_slice(name).get_dtype() for name in weights}
        except (OSError, SafetensorError):
            continue  # the loading itself says more
        if codes := next((name for name, kind in kinds.items() if kind in WHOLE_NUMBERS), None):
            raise ModelError(
                f"{folder} holds whole numbers ({kinds[codes]}) as its {codes}: the codes of a quantized model. Give "
                "the original, and load_base(..., quantization=...) quantizes it."
            )


def odd_json(folder: Path) -> str | None:
    """What is wrong with the first JSON file of a model's folder that is no object, and what to do; None if all are."""
    for file in sorted(folder.glob("*.json")):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            return f"{file} is damaged, or no JSON object: download it again, or copy it from the original"
    return None


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
