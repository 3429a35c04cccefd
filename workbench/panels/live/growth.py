"""The singular values of one layer's update while a run trains."""

from __future__ import annotations

from typing import NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from workbench.adapters.updates import factors


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
    A, B = (part.float() for part in factors(name, layer))  # noqa: N806 - as in lowrank
    core = torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T
    return Growth(
        name.partition("layers.")[2] or name, (layer.scaling["default"] * torch.linalg.svdvals(core)).tolist()
    )
