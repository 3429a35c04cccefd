"""Save and load what was trained, as PEFT adapters or full checkpoints; truncate, rescale and merge adapters."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from workbench.adapters import lowrank
from workbench.console import first_line
from workbench.errors import AdapterError
from workbench.models.base import Base
from workbench.models.cpu_kernels import quicken
from workbench.models.padding_free import use_row_attention
from workbench.models.sharing import share

# What PEFT, transformers and safetensors raise for damaged or unsuitable files.
DAMAGES = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError)


def save(model: PreTrainedModel | PeftModel, directory: str | os.PathLike) -> int:
    """Write a tuned model: an adapter in PEFT's own format, or a whole checkpoint. Returns the bytes on disk."""
    directory = Path(directory)
    with warnings.catch_warnings():
        # PEFT asks the Hub whether the vocabulary has changed; it has not, and there may be no network.
        warnings.filterwarnings("ignore", message=".*Could not find a config file.*")
        options = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
        model.save_pretrained(directory, safe_serialization=True, **options)
    return directory_bytes(directory)


def load(base: Base, directory: str | os.PathLike) -> PreTrainedModel | PeftModel:
    """The tuned model: `base` with the adapter in a stock PEFT wrapper (sharing the base's weights), or the checkpoint.

    Raises AdapterError when the directory is incomplete or the adapter belongs to another architecture: every tensor of
    the file must have a place in the model, and every adapter tensor of the model must be in the file.
    """
    directory = Path(directory)
    if (directory / "adapter_config.json").is_file():
        model = _load_adapter(base, directory)
    elif (directory / "config.json").is_file():
        model = _load_checkpoint(base, directory)
    else:
        raise AdapterError(f"{directory} holds neither adapter_config.json nor config.json; was the run saved?")
    return model.requires_grad_(False).eval()


def _load_adapter(base: Base, directory: Path) -> PeftModel:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*")
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # these are refused below
            model = PeftModel.from_pretrained(share(base.model), directory)
        weights = load_peft_weights(str(directory), device=str(model.device))
        _check_names(model, weights)
        _restore_opened_modules(model, weights)
    except DAMAGES as error:
        words = f"The adapter in {directory} is damaged or does not fit {base.name}: {first_line(error)}"
        raise AdapterError(words) from error
    return model


def _load_checkpoint(base: Base, directory: Path) -> PreTrainedModel:
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
        if missing := sorted(loading["missing_keys"]):  # transformers would initialise them at random
            raise AdapterError(f"its weights lack {missing[0]}.")
    except DAMAGES as error:
        raise AdapterError(f"The checkpoint in {directory} is damaged: {first_line(error)}") from error
    model.to(base.model.device)
    quicken(model)
    use_row_attention(model)
    return model


def change(
    model: PeftModel, rank: int | None = None, alpha: float | None = None, targets: Sequence[str] | None = None
) -> PeftModel:
    """A copy of an adapted model with changed updates; modules that were trained in full stay as they are.

    rank: each update is truncated to the nearest matrix of this rank (see `lowrank.truncate`), unless its rank is
        lower already. The factor alpha / r stays that of training.
    alpha: each update is multiplied by alpha / (alpha in training); 0 turns them off.
    targets: only the updates of modules with these names act, e.g. ["q_proj", "v_proj"]; none with [].

    The copy shares every tensor that is not changed. Use it to compute, not to save: its PEFT configuration is still
    that of training. Raises AdapterError for DoRA, whose update is not a product of two matrices, for a rank below 1,
    a negative alpha, and a name without adapters.
    """
    steps = []
    if model.peft_config["default"].use_dora:
        raise AdapterError("A DoRA update is not a product of two small matrices; it cannot be cut or rescaled.")
    if rank is not None:
        steps.append(_truncate_to(rank))
    if alpha is not None:
        steps.append(_rescale(alpha))
    if targets is not None:
        steps.append(_turn_off_all_but(model, targets))
    copy = share(model)
    for name, layer in copy.named_modules():
        if isinstance(layer, LoraLayer):
            for step in steps:
                step(name, layer)
    return copy


Step = Callable[[str, LoraLayer], None]  # changes a layer, given its full name


