"""Many adapters on one frozen base in one forward pass: the batch is cut into slices, one adapter a slice.

With K adapters and n rows a slice, one product X W^T serves all K*n rows; then slice k adds s_k (X_k A_k^T) B_k^T with
its own rank. Nothing is padded to the largest rank, and no value of one slice enters another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from workbench.adapters.carriers import injected, see_every_token
from workbench.adapters.inject import target_modules
from workbench.adapters.methods import Method
from workbench.errors import TrainingError
from workbench.models.base import Base, linear_shape, linear_weight
from workbench.models.sharing import shared_copy

Scalings = Sequence[float | None]  # of each slice; None: it has no adapter here
QUANTIZED = ("Linear4bit", "Linear8bitLt")  # whose product, like that of nn.Linear and Conv1D, is x W^T + b
RANDOM = ("drop", "jitter", "noise")  # in the names of settings that make a forward pass draw
ROWS_AT_ONCE = 32  # of logits turned to float32: with 50,000 tokens in the vocabulary, 6 MB


def fits_a_slice(base: Base, method: Method) -> bool:
    """Whether `multi_adapter_model` can train a configuration: plain low-rank adapters and no random numbers.

    Dropout, of the adapter or of the model, and a router's noise would be drawn for the whole pass; DoRA changes the
    frozen product itself, PiSSA the frozen weights; float16 needs a loss scale for each run; and layers that get a part
    of the tokens, as single experts do, do not know which slice a token is from.
    """
    plain = method.name in ("lora", "qlora") and not (method.dropout or method.dora or method.pissa)
    plain = plain and see_every_token(base.model, target_modules(base, method))
    return plain and not draws_by_config(base.model) and base.dtype != torch.float16


def draws_by_config(model: nn.Module) -> bool:
    """Whether a model's configuration asks for random numbers in training: dropout, or noise of a router."""
    settings = getattr(model, "config").get_text_config().to_dict()  # noqa: B009 - PEFT passes the base's on
    wanted = (value for name, value in settings.items() if any(word in name for word in RANDOM))
    return any(isinstance(value, float) and value > 0 for value in wanted)


def multi_adapter_model(base: Base, models: Sequence[PeftModel | None]) -> nn.Module:
    """A model on the weights of `base` with the adapters of all `models`: each acts on its own slice of the batch.

    The slices are in the order of `models`, None for one that gets the base alone; `set_slices` says how large they
    are. Its adapters are the parameters of `models` themselves: training it trains them.
    """
    combined = shared_copy(base.model).train()
    sizes: list[int] = []
    adapted = [injected(model) if model else set() for model in models]
    for name in sorted(set().union(*adapted)):
        module = combined.get_submodule(name)
        pairs = zip(models, adapted, strict=True)
        parts = [one.base_model.model.get_submodule(name) if one and name in own else None for one, own in pairs]
        parent, _, own_name = name.rpartition(".")
        setattr(combined.get_submodule(parent), own_name, SlicedLinear(module, parts, sizes))
    return combined


def set_slices(model: nn.Module, tokens: Sequence[int]) -> None:
    """Tell a model of `multi_adapter_model` how many tokens of the next batch belong to each slice.

    Their sum is the number of tokens that its layers get: with the padding, if the model computes it.
    """
    sliced = next(module for module in model.modules() if isinstance(module, SlicedLinear))
    sliced.sizes[:] = tokens  # one list for all layers


class SlicedLinear(nn.Module):
    """A frozen linear layer with a low-rank update for each slice of the batch.

    parts: for each slice the PEFT layer whose `lora_A` (r, in), `lora_B` (out, r) and scaling are used, or None.
    sizes: of the slices in tokens, shared by the layers of a model and filled in before each batch.
    """

    def __init__(self, frozen: nn.Linear | Conv1D, parts: Sequence[LoraLayer | None], sizes: list[int]):
        super().__init__()
        self.sizes = sizes
        self.frozen = frozen
        self.scalings = [part and part.scaling["default"] for part in parts]
        present = [part for part in parts if part]
        self.factors = nn.ParameterList(w["default"].weight for p in present for w in (p.lora_A, p.lora_B))
        # The models' own code reads these of the layer that this one takes the place of.
        self.out_features, self.in_features = linear_shape(frozen)

    @property
    def weight(self) -> Tensor:
        """The frozen weight."""
        return self.frozen.weight

    @property
    def bias(self) -> Tensor | None:
        """The frozen bias."""
        return self.frozen.bias

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, length, in) -> (batch, length, out); the slices are cut from all its tokens, in order."""
        tokens = x.numel() // x.shape[-1]
        sizes = tuple(self.sizes) if len(self.scalings) > 1 else (tokens,)
        if sum(sizes) != tokens:
            raise TrainingError(
                f"A linear layer got {tokens} of {sum(sizes)} tokens, so that it cannot tell whose they are: train "
                "these configurations one by one."
            )
        if type(self.frozen) in (nn.Linear, Conv1D) or type(self.frozen).__name__ in QUANTIZED:
            return _SlicedUpdates.apply(x, self.frozen, self.scalings, sizes, *self.factors)
        return self._with_updates(x, sizes)

    def _with_updates(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """The same for a layer that may compute more than x W^T + b, differentiated by torch."""
        y = self.frozen(x)
        flat, updates = x.flatten(0, -2), torch.zeros_like(y).flatten(0, -2)
        for rows, scaling, a, b in _slices(sizes, self.scalings, list(self.factors)):
            update = scaling * (flat[rows].to(a.dtype) @ a.T @ b.T)
            updates = updates.slice_scatter(update.to(y.dtype), 0, rows.start, rows.stop)
        return y + updates.view(y.shape)


class _SlicedUpdates(torch.autograd.Function):
    """y_k = frozen(x_k) + s_k (x_k A_k^T) B_k^T, summed in one buffer; the backward pass multiplies with W once."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, frozen: nn.Linear | Conv1D, scalings: Scalings, sizes: Sequence[int], *factors: Tensor
    ) -> Tensor:
        flat = x.flatten(0, -2)
        y = frozen(flat).contiguous()
        # Under autocast some norms give float32, and the frozen product is in the lower dtype all the same.
        flat = flat.to(y.dtype)
        lowered = [factor.to(y.dtype) for factor in factors]  # once for both passes; outside they are in float32
        projected: list[Tensor] = []
        for rows, scaling, a, b in _slices(sizes, scalings, lowered):
            projected.append(flat[rows] @ a.T)
            y[rows].addmm_(projected[-1], b.T, alpha=scaling)
        ctx.frozen, ctx.scalings, ctx.sizes, ctx.shape = frozen, scalings, sizes, x.shape
        ctx.save_for_backward(flat, *lowered, *projected)
        # Not a view for autograd: the model may write into it, which torch forbids for a view made here.
        return torch.ops.aten._unsafe_view(y, (*x.shape[:-1], y.shape[-1]))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        flat, *saved = ctx.saved_tensors
        present = len(saved) // 3
        factors, projected = saved[: 2 * present], iter(saved[2 * present :])
        dy = dy.flatten(0, -2)
        dx = dy @ _frozen_weight(ctx.frozen, dy.dtype) if ctx.needs_input_grad[0] else None
        gradients = []
        for rows, scaling, a, b in _slices(ctx.sizes, ctx.scalings, factors):
            through_b = (dy[rows] @ b).mul_(scaling)
            gradients.append((through_b.T @ flat[rows]).float())
            of_b = (next(projected).T @ dy[rows]).T  # in this order three times as fast as dy^T times it
            gradients.append(of_b.to(torch.float32, memory_format=torch.contiguous_format).mul_(scaling))
            if dx is not None:
                dx[rows].addmm_(through_b, a)
        return (None if dx is None else dx.view(ctx.shape), None, None, None, *gradients)


