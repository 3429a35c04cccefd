"""Bases of many model families with random weights, built in memory, and adapters saved for them by stock PEFT."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from support.bases_on_disk import SIZES as SMALL
from workbench.models.base import Base

SIZES = {
    "vocab_size": 200,
    **SMALL,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
ROUTED = {
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "head_dim": 8,
}
SHARED = {
    **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1},
    **{"first_k_dense_replace": 1, "n_shared_experts": 1, "head_dim": 8},
}
OWN_SIZES: dict[str, dict[str, Any]] = {  # None leaves a size out
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, **dict.fromkeys(list(SIZES)[1:6])},
    "mixtral": ROUTED,
    "qwen2_moe": ROUTED | {"shared_expert_intermediate_size": 32, "decoder_sparse_step": 1},
    "qwen3_moe": ROUTED,
    "olmoe": ROUTED,
    "glm4_moe": SHARED,
    "gemma2": {"head_dim": 8},
}
IDS = torch.tensor([[5, 9, 3, 77, 140, 6, 21, 9, 4, 30]])


def random_base(family: str, dtype: torch.dtype = torch.float32, **fields: Any) -> Base:
    """A base of this family; fields: of its configuration."""
    given = {**SIZES, **OWN_SIZES.get(family, {}), **fields}
    config = AutoConfig.for_model(family, **{name: value for name, value in given.items() if value is not None})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()  # zeros would hide a forgotten one
    return Base(model, None, family, "random", "directory", None, dtype)


def stock_adapter(base: Base, config: PeftConfig, folder: Path) -> torch.Tensor:
    """Save an adapter of moved weights as stock PEFT does, from a copy of the base; returns its logits for IDS."""
    own = AutoModelForCausalLM.from_config(copy.deepcopy(base.model.config), dtype=base.dtype)
    own.load_state_dict(base.model.state_dict())
    model = get_peft_model(own, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    model.eval().save_pretrained(folder)
    return logits(model)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits
