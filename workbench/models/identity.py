"""What a base's weights are, told from their content: a hash of the files of a folder, and of the tensors in memory."""

from __future__ import annotations

import hashlib
import json
import string
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from workbench.console import say
from workbench.errors import DamagedError
from workbench.paths import cache_dir, write_json
from workbench.stored import read_json
from workbench.tasks.joining import start_ids, token_ids

# Weights, and all that their use depends on.
REVISION_FILES = (".json", ".safetensors", ".bin", ".pt", ".model", ".txt", ".tiktoken", ".jinja")
LARGE = 16_000_000  # bytes of a file whose hash is kept
LONG = 4_000_000_000  # bytes to hash before a line says what takes so long
SETTLED = 2_000_000_000  # nanoseconds: a file changed more recently may change again within one tick of its clock
# What tells two tokenizers apart: case, spaces, digits, words and their parts, other scripts, signs of several bytes.
SAMPLE = [
    string.printable,
    "The reader's tokenizer splits UNUSUAL words, 3.14159 and 20,000; twice  a space.\r\n\tdef f(x): return x ** 2",
    "Über naïve Ⅷ ﬁ, Ἀρχή, привет, 北京, नमस्ते, 😀",
]
# Of a configuration: where it was read, how weights are stored, and how a forward pass is carried out.
NOT_THE_MODEL = (
    *("_name_or_path", "transformers_version", "dtype", "torch_dtype", "quantization_config"),
    *("_attn_implementation", "use_cache", "output_attentions", "output_hidden_states", "return_dict"),
)
COLUMNS = 1021  # a prime, so that rows that change places end up in other columns


def directory_revision(folder: Path) -> str:
    """A hash over the names and the whole content of the model's files in a folder."""
    files = [file for ending in REVISION_FILES for file in sorted(folder.glob(f"*{ending}")) if file.is_file()]
    hashes = file_hashes(files)
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}:{hashes[file]}:".encode())
    return f"content {digest.hexdigest()[:12]}"


def sampled_revision(folder: Path) -> str:
    """The revision as earlier versions recorded it, from the sizes, beginnings and ends of files."""
    digest = hashlib.sha256()
    endings = (".json", ".safetensors", ".bin", ".model")
    for file in [file for ending in endings for file in sorted(folder.glob(f"*{ending}"))]:
        digest.update(f"{file.name}:{file.stat().st_size}:".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(4_000_000))
            stream.seek(max(0, file.stat().st_size - 4_000_000))
            digest.update(stream.read())
    return f"files {digest.hexdigest()[:12]}"


def file_hash(file: Path) -> str:
    """The sha256 of a whole file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_hashes(files: list[Path]) -> dict[Path, str]:
    """The sha256 of each file; a large one is read once, and its hash kept with its size and times."""
    kept, stamps = _kept_hashes(), {file: _stamp(file) for file in files}
    known = {
        file: entry["sha256"]
        for file in files
        if (entry := kept.get(str(file.resolve()))) and entry == {**stamps[file], "sha256": entry["sha256"]}
    }
    missing = [file for file in files if file not in known]
    if (size := sum(stamps[file]["size"] for file in missing)) > LONG:
        say(f"Hashing {size / 1e9:.0f} GB of weights in {files[0].parent} (once)")
    found = {file: file_hash(file) for file in missing}
    now = time.time_ns()
    new = {
        str(file.resolve()): {**stamps[file], "sha256": sha256}
        for file, sha256 in found.items()
        if stamps[file]["size"] > LARGE and now - max(stamps[file]["modified"], stamps[file]["changed"]) > SETTLED
    }
    if new:
        with suppress(OSError):  # a cache that cannot be written costs time only
            write_json(_hash_file(), {path: entry for path, entry in kept.items() if Path(path).is_file()} | new)
    return known | found


class _Stamp(TypedDict):
    """What a file that has been written to differs in: bytes, and two times in nanoseconds."""

    size: int
    modified: int
    changed: int


class _KeptHash(_Stamp):
    sha256: str


def _stamp(file: Path) -> _Stamp:
    status = file.stat()
    return {"size": status.st_size, "modified": status.st_mtime_ns, "changed": status.st_ctime_ns}


def _hash_file() -> Path:
    return cache_dir() / "file_hashes.json"


def _kept_hashes() -> dict[str, _KeptHash]:
    """What is known about files, by path; empty if there is no record, or a damaged one."""
    try:
        return read_json(_hash_file(), dict[str, _KeptHash])
    except (OSError, DamagedError):
        return {}


def config_sha256(config: PreTrainedConfig) -> str:
    """A hash of what the configuration says of the model itself, the same for every dtype and storage.

    Values that are the family's defaults do not count, so that fields which a later version adds change nothing.
    """
    told = json.dumps(_of_the_model(config.to_diff_dict()), sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()


def _of_the_model(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    return {str(name): _of_the_model(value) for name, value in values.items() if name not in NOT_THE_MODEL}


def fingerprint(model: nn.Module) -> str:
    """A hash of all weights in memory, in one pass over them, of their places in the model, and of its configuration.

    Any change of a weight changes it, and so does a layer that is taken out or repeated.
    """
    digest = hashlib.blake2b(digest_size=6)
    if isinstance(config := getattr(model, "config", None), PreTrainedConfig):
        digest.update(config_sha256(config).encode())
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        digest.update(f"{name} is {first.setdefault(id(parameter), name)},".encode())
    for name, tensor in _weights(model):
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}:".encode())
        digest.update(_column_sums(tensor))
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what a tokenizer makes of a sample of text, with its added tokens and those at a text's start and end.

    Tokens that are called pad do not count: batches are not padded with them, and people set them later.
    """
    added = sorted((id, str(token)) for id, token in tokenizer.added_tokens_decoder.items())
    named = [each for each in added if "pad" not in each[1].lower()]
    told = [token_ids(SAMPLE, tokenizer), start_ids(tokenizer), tokenizer.eos_token_id, named]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=6).hexdigest()


def _weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters, and what else is stored with them; buffers that are computed anew at each load are no weights."""
    for name, parameter in model.named_parameters():
        yield name, parameter.data
        if (state := getattr(parameter, "quant_state", None)) is not None:
            yield f"{name}.absmax", state.absmax
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}", buffer


@torch.no_grad()
def _column_sums(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor as whole numbers in COLUMNS columns, summed up; what fills no row is taken as it is."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if flat.storage_offset() % 8:
        flat = flat.clone()
    words = flat[: len(flat) // 8 * 8].view(torch.int64)
    whole = len(words) // COLUMNS * COLUMNS
    parts = [words[:whole].view(-1, COLUMNS).sum(0), words[whole:]]
    return torch.cat(parts).cpu().numpy().tobytes() + flat[len(words) * 8 :].cpu().numpy().tobytes()