def _slices(
    sizes: Sequence[int], scalings: Scalings, factors: Sequence[Tensor]
) -> Iterator[tuple[slice, float, Tensor, Tensor]]:
    """For every slice that has an adapter in this layer: its tokens, scaling, A and B."""
    pairs = iter(factors)
    for size, end, scaling in zip(sizes, accumulate(sizes), scalings, strict=True):
        if scaling is not None:
            yield slice(end - size, end), scaling, next(pairs), next(pairs)


def _frozen_weight(module: Any, dtype: torch.dtype) -> Tensor:
    """The weight (out, in) that a linear layer computes with; the layers of bitsandbytes hold it as codes.

    Raises TrainingError for 4-bit weights in the layout that bitsandbytes has for scoring on a CPU.
    """
    kind = type(module).__name__
    if kind == "Linear4bit":
        from bitsandbytes.functional import dequantize_4bit

        if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
            raise TrainingError(
                "A 4-bit layer was packed for scoring by bitsandbytes, so that it gives no usable gradient; nothing "
                "was trained. Load the base through load_base()."
            )
        return dequantize_4bit(module.weight, module.weight.quant_state).to(dtype)
    if kind == "Linear8bitLt":
        return (module.state.CB.float() * module.state.SCB.unsqueeze(1) / 127).to(dtype)
    return linear_weight(module)


def stack(batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join the batches of all slices into one. Rows are padded on the right to the longest one, with token 0."""
    longest = max(batch["input_ids"].shape[1] for batch in batches)
    padded = [nn.functional.pad(batch["input_ids"], (0, longest - batch["input_ids"].shape[1])) for batch in batches]
    starts = list(accumulate((len(ids) for ids in padded), initial=0))[:-1]
    widths = [batch["input_ids"].shape[1] for batch in batches]
    real = [batch["real"] for batch in batches]
    real = [(r // width + start) * longest + r % width for r, width, start in zip(real, widths, starts, strict=True)]
    return {
        "input_ids": torch.cat(padded),
        "real": torch.cat(real),
        "rows": torch.cat([batch["rows"] + start for batch, start in zip(batches, starts, strict=True)]),
        "columns": torch.cat([batch["columns"] for batch in batches]),
        "targets": torch.cat([batch["targets"] for batch in batches]),
    }


def slice_losses(logits: Tensor, targets: Tensor, counts: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """Cross-entropy (K,) of each slice: the sum over its `counts[k]` rows of logits, divided by `tokens[k]`.

    logits (N, vocabulary): overwritten with their gradient, a few rows at a time, since float32 copies of all of them
    would be the largest tensors of a pass. Differentiate the sum of the result, and only once.
    """
    return _SliceLosses.apply(logits, targets, counts, tokens)


class _SliceLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, counts: Sequence[int], tokens: Sequence[int]) -> Tensor:
        losses: list[Tensor] = []
        for part, wanted, count in zip(logits.split(list(counts)), targets.split(list(counts)), tokens, strict=True):
            total = logits.new_zeros((), dtype=torch.float32)
            for few, answers in zip(part.split(ROWS_AT_ONCE), wanted[:, None].split(ROWS_AT_ONCE), strict=True):
                log_probabilities = torch.log_softmax(few, -1, dtype=torch.float32)
                chosen = log_probabilities.gather(1, answers)
                total = total - chosen.sum() / count
                gradient = log_probabilities.exp_().scatter_add_(1, answers, -torch.ones_like(chosen))
                few.copy_(gradient.div_(count))
            losses.append(total)
        ctx.save_for_backward(logits)
        return torch.stack(losses)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient, None, None, None
