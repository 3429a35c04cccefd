"""The model of a check: a configuration, and a base with random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from workbench.memory.configs import language_model, model_config
from workbench.models.base import Base
from workbench.models.padding_free import use_row_attention


def configuration(model: str | dict[str, Any]) -> PreTrainedConfig:
    """The configuration of a name of the catalogue, or of fields with a model_type."""
    if isinstance(model, str):
        return model_config(model)
    fields = dict(model)
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


def random_base(model: str | dict[str, Any], dtype: torch.dtype, device: torch.device) -> Base:
    """A frozen base with random weights, which can leave padding out; it has no tokenizer."""
    with torch.device(device):
        built = language_model(configuration(model), dtype=dtype)
    built.tie_weights()
    built.requires_grad_(False).eval()
    use_row_attention(built)
    return Base(built, None, "random", "random", "config", None, dtype)
