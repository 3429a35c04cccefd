"""The real model of a step, built by transformers and PEFT from a configuration, without weights."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any, TypeAlias

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from workbench.adapters.carriers import inject
from workbench.adapters.inject import peft_config
from workbench.errors import MemoryModelError
from workbench.memory.configs import language_model
from workbench.memory.setup import Setup
from workbench.memory.steps.fake_kernels import attention_implementation, fuse_dropout
from workbench.models.base import Base

# The random state cannot be saved while tensors are fake; it has a few bytes.
CHECKPOINTING = {"use_reentrant": False, "preserve_rng_state": False}

TrainedModule: TypeAlias = PreTrainedModel | PeftModel


def build(config: PreTrainedConfig, setup: Setup, left_out: Collection[str] = ()) -> TrainedModule:
    """The model ready for training: quantized, with adapters, in its dtypes, checkpointed. Its weights are not set.

    left_out: layers that get no adapter.
    """
    with no_init_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT 0.21 still reads names that transformers 5 has renamed
        dtype = base_dtype(setup)
        base = _build_base(config, setup, dtype)
        if setup.method.name == "qlora":
            from workbench.memory.steps.fake_4bit import store_in_4_bits  # it loads bitsandbytes, which may be missing

            store_in_4_bits(base, setup.double_quantization)
        model = prepare(base, setup, dtype, left_out).train()
        if setup.device == "cuda":
            fuse_dropout(model)
        if setup.checkpointing:
            model.activation_checkpointing_enable(CHECKPOINTING)
    return model


def base_dtype(setup: Setup) -> torch.dtype:
    """The dtype in which the base is built: of master weights, or of the frozen ones."""
    masters = setup.method.name == "full" and setup.dtype == "mixed"
    return torch.float32 if masters or setup.dtype == "float32" else torch.bfloat16


def _build_base(config: PreTrainedConfig, setup: Setup, dtype: torch.dtype) -> PreTrainedModel:
    """The base in `dtype`, with the attention of the setup."""
    kernel = attention_implementation(setup)
    at_once = {"attn_implementation": kernel} if kernel == "eager" else {}  # some families cannot change it later
    model = language_model(config, dtype=dtype, **at_once)
    model.tie_weights()
    model.set_attn_implementation(kernel)
    if model.config._attn_implementation != kernel:
        remedy = "another model" if kernel == "eager" else "attention='eager'"
        raise MemoryModelError(
            f"simulate() does not support {config.model_type!r} with attention={setup.attention!r}: it only runs with "
            f"its own implementation. Use {remedy}."
        )
    return model


def prepare(model: PreTrainedModel, setup: Setup, dtype: torch.dtype, left_out: Collection[str] = ()) -> TrainedModule:
    """Add adapters to a base, if the method does, and convert it as `setup` says. left_out: layers without adapters."""
    method = setup.method
    model.requires_grad_(method.name == "full")
    if method.name == "full":
        return model
    if method.name == "qlora" and setup.dtype != "mixed" and setup.prepared:
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    base = Base(model, None, model.config.model_type, "", "config", method.base_quantization, dtype)
    adapters = peft_config(base, method)
    adapters.target_modules = set(adapters.target_modules or ()).difference(left_out)
    adapted = inject(model, adapters)
    for name, parameter in adapted.named_parameters():
        if setup.dtype == "mixed" and parameter.requires_grad:
            parameter.data = parameter.data.float()
        elif setup.adapter_dtype == "bfloat16" and ".lora_" in name:
            parameter.data = parameter.data.bfloat16()
    return adapted


def make_fake(model: nn.Module) -> None:
    """Replace every parameter and buffer on the meta device by a fake tensor; tied weights stay tied."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        registered: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in registered:
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
                tensors[name] = made[id(tensor)]
