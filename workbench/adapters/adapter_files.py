"""The files of a saved adapter, read and checked by their headers before anything is built or allocated."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig, PeftConfig, PeftType, load_peft_weights
from safetensors import safe_open
from torch import Tensor, nn

from workbench.errors import AdapterError

WEIGHTS = "adapter_model.safetensors"
FLOATING = ("F64", "F32", "F16", "BF16")  # as safetensors spells them
BASE_PREFIX = "base_model.model."
SIZES = ("r", "num_virtual_tokens", "n_frequency", "num_vectors")  # of PEFT's kinds: each is a side of some tensor
# Where LoRA's factors start. PiSSA and OLoRA subtract the start from the base's weights; it can be found from them.
PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
SUBTRACTED_STARTS = ("pissa", "olora")
PREPENDING = (PeftType.PROMPT_TUNING, PeftType.P_TUNING, PeftType.MULTITASK_PROMPT_TUNING, PeftType.CPT)
ROUTED = {
    PeftType.POLY: "is told with each text which task it is of",
    PeftType.XLORA: "chooses between other adapters in a pass of its own",
}


class Entry(NamedTuple):
    """A tensor of a file: its shape and safetensors' name of its dtype."""

    shape: tuple[int, ...]
    dtype: str


def read_adapter_config(directory: Path) -> PeftConfig:
    """The PEFT configuration of a saved adapter; raises AdapterError for an adapter that cannot be loaded unchanged."""
    config = PeftConfig.from_pretrained(str(directory))
    if config.peft_type in PREPENDING:
        raise AdapterError(
            f"{config.peft_type.value} puts tokens of its own before every text, which the scores here do not expect; "
            "use PEFT's own generate() for it."
        )
    if config.peft_type in ROUTED:
        raise AdapterError(
            f"{config.peft_type.value} {ROUTED[config.peft_type]}, for which the scores here have no place; use PEFT's "
            "own generate() for it."
        )
    if getattr(config, "alora_invocation_tokens", None):
        raise AdapterError(
            "it acts only after certain tokens of a text (alora_invocation_tokens), which the scores here do not look "
            "for; use PEFT's own generate() for it."
        )
    start = getattr(config, "init_lora_weights", True)
    if start not in PLAIN_STARTS and not starts_in_the_base(config):
        raise AdapterError(
            f"init_lora_weights={start!r} has rewritten the base's weights, which cannot be redone here. Make it a "
            "plain adapter where it was trained: PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)."
        )
    return config


def starts_in_the_base(config: PeftConfig) -> bool:
    """Whether the adapter sits on weights of its own: those of the base less the start of its factors."""
    return str(getattr(config, "init_lora_weights", True)).lower() in SUBTRACTED_STARTS


def read_header(directory: Path) -> dict[str, Entry]:
    """Every tensor of the adapter's file. Only files that are pickled are read as a whole for that."""
    if (directory / WEIGHTS).is_file():
        with safe_open(directory / WEIGHTS, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return {name: Entry(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    weights = load_peft_weights(str(directory), device="cpu")
    return {name: Entry(tuple(tensor.shape), _dtype_name(tensor)) for name, tensor in weights.items()}


def check_header(config: PeftConfig, header: dict[str, Entry]) -> None:
    """Raise AdapterError where the configuration asks for more than the file holds, and for integer weights."""
    if not header:
        raise AdapterError("its file holds no tensors.")
    if config.peft_type == PeftType.LORA:
        for name, entry in header.items():
            if entry.dtype not in FLOATING:
                raise AdapterError(f"{name} is stored as {entry.dtype}, not as floating-point numbers; save it as F32.")
    largest = max(max(entry.shape, default=1) for entry in header.values())
    declared = {size: getattr(config, size) for size in SIZES if isinstance(getattr(config, size, None), int)}
    if isinstance(config, LoraConfig) and config.peft_type == PeftType.LORA:
        ranks = [rank for rank in (config.rank_pattern or {}).values() if isinstance(rank, int)]
        declared["r"] = max([declared.get("r", 0), *ranks])
        factors = [entry.shape[0] for name, entry in header.items() if "lora_A" in name or "lora_embedding_A" in name]
        largest = max(factors, default=largest)
    for name, size in declared.items():
        if size > largest:
            raise AdapterError(f"adapter_config.json says {name}={size}, and its weights have {largest} at most.")


def check_finite(weights: dict[str, Tensor]) -> None:
    """Raise AdapterError for a value that is no number."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise AdapterError(f"{name} holds values that are not finite (nan or inf); the training had diverged.")


def check_brought_along(model: nn.Module, header: dict[str, Entry], extra: set[str]) -> None:
    """Look at the tensors of a file that are no part of the adapter: the base's own that PEFT saves along.

    It does so with embeddings and head where they carry an adapter. Raises AdapterError for a name that the model does
    not have, and for another size of the vocabulary.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    for name in sorted(extra):
        if name not in own or "lora_" in name:
            raise AdapterError(f"{name} is in the file only.")
        found, wanted = list(header[name].shape), list(own[name].shape)
        if found != wanted:
            raise AdapterError(f"{name.removeprefix(BASE_PREFIX)} is {found} in the file and {wanted} in the base.")


def _dtype_name(tensor: Tensor) -> str:
    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    return names.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
