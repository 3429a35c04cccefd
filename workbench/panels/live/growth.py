"""The singular values of one layer's update while a run trains."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from workbench.adapters.updates import singular_values
from workbench.models.base import linear_modules
from workbench.seeds import RandomNumbers

LARGEST = 32


class Growth(NamedTuple):
    """One layer's update: the layer's name and the singular values of its dW, largest first."""

    layer: str
    values: list[float]


@torch.no_grad()
def growth(model: nn.Module, base: nn.Module) -> Growth | None:
    """Of the middle layer with a LoRA adapter or, in a model that is trained whole, of the middle linear layer.

    base: what the model was before; its weights are read where there is no adapter. B A takes two small QR
    decompositions; of a whole update W - W_base the LARGEST values are approximated by a few products with random
    vectors (`torch.svd_lowrank`). None for a model without linear layers.
    """
    if isinstance(model, PeftModel):
        layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
        if not layers:
            return None
        name, layer = layers[len(layers) // 2]
        values = singular_values(name, layer)
    else:
        names = list(linear_modules(cast("PreTrainedModel", model)))
        if not names:
            return None
        name = names[len(names) // 2]
        before, after = (each.get_parameter(f"{name}.weight") for each in (base, model))
        change = after.float() - before.to(after.device).float()
        with RandomNumbers(0):  # a run is the same whether it is watched or not
            values = torch.svd_lowrank(change, q=min(LARGEST, *change.shape), niter=4)[1]
    return Growth(name.partition("layers.")[2] or name, values.tolist())
