"""What fine-tuning leaves behind: plain PEFT adapters or full checkpoints, saved as safetensors and loaded again."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM

from workbench import WorkbenchError
from workbench.models import Base, share
from workbench.quick import quicken


class AdapterError(WorkbenchError, ValueError):
    """A saved adapter or checkpoint that cannot be used; the message says why."""


def save(model: nn.Module, directory: str | os.PathLike) -> int:
    """Write a tuned model: an adapter in PEFT's own format, or a whole checkpoint. Returns the bytes on disk."""
    directory = Path(directory)
    with warnings.catch_warnings():
        # PEFT asks the Hub whether the vocabulary has changed; ours has not, and there may be no network.
        warnings.filterwarnings("ignore", message=".*Could not find a config file.*")
        options = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
        model.save_pretrained(directory, safe_serialization=True, **options)
    return directory_bytes(directory)


def load(base: Base, directory: str | os.PathLike) -> nn.Module:
    """The tuned model: `base` with the adapter in a stock PEFT wrapper (sharing the base's weights), or the checkpoint.

    Raises AdapterError when the directory is incomplete or the adapter belongs to another architecture.
    """
    directory = Path(directory)
    if (directory / "adapter_config.json").is_file():
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*")
                model = PeftModel.from_pretrained(share(base.model), directory)
            _restore_opened_modules(model, directory)
        except (RuntimeError, ValueError, OSError, SafetensorError) as error:
            first = str(error).strip().splitlines()[0]
            raise AdapterError(f"The adapter in {directory} is damaged or does not fit {base.name}: {first}") from error
    elif (directory / "config.json").is_file():
        try:
            model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, trust_remote_code=False)
        except (OSError, SafetensorError) as error:
            raise AdapterError(f"The checkpoint in {directory} is damaged: {str(error).splitlines()[0]}") from error
        model.to(base.model.device)
        quicken(model)
    else:
        raise AdapterError(f"{directory} holds neither adapter_config.json nor config.json; was the run saved?")
    return model.requires_grad_(False).eval()


def _restore_opened_modules(model: PeftModel, directory: Path) -> None:
    """A hybrid's opened modules as they were trained, in float32: PEFT loads them in the base's dtype."""
    if not model.peft_config["default"].modules_to_save:
        return
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save.float()
    set_peft_model_state_dict(model, load_peft_weights(str(directory), device=str(model.device)))


def directory_bytes(directory: str | os.PathLike) -> int:
    return sum(file.stat().st_size for file in Path(directory).rglob("*") if file.is_file())
