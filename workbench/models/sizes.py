"""The sizes that a config.json claims, held against the files of weights before anything of that size is allocated.

transformers initialises what does not fit the files before it says so: a wrong vocabulary took gigabytes.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.initialization import no_init_weights

from workbench.errors import ModelError

LARGE = 50_000_000  # numbers, 0.2 GB in float32: with fewer, the loading itself says more
MANY = 1000  # layers


def check_sizes(folder: Path, config: PreTrainedConfig) -> None:
    """Raise ModelError where the configuration describes more numbers than the files of weights have bytes.

    What is small, or cannot be read or built here, is left for the loading itself to refuse. Files that are not all
    there, as before the first download, say nothing.
    """
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    files = [file for ending in ("safetensors", "bin") for file in folder.glob(f"*.{ending}") if file.is_file()]
    if not files or _lacks_parts(folder):
        return
    held = sum(file.stat().st_size for file in files)
    remedy = f"its files hold {held:,} bytes of weights: give them their own config.json."
    try:
        tensors = sum(map(_tensors, files))
    except (OSError, SafetensorError):
        return
    if isinstance(layers, int) and layers > max(MANY, tensors):
        raise ModelError(f"{folder} cannot be loaded: its config.json names {layers:,} layers, and {remedy}")
    try:
        with torch.device("meta"), no_init_weights():
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    except Exception:  # whatever a family raises for values that it cannot take
        return
    claimed = sum(parameter.numel() for parameter in model.parameters())
    if claimed > max(LARGE, held):
        raise ModelError(f"{folder} cannot be loaded: its config.json describes {claimed:,} weights, and {remedy}")


def folder_of_download(name: str, commit: str | None) -> Path | None:
    """The folder in the local cache with the files of a Hub model at a commit, as far as they are there."""
    file = try_to_load_from_cache(name, "config.json", revision=commit)
    return Path(file).parent if isinstance(file, str) else None


def _lacks_parts(folder: Path) -> bool:
    """Whether a list of parts names one that is not there, or cannot be read."""
    try:
        parts = [json.loads(file.read_text())["weight_map"].values() for file in folder.glob("*.index.json")]
        return any(not (folder / part).is_file() for each in parts for part in set(each))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True


def _tensors(file: Path) -> int:
    """How many tensors a file holds; of a pickle, which is not read for that, at most."""
    if file.suffix == ".bin":
        return file.stat().st_size // 64  # each has a name and a record of its own
    with safe_open(file, framework="pt") as opened:
        return len(opened.keys())
