"""Whole models with quantized linear layers: their size, quantization simulated at full size, and dequantization."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from workbench.adapters.quantization import Quantized, dequantize, quantize, stored_bytes
from workbench.errors import QuantizationError
from workbench.models.base import Base, linear_modules, linear_weight, stored_weight
from workbench.models.sharing import shared_copy


def model_bytes(
    model: nn.Module, kind: str | None, block_size: int = 64, double_quantization: bool = False, other: int = 2
) -> int:
    """Bytes of all weights with the linear layers quantized (not, if kind is None).

    other: bytes of each weight that is not quantized; as in QLoRA, embeddings, norms and the output head are not.
    """
    linear = [out_features * in_features for out_features, in_features in linear_modules(model).values()]
    rest = sum(parameter.numel() for parameter in model.parameters()) - sum(linear)
    if kind is None:
        return other * (rest + sum(linear))
    return other * rest + sum(stored_bytes(entries, kind, block_size, double_quantization) for entries in linear)


def fake_quantize(base: Base, kind: str, block_size: int = 64, double_quantization: bool = False) -> Base:
    """A base whose linear layers hold dequantized values: it computes what a quantized model would, at full size.

    All other weights are shared with `base`, which stays as it is. Raises QuantizationError for a quantized base.
    """
    if base.quantization:
        raise QuantizationError(f"This base holds {base.quantization} codes; load it without quantization.")
    model = shared_copy(base.model)
    for name in linear_modules(model):
        linear: Any = model.get_submodule(name)
        # The blocks go along the rows of a weight that is (out, in).
        restored = dequantize(quantize(linear_weight(linear), kind, block_size, double_quantization))
        linear.weight = nn.Parameter(stored_weight(linear, restored), requires_grad=False)
    double = ", double quantization" if double_quantization else ""
    return base.with_model(model, f"{base.revision} as {kind} in blocks of {block_size}{double}")


def read_bitsandbytes(weight: Any) -> Quantized:
    """The 4-bit weight of a bitsandbytes layer (`Linear4bit.weight`) as a Quantized; the tensors are shared."""
    state = weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = Quantized("dynamic", state.state2.blocksize, absmax.shape, torch.float32, absmax, state.state2.absmax)
    codes = weight.data.view(torch.uint8).view(-1)
    return Quantized(state.quant_type, state.blocksize, state.shape, state.dtype, codes, absmax, state.offset)


def dequantize_base(base: Base) -> Base:
    """An NF4 or FP4 base with plain linear layers that hold its dequantized weights: what a QLoRA run computed with.

    Everything that is not a 4-bit layer is shared with `base`, which stays as it is. Raises QuantizationError for
    another base.
    """
    if base.quantization not in ("nf4", "fp4"):
        raise QuantizationError(f"quantization={base.quantization!r} here; load the base with 'nf4' or 'fp4'.")
    model = shared_copy(base.model)
    for name, (out_features, in_features) in linear_modules(model).items():
        old: Any = model.get_submodule(name)
        if not hasattr(old.weight, "quant_state"):
            continue  # bitsandbytes has left it in 16 bits
        linear = nn.Linear(in_features, out_features, bias=False, device="meta")
        restored = dequantize(read_bitsandbytes(old.weight)).to(base.dtype)
        linear.weight, linear.bias = nn.Parameter(restored, requires_grad=False), old.bias
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, linear)
    revision = f"{base.revision} as dequantized {base.quantization}"
    return base.with_model(model, revision, quantization=None, quantized_share=None)
