"""Models that share weights: structural copies, and copies that compute in float32."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)

# Held while `padding_free.completion_logits` has a hook on a head: meanwhile no other thread (panels train in threads)
# may copy that model or send other rows through it.
head_lock = threading.RLock()


def shared_copy(model: ModelT) -> ModelT:
    """A copy of the module tree that shares every parameter and buffer with `model`, at almost no cost in memory.

    Layers can be replaced in the copy, as PEFT does, while the original stays as it is.
    """
    with head_lock:
        return copy.deepcopy(model, _shared_tensors(model))


@contextmanager
def own_precision() -> Iterator[None]:
    """Outside of any autocast that the caller is in: a base computes in its own dtype, as records say."""
    with ExitStack() as plain:
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                plain.enter_context(torch.autocast(device, enabled=False))
        yield


def in_float32(model: ModelT) -> ModelT:
    """`model` itself if it computes in float32, else a copy that does; quantized weights stay quantized and shared."""
    lower = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point() and t.dtype != torch.float32]
    others_4bit = {getattr(module, "compute_dtype", None) for module in model.modules()} - {None, torch.float32}
    if not lower and not others_4bit:
        return model
    memo = _shared_tensors(model)
    for tensor in lower:
        raised = tensor.detach().float()
        memo[id(tensor)] = nn.Parameter(raised, requires_grad=False) if isinstance(tensor, nn.Parameter) else raised
    with head_lock:
        raised_model = copy.deepcopy(model, memo)
    module: Any
    for module in raised_model.modules():
        if getattr(module, "compute_dtype", None) is not None:
            module.compute_dtype = torch.float32
    return raised_model


def _shared_tensors(model: nn.Module) -> dict[int, torch.Tensor]:
    """The tensors that a structural copy shares, as a memo for deepcopy: parameters, buffers and 8-bit statistics."""
    tensors = [*model.parameters(), *model.buffers()]
    states: list[Any] = [module.state for module in model.modules() if hasattr(module, "init_8bit_state")]
    tensors += [tensor for state in states for tensor in (state.CB, state.SCB) if tensor is not None]
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, torch.Tensor)]
    graphs = {id(tensor): tensor.detach() for tensor in kept if tensor.grad_fn is not None}  # states of the last pass
    return {id(tensor): tensor for tensor in tensors} | graphs
