"""The singular values of one layer's update while a run trains."""

from __future__ import annotations

from typing import NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from workbench.adapters.updates import singular_values


class Growth(NamedTuple):
    """One layer's update: the layer's name and the singular values of its dW, largest first."""

    layer: str
    values: list[float]


@torch.no_grad()
def growth(model: nn.Module) -> Growth | None:
    """Of the middle layer with a LoRA adapter; None for a model without one. It takes two small QR decompositions."""
    if not isinstance(model, PeftModel):
        return None
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    if not layers:
        return None
    name, layer = layers[len(layers) // 2]
    return Growth(name.partition("layers.")[2] or name, singular_values(name, layer).tolist())
