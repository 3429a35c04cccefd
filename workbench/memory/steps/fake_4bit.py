"""A replacement for bitsandbytes' 4-bit layers in a step on fake tensors: it allocates what the original does."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from workbench.adapters.quantization import stored_parts
from workbench.memory.setup import BLOCK_4BIT, code_book_values
from workbench.models.quantized import linear_weights


class Fake4bitProduct(torch.autograd.Function):
    """x W^T with W stored in 4 bits: dequantized for the product and freed, forward and backward.

    Like bitsandbytes' it saves no tensor through autograd, so that checkpointing recomputes nothing for its sake.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, int], double: bool) -> Tensor:
        ctx.shape, ctx.double = shape, double
        return nn.functional.linear(x, dequantized(shape, x.dtype, double))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient @ dequantized(ctx.shape, gradient.dtype, ctx.double), None, None


def dequantized(shape: tuple[int, int], dtype: torch.dtype, double: bool) -> Tensor:
    """Weights (out, in) dequantized from 4 bits; with double quantization float32 scales are made first, and freed."""
    parts = stored_parts(math.prod(shape), "nf4", BLOCK_4BIT, double)
    scales = torch.empty(parts["scales"] if double else 0, dtype=torch.float32)
    weights = torch.empty(shape, dtype=dtype)
    del scales
    return weights


class Linear4bit(bnb.nn.Linear4bit):
    """A linear layer with tensors of the same sizes as bitsandbytes' NF4 layer. double: with double quantization."""

    def __init__(self, layer: nn.Linear | Conv1D, double: bool = True) -> None:
        nn.Module.__init__(self)
        sizes = (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)
        self.in_features, self.out_features = sizes
        self.bias, self.double = layer.bias, double
        parts = stored_parts(layer.weight.numel(), "nf4", BLOCK_4BIT, double)
        weight = nn.Parameter(torch.empty(parts["codes"], 1, dtype=torch.uint8), requires_grad=False)
        for name, value in (("compress_statistics", double), ("quant_type", "nf4")):
            setattr(weight, name, value)  # PEFT reads them
        self.weight = weight
        self.compute_dtype = layer.weight.dtype
        self.register_buffer("scales", torch.empty(parts["scales"], dtype=torch.uint8))
        if double:
            self.register_buffer("scales_of_scales", torch.empty(parts["scales of scales"] // 4))
        self.register_buffer("code_books", torch.empty(code_book_values(double)))

    def forward(self, x: Tensor) -> Tensor:
        shape = (self.out_features, self.in_features)
        product = Fake4bitProduct.apply(x.to(self.compute_dtype), shape, self.double)
        return (product if self.bias is None else product + self.bias.to(product.dtype)).to(x.dtype)


def store_in_4_bits(model: PreTrainedModel, double: bool = True) -> None:
    """Replace every linear layer that bitsandbytes quantizes by a `Linear4bit`, in place: all but the output head."""
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) in (nn.Linear, Conv1D) and module is not head:
            model.set_submodule(name, Linear4bit(module, double))
    model.is_loaded_in_4bit = True


def kept_unquantized(model: PreTrainedModel) -> str:
    """Words for the linear weights that are not in 4 bits, as `load_base` counts them: their share, and the largest.

    Experts of a mixture are often one tensor without a linear layer. Empty if they are less than one in a hundred.
    """
    quantized = sum(m.in_features * m.out_features for m in model.modules() if isinstance(m, Linear4bit))
    kept: Counter[str] = Counter()
    for name, entries, _ in linear_weights(model):
        holder, _, last = name.rpartition(".")
        if ".lora_" not in name and not isinstance(model.get_submodule(holder), Linear4bit):
            path = [part for part in holder.split(".") if not part.isdigit() and part != "base_layer"]  # of PEFT
            kept[".".join([*path[-2:], last]).removesuffix(".weight")] += entries
    share = kept.total() / (quantized + kept.total() or 1)
    if share < 0.01:
        return ""
    most = ", ".join(name for name, _ in kept.most_common(2))
    dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return f"{share:.0%} of the linear weights stay in {dtype}, not in 4 bits, most in {most}"
