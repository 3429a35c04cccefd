"""Models that share weights: structural copies, computing in float32, and logits where a completion is predicted."""

from __future__ import annotations

import copy
import threading

import torch
from torch import nn

# While `completion_logits` has its hook on a head, nobody may copy that model or send other rows through it: panels
# train in threads.
head_lock = threading.RLock()


def share(model: nn.Module) -> nn.Module:
    """A copy of the module tree that shares every parameter and buffer with `model` (it costs almost no memory).

    Layers can be replaced in the copy (what PEFT does) while the original stays as it was.
    """
    with head_lock:
        return copy.deepcopy(model, _shared_tensors(model))


def completion_logits(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits (N, vocabulary) at the N positions that predict a completion token, for a batch made by `tasks.collate`.

    The hidden states are gathered before the output head, so that the head is spared all other positions. There is no
    attention mask: rows are padded on the right, and in a causal model no token sees what stands to its right.
    """

    def gather(_, inputs):
        return (inputs[0][batch["rows"], batch["columns"]], *inputs[1:])

    inner = model.module if hasattr(model, "module") and not hasattr(model, "get_output_embeddings") else model
    with head_lock:
        handle = inner.get_output_embeddings().register_forward_pre_hook(gather)
        try:
            return model(input_ids=batch["input_ids"], use_cache=False).logits
        finally:
            handle.remove()


def in_float32(model: nn.Module) -> nn.Module:
    """`model` itself if it computes in float32, else a copy that does; quantized weights stay shared and quantized."""
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
    for module in raised_model.modules():
        if getattr(module, "compute_dtype", None) is not None:
            module.compute_dtype = torch.float32
    return raised_model


def _shared_tensors(model: nn.Module) -> dict[int, torch.Tensor]:
    """What a structural copy shares, as a memo for deepcopy: parameters, buffers and 8-bit statistics."""
    tensors = [*model.parameters(), *model.buffers()]
    states = [module.state for module in model.modules() if hasattr(module, "init_8bit_state")]
    tensors += [tensor for state in states for tensor in (state.CB, state.SCB) if tensor is not None]
    return {id(tensor): tensor for tensor in tensors}
