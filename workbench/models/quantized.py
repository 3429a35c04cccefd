"""Loading a base in 4 or 8 bits through bitsandbytes, and what its layers need before they can be trained on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    BitsAndBytesConfig,
)

QUANTIZATIONS = (None, "nf4", "fp4", "int8")


def quantization_config(kind: str | None, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if kind is None:
        return None
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def keep_weights_unpacked(model: nn.Module) -> None:
    """Switch off the layout that bitsandbytes uses for inference on CPUs.

    On CPUs with AVX512-BF16 one evaluation repacks 4-bit weights into a layout whose kernel has no backward pass: any
    training after it silently loses most gradients.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def settle_int8_state(model: nn.Module) -> None:
    """Initialise the statistics of every 8-bit layer now.

    bitsandbytes otherwise moves them from the weight into the first layer that computes with it, even if that is a
    copy; the original would then read its 8-bit codes as values.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "init_8bit_state"):
            module.init_8bit_state()
