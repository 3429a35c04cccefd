"""What stands in for a GPU's kernels, and for bitsandbytes, in a step on fake tensors: the same storage, no numbers.

Fake tensors say that they are on the CPU, since a torch without CUDA cannot differentiate others. The kernels that sdpa
would choose on a GPU are therefore called by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from workbench.adapters.quantization import stored_parts
from workbench.memory.setup import BLOCK_4BIT, BLOCK_8BIT, CODE_BOOK_VALUES, SMALLEST_8BIT
from workbench.models.base import linear_modules


def efficient_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What torch's sdpa does on CUDA for a padded batch: keys and values repeated, the mask as numbers, one kernel."""
    query, key, value = as_autocast(query, key, value)
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    length = attention_mask.shape[-1]
    bias = torch.empty(*attention_mask.shape[:-1], -(-length // 16) * 16, dtype=query.dtype, device=query.device)
    bias = bias[..., :length].expand(-1, query.shape[1], -1, -1)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    out = kernel(query, key, value, bias, torch.is_grad_enabled(), dropout, False, scale=scaling)[0]
    return out.transpose(1, 2).contiguous(), None


def flash_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What torch's sdpa does on CUDA when no mask is given: the flash kernel."""
    query, key, value = as_autocast(query, key, value)
    out = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout, True, scale=scaling)[0]
    return out.transpose(1, 2).contiguous(), None


def as_autocast(*tensors: Tensor) -> list[Tensor]:
    """Autocast lowers what goes into sdpa; the kernels behind it, called by name, have to be given it lowered."""
    return [tensor.to(torch.bfloat16) if torch.is_autocast_enabled("cpu") else tensor for tensor in tensors]


def padded_mask(batch_size: int, q_length: int, kv_length: int, device: torch.device | str = "cpu", **_: Any) -> Tensor:
    """(batch, 1, query, key) booleans, without looking into the batch, which holds no numbers."""
    return torch.empty(batch_size, 1, q_length, kv_length, dtype=torch.bool, device=device)


def no_mask(**_: Any) -> None:
    """No mask, as for batches without padding."""


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
    """x W^T with W stored in 4 bits: unpacked for the product and thrown away, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        ctx.save_for_backward(weight)
        return nn.functional.linear(x, unpacked(weight, shape, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient @ unpacked(*ctx.saved_tensors, ctx.shape, gradient.dtype), None, None


def unpacked(weight: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Weights (out, in) unpacked from 4 bits; their scales, unpacked to float32, live until the weights are made."""
    parts = stored_parts(math.prod(shape), "nf4", BLOCK_4BIT, double_quantization=True)
    scales = torch.empty(parts["scales"], dtype=torch.float32)
    weights = torch.empty(shape, dtype=dtype)
    del scales
    return weights


class Linear4bit(bnb.nn.Linear4bit):
    """A linear layer with the storage of bitsandbytes' NF4 layer with double quantization, and no numbers."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        parts = stored_parts(layer.weight.numel(), "nf4", BLOCK_4BIT, double_quantization=True)
        self.weight = nn.Parameter(torch.empty(parts["codes"], 1, dtype=torch.uint8), requires_grad=False)
        self.weight.compress_statistics, self.weight.quant_type = True, "nf4"
        self.compute_dtype = layer.weight.dtype
        self.register_buffer("scales", torch.empty(parts["scales"], dtype=torch.uint8))
        self.register_buffer("scales_of_scales", torch.empty(parts["scales of scales"] // 4))
        self.register_buffer("code_books", torch.empty(CODE_BOOK_VALUES))

    def forward(self, x: Tensor) -> Tensor:
        shape = (self.out_features, self.in_features)
        product = Fake4bitProduct.apply(x.to(self.compute_dtype), self.weight, shape)
        return (product if self.bias is None else product + self.bias.to(product.dtype)).to(x.dtype)


def store_in_4_bits(model: PreTrainedModel) -> None:
    """Replace every linear layer that adapters attach to by a `Linear4bit`, in place."""
    for name in linear_modules(model):
        model.set_submodule(name, Linear4bit(model.get_submodule(name)))
    model.is_loaded_in_4bit = True


class FakeAdamW8bit(torch.optim.Optimizer):
    """The state of bitsandbytes' AdamW8bit, updated in place by one kernel: one byte and a share of a scale, twice."""

    def __init__(self, trained: Iterable[nn.Parameter]) -> None:
        super().__init__(trained, {})

    @torch.no_grad()
    def step(self) -> None:
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
    """Dropout as a GPU does it: one kernel, which keeps a mask of a byte a number. A CPU keeps a whole number."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_dropout(x, self.p, True)[0]


def fuse_dropout(model: nn.Module) -> None:
    """Make every dropout of `model` a `FusedDropout`, in place."""
    for module in model.modules():
        if type(module) is nn.Dropout and module.p > 0:
            module.__class__ = FusedDropout
