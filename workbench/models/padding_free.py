"""Padding-free batches: the tokens of all rows in one long row, which only attention sees row by row.

A batch padded to its longest row spends a fifth of its arithmetic on padding. Here every layer but attention gets the
real tokens alone, shape (1, tokens, hidden), with positions that begin again at each row. Attention gathers them into
(rows, length), computes causally within each row, and scatters the result back. The layout travels as the attention
mask: transformers hands a mask of four dimensions to every layer as it is, also when activations are recomputed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from workbench.models.cpu_kernels import PADDED, PADDING_FREE, short_attention, unmasked_attention
from workbench.models.sharing import head_lock

WINDOWS = ("sliding_window", "attention_chunk_size")  # a row longer than this needs a mask of its own
NOT_SUPPORTED = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError)


def use_row_attention(model: PreTrainedModel) -> None:
    """Choose the model's attention functions: for padding-free batches if a trial shows that it can take them."""
    for name, attention in ((PADDING_FREE, row_attention), (PADDED, short_attention)):
        ALL_ATTENTION_FUNCTIONS.register(name, attention)
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, sdpa_mask)
    if model.config._attn_implementation != "sdpa":
        return
    model.set_attn_implementation(PADDING_FREE)
    if not _keeps_rows_apart(model):
        model.set_attn_implementation(PADDED)


def leaves_padding_out(model: Any, length: int = 1) -> bool:
    """Whether `completion_logits` computes real tokens only, for a batch whose longest row has `length` tokens.

    model: a base, or a PEFT model around one.
    """
    config = _unwrapped(model).config
    windows = [window for name in WINDOWS if (window := getattr(config.get_text_config(), name, None))]
    return config._attn_implementation == PADDING_FREE and length <= min(windows, default=length)


def completion_logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits (N, vocabulary) at the N positions that predict a completion token, for a batch made by `tasks.collate`.

    The output head is computed at these positions only. If the model cannot leave the padding out, no other thread
    may call it at the same time: pass a copy made by `shared_copy`.
    """
    rows, length = batch["input_ids"].shape
    if leaves_padding_out(model, length):
        layout = row_layout(batch["real"], rows, length)
        source = layout[0, 0].flatten()
        return model(
            input_ids=batch["input_ids"].flatten()[batch["real"]][None],
            position_ids=(batch["real"] % length)[None],
            attention_mask=layout,
            logits_to_keep=source[batch["rows"] * length + batch["columns"]],
            use_cache=False,
        ).logits[0]
    return _padded_logits(model, batch)


def _padded_logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The same for a model that cannot leave the padding out: its head has a hook for a moment, under `head_lock`.

    No mask is needed: rows are padded on the right, and a causal model does not look to the right.
    """

    def gather(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][batch["rows"], batch["columns"]], *inputs[1:])

    with head_lock:
        handle = _unwrapped(model).get_output_embeddings().register_forward_pre_hook(gather)
        try:
            return model(input_ids=batch["input_ids"], use_cache=False).logits
        finally:
            handle.remove()


def row_layout(real: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """Where tokens stand: (1, 2, rows, length) of int64, from the flat places (N,) of the real ones in (rows, length).

    [0, 0]: for each place the number of its token among the real ones, 0 for padding. [0, 1], flattened: the first N
    entries are `real`.
    """
    layout = torch.zeros(2, rows * length, dtype=torch.int64, device=real.device)
    layout[0, real] = torch.arange(len(real), device=real.device)
    layout[1, : len(real)] = real
    return layout.view(1, 2, rows, length)


def row_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention within the rows of a padding-free batch; without a layout as mask, what `short_attention` computes.

    query, key, value: (1, heads, tokens, size); returns (1, tokens, heads, size).
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return short_attention(module, query, key, value, attention_mask, **options)
    (source, real), (rows, length) = attention_mask[0].flatten(1), attention_mask.shape[2:]
    real = real[: query.shape[2]]
    query, key, value = (
        _Gather.apply(part, source, real).view(-1, rows, length, part.shape[-1]).transpose(0, 1)
        for part in (query, key, value)
    )
    attended, weights = unmasked_attention(module, query, key, value, **options)  # (rows, length, heads, size)
    return _Scatter.apply(attended.flatten(0, 1), source, real)[None], weights


class _Gather(torch.autograd.Function):
    """(1, heads, tokens, size) -> (heads, places, size); padding repeats the first token.

    The gradient of padding is zero, since its outputs are dropped and no real token attends to it.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, source: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(real)
        return x[0].index_select(1, source)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient.index_select(1, ctx.saved_tensors[0])[None], None, None


class _Scatter(torch.autograd.Function):
    """(places, heads, size) -> (tokens, heads, size): drop the padding."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, source: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(real)
        ctx.places = len(source)
        return x.index_select(0, real)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        padded = gradient.new_zeros(ctx.places, *gradient.shape[1:])
        return padded.index_copy_(0, ctx.saved_tensors[0], gradient), None, None


@torch.no_grad()
def _keeps_rows_apart(model: PreTrainedModel) -> bool:
    """Whether rows in one long row give the logits that they give padded on the right: tried on three short rows.

    State-space layers, for example, carry what they read from one row into the next.
    """
    device, count = model.device, min(model.get_input_embeddings().weight.shape[0], 1000)
    rows = [[7 * place % count for place in range(start, start + size)] for start, size in ((3, 4), (11, 2), (19, 5))]
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
    real = torch.tensor([i * length + t for i, row in enumerate(rows) for t in range(len(row))], device=device)
    batch = {"input_ids": ids, "real": real, "rows": real // length, "columns": real % length}
    try:
        together = completion_logits(model, batch).float()
        padded = model(input_ids=ids, use_cache=False).logits.flatten(0, 1)[real].float()
    except NOT_SUPPORTED:
        return False
    rounding = 1e-3 if model.dtype == torch.float32 else 5e-2
    return together.shape == padded.shape and bool((together - padded).norm() <= rounding * padded.norm())


def _unwrapped(model: Any) -> Any:
    """A model without the wrapper of distributed training."""
    return model.module if not hasattr(model, "config") and hasattr(model, "module") else model
