"""Replacements for GPU kernels and optimizers in a step on fake tensors: they allocate what the originals do.

Fake tensors are on the CPU, because torch without CUDA cannot differentiate others. Therefore the kernels that sdpa
would choose on a GPU are called by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from workbench.memory.setup import BLOCK_8BIT, SMALLEST_8BIT, SMALLEST_PAGED, Setup, fused_chunk


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


# (attention, device) of a `Setup` -> the name under which transformers finds our implementation, and its mask
OURS = {
    ("sdpa", "cuda"): ("workbench_efficient", efficient_attention, padded_mask),
    ("flash", "cuda"): ("workbench_unmasked", flash_attention, no_mask),
    ("sdpa", "cpu"): ("workbench_cpu", sdpa_attention_forward, padded_mask),
}


def attention_implementation(setup: Setup) -> str:
    """What to build the model with; an implementation of ours is registered with transformers."""
    if (setup.attention, setup.device) not in OURS:
        return "eager"
    name, attention, mask = OURS[setup.attention, setup.device]
    ALL_ATTENTION_FUNCTIONS.register(name, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, mask)
    return name


class FakeBitsandbytesAdamW(torch.optim.Optimizer):
    """An optimizer with the state of bitsandbytes' AdamW of 8 or 32 bits, as far as torch's allocator holds it.

    The paged state of all but small tensors lies in memory that the CUDA driver moves between CPU and GPU.
    """

    def __init__(self, trained: Iterable[nn.Parameter], bits: int, paged: bool) -> None:
        super().__init__(trained, {})
        self.bits, self.paged = bits, paged

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # takes no closure
        """Allocate the state of parameters that have none. bitsandbytes updates it in place."""
        for parameter in self.param_groups[0]["params"]:
            if self.state[parameter]:
                continue
            in_8_bits = self.bits == 8 and parameter.numel() >= SMALLEST_8BIT
            self.state[parameter]["step"] = 0
            for moment in ("state1", "state2"):
                if not self.paged or parameter.numel() < SMALLEST_PAGED:
                    dtype = torch.uint8 if in_8_bits else torch.float32
                    self.state[parameter][moment] = torch.zeros(parameter.shape, dtype=dtype)
                if in_8_bits:
                    blocks = -(-parameter.numel() // BLOCK_8BIT)
                    self.state[parameter][f"scales_{moment}"] = torch.zeros(blocks)


class FakeFusedLoss(torch.autograd.Function):
    """What Liger's fused loss allocates for hidden states (tokens, hidden) and a head (vocabulary, hidden).

    Its forward pass makes the logits of one chunk of tokens at a time, overwrites them by their gradient, and keeps the
    gradients of hidden states and head.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        tokens, width = hidden.shape
        chunk = fused_chunk(tokens, len(weight), width)
        gradients = [torch.empty_like(hidden)]
        if weight.requires_grad:
            gradients.append(torch.zeros_like(weight))
        for start in range(0, tokens, chunk):
            nn.functional.linear(hidden[start : start + chunk], weight)
        ctx.save_for_backward(*gradients)
        return hidden.new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*ctx.saved_tensors, None)[:2]


class FusedDropout(nn.Dropout):
    """Dropout as on a GPU, which saves a mask of one byte per element. A CPU saves a mask in the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_dropout(x, self.p, True)[0]


def fuse_dropout(model: nn.Module) -> None:
    """Turn every dropout of `model` into a `FusedDropout`, in place."""
    for module in model.modules():
        if type(module) is nn.Dropout and module.p > 0:
            module.__class__ = FusedDropout
