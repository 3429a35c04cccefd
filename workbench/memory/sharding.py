"""Model states split over GPUs by FSDP or ZeRO stage 3, and kept in the CPU's memory if they are offloaded.

Each GPU stores 1/N of the weights, gradients and optimizer state (arXiv 1910.02054), and gathers the weights of one
block at a time for its computation. FSDP gathers the next block meanwhile, and keeps what lies outside of the blocks
gathered from its forward to its backward pass (torch.distributed.fsdp, backward prefetch).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import torch
from torch import nn

from workbench.memory.formula.model_states import packed
from workbench.memory.formula.trained_model import Term, TrainedModel, tensors_of_block
from workbench.memory.setup import Setup

STATES = ("weights", "adapters", "gradients", "optimizer state")
BLOCKS_AT_ONCE = 2  # the block that computes, and the next one


def bytes_on_one_gpu(setup: Setup, size: int) -> int:
    """Bytes that one GPU holds of `size` bytes of model states."""
    return 0 if setup.offload else math.ceil(size / setup.gpus)


def split(terms: Iterable[Term], setup: Setup, also: Iterable[str] = ()) -> list[Term]:
    """The terms as one GPU holds them. also: the words of further terms that are split like states."""
    if not setup.sharded:
        return list(terms)
    kept = []
    for term in terms:
        if term.component not in STATES and term.words not in also:
            kept.append(term)
        elif not setup.offload:
            sizes: Counter[int] = Counter()
            for size, count in term.tensors.items():
                sizes[bytes_on_one_gpu(setup, size)] += count
            kept.append(Term(term.component, f"{term.words}, split over {setup.gpus} GPUs", sizes))
    return kept


def gathered(model: TrainedModel) -> list[Term]:
    """What a GPU gathers while it computes: whole weights, and in the backward pass whole gradients of one block."""
    if not model.setup.sharded:
        return []
    sizes = Counter({size: BLOCKS_AT_ONCE * count for size, count in _block_weights(model).items()})
    size = 4 if model.stream_bytes == 4 and not model.mixed else 2
    sizes[size * model.shape.embedding] += 1 if model.shape.tied else 2
    return [Term("temporaries", "gathered weights of two blocks and of what lies outside of blocks", sizes)]


def whole_gradients(model: TrainedModel) -> list[Term]:
    """The gradients of one block before they are split."""
    if not model.setup.sharded:
        return []
    full, adapters = tensors_of_block(model.shape, model.method, model.blocks[-1])
    sizes = Counter(model.trained_bytes * number for number in full)
    sizes.update(model.adapter_weight_bytes * number for number in adapters)
    return [Term("temporaries", "whole gradients of one block", sizes)]


def gathered_of(model: nn.Module, setup: Setup) -> dict[str, int]:
    """Phase -> bytes of `gathered` and `whole_gradients`, from the tensors of the real model."""
    if not setup.sharded:
        return {}
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    blocks = max(lists, key=lambda found: sum(parameter.numel() for parameter in found.parameters()))
    inside = {id(parameter) for parameter in blocks.parameters()}

    def size(tensor: torch.Tensor) -> int:
        return tensor.numel() * (min(2, tensor.itemsize) if setup.dtype == "mixed" else tensor.itemsize)

    outside = sum(size(parameter) for parameter in model.parameters() if id(parameter) not in inside)
    whole = max(sum(size(tensor) for tensor in (*block.parameters(), *block.buffers())) for block in blocks)
    trained = max(sum(p.nbytes for p in block.parameters() if p.requires_grad) for block in blocks)
    weights = BLOCKS_AT_ONCE * whole + outside
    return {"forward": weights, "backward": weights + trained, "optimizer": 0}


def _block_weights(model: TrainedModel) -> Counter[int]:
    """Size in bytes -> number of tensors, of the weights of one block with its adapters, as FSDP gathers them."""
    linear = Counter(math.prod(shape) for shape in model.shape.linear.values())
    size = 4 if model.frozen_bytes == 4 else 2
    if model.quantized:
        tensors = packed(linear, model.setup.double_quantization)
    else:
        tensors = Counter({size * number: count for number, count in linear.items()})
    _, adapters = tensors_of_block(model.shape, model.method, model.blocks[-1])
    tensors.update(model.adapter_bytes * number for number in adapters)
    return tensors
