"""Loading a base in 4 or 8 bits through bitsandbytes, and what its layers need before they can be trained on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import (
    BitsAndBytesConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from workbench.console import say
from workbench.errors import ModelError
from workbench.models.checks import is_unreached

QUANTIZATIONS = (None, "nf4", "fp4", "int8")
LEAST_SHARE = 0.9  # of the weights that a base called quantized must hold quantized, unless less is asked for


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


def quantized_share(model: PreTrainedModel) -> tuple[float, dict[str, int]]:
    """The share of the model's linear weights that bitsandbytes has quantized, and the others: last names and sizes.

    Linear weights are all matrices that map to or from the hidden states, whatever holds them: nn.Linear and its
    subclasses, GPT-2's Conv1D, parameters that stack the experts of a mixture. Embeddings and the output head, which
    QLoRA leaves in 16 bits, do not count, nor do parts that text does not reach.
    """
    quantized = 0
    left: dict[str, int] = {}
    for name, entries, is_quantized in linear_weights(model):
        if is_quantized:
            quantized += entries
        else:
            kind = ".".join([part for part in name.split(".") if not part.isdigit()][-3:]).removesuffix(".weight")
            left[kind] = left.get(kind, 0) + entries
    total = quantized + sum(left.values())
    return (quantized / total if total else 1.0), left


def check_quantized(
    name: str, model: PreTrainedModel, quantization: str | None, dtype: torch.dtype, partial: bool
) -> float | None:
    """The share of the linear weights that are quantized; None if none was to be.

    Says what is left out; raises ModelError if that is too much and was not asked for (`partial`).
    """
    if quantization is None:
        return None
    share, left = quantized_share(model)
    largest = ", ".join(sorted(left, key=lambda kind: -left[kind])[:3])
    kept = f"{largest} {'stays' if len(left) == 1 else 'stay'} in {str(dtype).removeprefix('torch.')}"
    if share < LEAST_SHARE and not partial:
        raise ModelError(
            f"{name} cannot be loaded in {quantization}: bitsandbytes quantizes {share:.0%} of its linear weights; "
            f"{kept}. Load it unquantized, or as it is with partial_quantization=True (--partial-quantization)."
        )
    if share < 0.995:
        say(f"{name}: {share:.0%} of the linear weights are in {quantization}; {kept}.")
    return share


def linear_weights(model: PreTrainedModel) -> Iterator[tuple[str, int, bool]]:
    """Name, size and whether it is quantized, of each linear weight outside of embeddings and output head."""
    widths = {getattr(config, "hidden_size", None) for config in (model.config, model.config.get_text_config())}
    head = model.get_output_embeddings()
    for prefix, module in model.named_modules():
        if module is head or isinstance(module, (nn.Embedding, nn.modules.conv._ConvNd)) or is_unreached(model, prefix):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if type(parameter).__name__ in ("Params4bit", "Int8Params"):
                yield f"{prefix}.{name}", module.in_features * module.out_features, True
            elif parameter.dim() >= 2 and "bias" not in name and _is_linear(module, parameter, widths):
                yield f"{prefix}.{name}", parameter.numel(), False


def _is_linear(module: nn.Module, parameter: torch.Tensor, widths: set[int | None]) -> bool:
    sides = set(parameter.shape[-2:])
    return isinstance(module, (nn.Linear, Conv1D)) or (bool(sides & widths) and min(sides) > 1)


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
