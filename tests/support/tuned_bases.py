"""Tuned models that nobody trained: random changes of a random base, as a full run, an adapter or a hybrid."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from support.random_bases import stock_adapter
from workbench.adapters import load
from workbench.models.base import Base

TARGETS = ["q_proj", "v_proj", "down_proj"]


def full_run(base: Base, size: float = 0.05) -> Base:
    """Every parameter of the base moved a little."""
    model = copy.deepcopy(base.model).float()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data += size * torch.randn(parameter.shape, generator=generator)
    return base.with_model(model, "tuned", dtype=torch.float32)


def adapter(base: Base, folder: Path, **options: Any) -> Base:
    """The base with an adapter of rank 3; options: of PEFT's LoraConfig."""
    config = LoraConfig(**{"r": 3, "lora_alpha": 12, "target_modules": TARGETS, **options})
    with warnings.catch_warnings(), torch.random.fork_rng():
        torch.manual_seed(0)
        warnings.simplefilter("ignore")  # PEFT asks the Hub whether the vocabulary has changed
        stock_adapter(base, config, folder)
    return base.with_model(load(base, folder), "adapted")


def state(base: Base) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in base.model.state_dict().items()}
