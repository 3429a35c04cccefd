"""Base models: one function that gives a frozen language model with its tokenizer, wherever the weights come from."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from workbench.console import first_line
from workbench.errors import ModelError
from workbench.machine import preferred_dtype
from workbench.models import catalogue
from workbench.models.cpu_kernels import quicken
from workbench.models.packaged import PACKAGED, REVISION, packaged_model
from workbench.models.quantized import QUANTIZATIONS, keep_weights_unpacked, quantization_config, settle_int8_state

REVISION_FILES = (".json", ".safetensors", ".bin", ".model")  # weights, and all that their use depends on
REVISION_SAMPLE_BYTES = 4_000_000


@dataclass(frozen=True)
class Base:
    """A frozen pretrained model in evaluation mode, and where it came from.

    name: as it was asked for; of a directory the absolute path, so that runs recognise it however it is spelled.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str
    source: str  # "package", "hub" or "directory"
    quantization: str | None
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """The dtype of the unquantized weights: "float32"."""
        return str(self.dtype).removeprefix("torch.")


def load_base(
    name: str | os.PathLike,
    quantization: str | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    device: str | None = None,
) -> Base:
    """Load a base model with every parameter frozen.

    name: a name of `catalogue` ("smollm2-135m" is packaged and works offline, the others are fetched from the Hub), a
    Hub id "org/name", or a directory, which comes before a name of the catalogue that is spelled alike.
    quantization: None, "nf4", "fp4" (4 bits a weight) or "int8", applied to the linear layers by bitsandbytes.
    dtype: what the unquantized weights are kept in; None takes what `workbench doctor` found fast here (else float32).
    revision: a branch, tag or commit of a Hub repository; the commit it resolved to is recorded.
    device: None takes the GPU where there is one, else the CPU.

    Raises ModelError, which says what to do, if the model cannot be loaded.
    """
    if quantization not in QUANTIZATIONS:
        raise ModelError(f"quantization={quantization!r} is not known; use None, 'nf4', 'fp4' or 'int8'.")
    if not isinstance(name, str | os.PathLike):
        raise ModelError(f"name={name!r} must be a name or a path, e.g. '{PACKAGED}'.")
    name = os.fspath(name)
    dtype, device = _as_dtype(dtype), device or _device()
    if dtype == torch.float16 and device == "cpu":
        raise ModelError("float16 needs a GPU; use dtype='float32' here.")
    location, source, found = locate(name, revision)
    if revision and source != "hub":
        raise ModelError("revision= is for Hub models; the packaged model and directories have one revision only.")
    of_hub = {"revision": revision if source == "hub" else None, "trust_remote_code": False}
    transformers.utils.logging.disable_progress_bar()  # loading takes a second; downloads keep their bars
    try:
        model, missing_keys = _read_weights(location, quantization, dtype, device, of_hub)
        tokenizer = AutoTokenizer.from_pretrained(location, **of_hub)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise ModelError(_explain(name, source, error)) from error
    _check_loaded(name, missing_keys, tokenizer)
    if source == "hub":
        found = getattr(model.config, "_commit_hash", None) or revision or "unknown"
    keep_weights_unpacked(model)
    settle_int8_state(model)
    quicken(model)
    model.requires_grad_(False)
    name = location if source == "directory" else name
    return Base(model.eval(), tokenizer, name, found, source, quantization, dtype)


def _read_weights(
    location: str, quantization: str | None, dtype: torch.dtype, device: str, of_hub: dict[str, Any]
) -> tuple[PreTrainedModel, set[str]]:
    """The model and the names of the tensors that its files lack. of_hub: options of every `from_pretrained`."""
    if stored := getattr(AutoConfig.from_pretrained(location, **of_hub), "quantization_config", None):
        raise ValueError(f"its weights are quantized already ({stored.get('quant_method')}); give the original")
    model, loading = AutoModelForCausalLM.from_pretrained(
        location,
        dtype=dtype,
        quantization_config=quantization_config(quantization, dtype),
        device_map=device,
        output_loading_info=True,
        **of_hub,
    )
    return model, set(loading["missing_keys"])


def _check_loaded(name: str, missing_keys: set[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ModelError for weights that are incomplete and for a tokenizer without an end-of-text token."""
    if missing := sorted(missing_keys):  # transformers would initialise them at random
        raise ModelError(
            f"{name} cannot be loaded: its weights lack {len(missing)} tensors of its config.json, first {missing[0]}."
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{name} has a tokenizer without an end-of-text token, so a model cannot learn to stop.")


def linear_modules(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Name -> (out, in) of every linear layer that can carry an adapter: all but the output head."""
    head = model.get_output_embeddings()
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def locate(name: str, revision: str | None = None) -> tuple[str, str, str]:
    """Where `load_base` loads `name` from: a directory or Hub id, the kind of source, and the revision as far as known.

    The kinds are those of `Base.source`. Raises ModelError if there is no such model.
    """
    if name == PACKAGED:
        return str(packaged_model()), "package", REVISION
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return str(path.resolve()), "directory", _directory_revision(path)
    if known := catalogue.find(name):
        return known.hub_id, "hub", revision or "main"
    if path.is_dir():
        raise ModelError(f"{path} holds no config.json; give the directory that save_pretrained wrote.")
    looks_like_path = path.is_absolute() or name.startswith((".", "~")) or name.endswith(("/", "\\"))
    if looks_like_path or name.count("/") != 1:
        names = ", ".join(catalogue.names())
        raise ModelError(
            f"No model {name!r}: no such directory, and not a Hub id like 'org/name'; names known here: {names}."
        )
    return name, "hub", revision or "main"


def _directory_revision(path: Path) -> str:
    """A hash over the names, sizes, beginnings and ends of the model's files (weights may take gigabytes)."""
    digest = hashlib.sha256()
    for file in [file for ending in REVISION_FILES for file in sorted(path.glob(f"*{ending}"))]:
        digest.update(f"{file.name}:{file.stat().st_size}:".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(REVISION_SAMPLE_BYTES))
            stream.seek(max(0, file.stat().st_size - REVISION_SAMPLE_BYTES))
            digest.update(stream.read())
    return f"files {digest.hexdigest()[:12]}"


def _as_dtype(dtype: torch.dtype | str | None) -> torch.dtype:
    """The dtype that was asked for; None is the one that the doctor found fast. Raises ModelError for another."""
    if dtype is None:
        return preferred_dtype()
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, None)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ModelError("dtype must be float32, bfloat16 or float16.")
    return dtype


def _device() -> str:
    """The device that Accelerate gives this process; the first call also joins the other processes of a launch."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    return str(PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device)


def _explain(name: str, source: str, error: Exception) -> str:
    """What is wrong and what to do, from whatever transformers or the Hub's client raised."""
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    chain: list[BaseException] = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    kinds = tuple(type(link) for link in chain)
    text = str(error)
    if GatedRepoError in kinds or "gated repo" in text:
        return f"{name} is gated: accept its licence on its Hub page, then run `hf auth login` and load it again."
    if RevisionNotFoundError in kinds or "is not a valid git identifier" in text:
        return (
            f"{name} has no such revision on the Hub; leave `revision` out or check the repository's branches and tags."
        )
    if RepositoryNotFoundError in kinds or "is not a valid model identifier" in text:
        return f"The Hub has no model {name!r} that you can read; check the spelling, or log in if it is private."
    unreachable = (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)
    if source == "hub" and any(isinstance(link, unreachable) or "cached files" in str(link) for link in chain):
        offline = "HF_HUB_OFFLINE is set, and " if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        return (
            f"{name} could not be loaded from the Hub: {offline}it is not in the local cache or the network is down; "
            f"load it once with a network, give a local directory, or use '{PACKAGED}'. ({first_line(error)[:200]})"
        )
    if "ignore_mismatched_sizes" in text:
        return f"{name} could not be loaded: its config.json names other sizes than its weights have."
    return f"{name} could not be loaded: {first_line(error)[:200]}"