def _truncate_to(rank: int) -> Step:
    if not isinstance(rank, int) or rank < 1:
        raise AdapterError(f"rank={rank!r} must be a whole number of at least 1; alpha=0 turns an adapter off.")

    def truncate(_: str, layer: LoraLayer) -> None:
        A, B = layer.lora_A["default"], layer.lora_B["default"]  # noqa: N806 - as in lowrank
        if rank < min(layer.r["default"], layer.in_features, layer.out_features):
            new_A, new_B = lowrank.truncate(A.weight.detach().float(), B.weight.detach().float(), rank)  # noqa: N806
            A.weight, B.weight = (nn.Parameter(new, requires_grad=False) for new in (new_A, new_B))
            A.out_features = B.in_features = layer.r["default"] = rank

    return truncate


def _rescale(alpha: float) -> Step:
    if not alpha >= 0:
        raise AdapterError(f"alpha={alpha} must be 0 or more.")

    def rescale(_: str, layer: LoraLayer) -> None:
        layer.scaling["default"] *= alpha / layer.lora_alpha["default"]

    return rescale


def _turn_off_all_but(model: PeftModel, targets: Sequence[str]) -> Step:
    ends = tuple(targets)
    adapted = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    if unknown := set(ends) - adapted:
        raise AdapterError(f"The adapter has none on {sorted(unknown)}; it has them on {sorted(adapted)}.")

    def turn_off(name: str, layer: LoraLayer) -> None:
        if name.rpartition(".")[2] not in ends:
            layer.scaling["default"] = 0.0

    return turn_off


def merge(onto: nn.Module, model: PeftModel, dtype: torch.dtype | None = None) -> nn.Module:
    """A plain model: the linear weights of `onto` plus the updates of `model`; all else is shared with `onto`.

    onto: unquantized, of the same architecture; it stays as it is (PEFT's own merge would change weights that are
    shared). dtype: round the sums to it, as saving a checkpoint in it would; the model computes in the dtype of `onto`.
    Raises AdapterError for DoRA, for a hybrid, and for a quantized `onto`.
    """
    if model.peft_config["default"].use_dora:
        raise AdapterError("A DoRA update is no plain sum, so merge() cannot add it; PEFT's merge_and_unload can.")
    if opened := model.peft_config["default"].modules_to_save:
        raise AdapterError(
            f"merge() adds updates, and {opened[0]} was trained whole; PEFT's merge_and_unload does both."
        )
    merged = share(onto)
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            linear: Any = merged.get_submodule(name.removeprefix("base_model.model."))
            if not linear.weight.is_floating_point():
                raise AdapterError("merge() adds to plain weights; give it quantization.dequantize_base(base).model.")
            A, B = (each["default"].weight.detach().float() for each in (layer.lora_A, layer.lora_B))  # noqa: N806
            weight = linear.weight.float() + lowrank.delta_weight(A, B, layer.scaling["default"])
            weight = weight.to(dtype or linear.weight.dtype).to(linear.weight.dtype)
            linear.weight = nn.Parameter(weight, requires_grad=False)
    return merged


def spectra(model: PeftModel) -> dict[str, torch.Tensor]:
    """Module name -> the r largest singular values of its update alpha / r B A, in falling order.

    Where r exceeds the layer's smaller side, zeros are appended. For DoRA they are those of B A, not of the update.
    """
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            A, B = (each["default"].weight.detach().float() for each in (layer.lora_A, layer.lora_B))  # noqa: N806
            core = torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T
            values = torch.linalg.svdvals(core)
            found[name] = layer.scaling["default"] * nn.functional.pad(values, (0, len(A) - len(values)))
    return found


def _check_names(model: PeftModel, weights: dict[str, torch.Tensor]) -> None:
    """Compare tensor names, since PEFT skips extra tensors and leaves missing ones at their initial values."""
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    if different := sorted(wanted.keys() ^ weights.keys()):
        place = "model" if different[0] in wanted else "file"
        raise AdapterError(f"{different[0]} is in the {place} only.")


def _restore_opened_modules(model: PeftModel, weights: dict[str, torch.Tensor]) -> None:
    """Load a hybrid's opened modules again in float32, as they were trained: PEFT loads them in the base's dtype."""
    if not model.peft_config["default"].modules_to_save:
        return
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save.float()
    set_peft_model_state_dict(model, weights)


def directory_bytes(directory: str | os.PathLike) -> int:
    """The size of all files in a folder and below it."""
    return sum(file.stat().st_size for file in Path(directory).rglob("*") if file.is_file())
