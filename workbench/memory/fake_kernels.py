"""Replacements for GPU kernels and for bitsandbytes in a step on fake tensors: they allocate what the originals do.

Fake tensors are on the CPU, because torch without CUDA cannot differentiate others. Therefore the kernels that sdpa
would choose on a GPU are called by name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import bitsandbytes as bnb
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from workbench.adapters.adapter_files import BASE_PREFIX
from workbench.adapters.quantization import stored_parts
from workbench.memory.setup import BLOCK_4BIT, BLOCK_8BIT, CODE_BOOK_VALUES, SMALLEST_8BIT
from workbench.models.quantized import linear_weights


def efficient_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    **options: Any,
) -> tuple[Tensor, None]:
    """torch's sdpa on CUDA for a padded batch: keys and values repeated, a float mask, memory-efficient attention."""
    query, key, value = _as_autocast(query, key, value)
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    length = attention_mask.shape[-1]
    bias = torch.empty(*attention_mask.shape[:-1], -(-length // 16) * 16, dtype=query.dtype, device=query.device)
    bias = bias[..., :length].expand(-1, query.shape[1], -1, -1)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    dropout, scale = options.get("dropout", 0.0), options.get("scaling")
    out = kernel(query, key, value, bias, torch.is_grad_enabled(), dropout, False, scale=scale)[0]
    return out.transpose(1, 2).contiguous(), None


def flash_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """torch's sdpa on CUDA without a mask: the flash kernel."""
    query, key, value = _as_autocast(query, key, value)
    dropout, scale = options.get("dropout", 0.0), options.get("scaling")
    out = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout, True, scale=scale)[0]
    return out.transpose(1, 2).contiguous(), None


def _as_autocast(*tensors: Tensor) -> list[Tensor]:
    """Autocast converts the inputs of sdpa to bfloat16, but not those of its kernels when they are called by name."""
    return [tensor.to(torch.bfloat16) if torch.is_autocast_enabled("cpu") else tensor for tensor in tensors]


def padded_mask(batch_size: int, q_length: int, kv_length: int, device: torch.device | str = "cpu", **_: Any) -> Tensor:
    """A boolean mask, (batch, 1, query, key). transformers' own would read the batch, which has no contents."""
    return torch.empty(batch_size, 1, q_length, kv_length, dtype=torch.bool, device=device)


def no_mask(**_: Any) -> None:
    """No mask, as for batches without padding."""


# (attention, device) of a `Setup` -> the name under which transformers finds the implementation
ATTENTION = {
    ("sdpa", "cuda"): "workbench_efficient",
    ("flash", "cuda"): "workbench_unmasked",
    ("eager", "cuda"): "eager",
    ("sdpa", "cpu"): "workbench_cpu",
    ("eager", "cpu"): "eager",
}
for _name, _attention, _mask in (
    ("workbench_efficient", efficient_attention, padded_mask),
    ("workbench_unmasked", flash_attention, no_mask),
    ("workbench_cpu", sdpa_attention_forward, padded_mask),
):
    ALL_ATTENTION_FUNCTIONS.register(_name, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_name, _mask)


class Fake4bitProduct(torch.autograd.Function):
    """x W^T with W stored in 4 bits: dequantized for the product and freed, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        ctx.save_for_backward(weight)
        return nn.functional.linear(x, dequantized(weight, shape, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return gradient @ dequantized(weight, ctx.shape, gradient.dtype), None, None


def dequantized(weight: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Weights (out, in) dequantized from 4 bits; their float32 scales are freed once the weights are made."""
    parts = stored_parts(math.prod(shape), "nf4", BLOCK_4BIT, double_quantization=True)
    scales = torch.empty(parts["scales"], dtype=torch.float32)
    weights = torch.empty(shape, dtype=dtype)
    del scales
    return weights


class Linear4bit(bnb.nn.Linear4bit):
    """A linear layer with tensors of the same sizes as bitsandbytes' NF4 layer with double quantization."""

    def __init__(self, layer: nn.Linear | Conv1D) -> None:
        nn.Module.__init__(self)
        sizes = (layer.nx, layer.nf) if isinstance(layer, Conv1D) else (layer.in_features, layer.out_features)
        self.in_features, self.out_features = sizes
        self.bias = layer.bias
        parts = stored_parts(layer.weight.numel(), "nf4", BLOCK_4BIT, double_quantization=True)
        weight = nn.Parameter(torch.empty(parts["codes"], 1, dtype=torch.uint8), requires_grad=False)
        for name, value in (("compress_statistics", True), ("quant_type", "nf4")):
            setattr(weight, name, value)  # PEFT reads them
        self.weight = weight
        self.compute_dtype = layer.weight.dtype
        self.register_buffer("scales", torch.empty(parts["scales"], dtype=torch.uint8))
        self.register_buffer("scales_of_scales", torch.empty(parts["scales of scales"] // 4))
        self.register_buffer("code_books", torch.empty(CODE_BOOK_VALUES))

    def forward(self, x: Tensor) -> Tensor:
        shape = (self.out_features, self.in_features)
        product = Fake4bitProduct.apply(x.to(self.compute_dtype), self.weight, shape)
        return (product if self.bias is None else product + self.bias.to(product.dtype)).to(x.dtype)


def store_in_4_bits(model: PreTrainedModel) -> None:
    """Replace every linear layer that bitsandbytes quantizes by a `Linear4bit`, in place: all but the output head."""
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) in (nn.Linear, Conv1D) and module is not head:
            model.set_submodule(name, Linear4bit(module))
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


def with_own_forward(model: nn.Module) -> set[str]:
    """The adapted layers that compute something else than nn.Linear, such as a mixture's choice of experts."""
    layers = {name: module.base_layer for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    usual = (nn.Linear.forward, Linear4bit.forward)
    return {name.removeprefix(BASE_PREFIX) for name, layer in layers.items() if type(layer).forward not in usual}


class FakeAdamW8bit(torch.optim.Optimizer):
    """An optimizer with the state of bitsandbytes' AdamW8bit: two averages in 8 bits, with their scales."""

    def __init__(self, trained: Iterable[nn.Parameter]) -> None:
        super().__init__(trained, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        """Allocate the state of parameters that have none. bitsandbytes updates it in place."""
        for parameter in self.param_groups[0]["params"]:
            if self.state[parameter]:
                continue
            small = parameter.numel() < SMALLEST_8BIT
            for moment in ("state1", "state2"):
                dtype = torch.float32 if small else torch.uint8
                self.state[parameter][moment] = torch.zeros(parameter.shape, dtype=dtype)
                if not small:
                    blocks = -(-parameter.numel() // BLOCK_8BIT)
                    self.state[parameter][f"scales_{moment}"] = torch.zeros(blocks)


class FusedDropout(nn.Dropout):
    """Dropout as on a GPU, which saves a mask of one byte per element. A CPU saves a mask in the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_dropout(x, self.p, True)[0]


def fuse_dropout(model: nn.Module) -> None:
    """Turn every dropout of `model` into a `FusedDropout`, in place."""
    for module in model.modules():
        if type(module) is nn.Dropout and module.p > 0:
            module.__class__ = FusedDropout
