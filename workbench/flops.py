"""The arithmetic of one training step, counted from the shapes of a model: the work that a GPU is paid for.

A product of an (m, k) and a (k, n) matrix takes 2 m k n FLOPs. For T tokens through P weights that is 2 P T forward, as
much again for the gradient of the inputs, and as much again for the gradient of the weights: 6 P T when all of it
trains. Frozen weights need no gradient of their own, which leaves 4 P T and the adapters' own little products.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache

import torch
from transformers import PreTrainedConfig

from workbench.memory_setup import Source, language_model, model_config
from workbench.methods import Method, lies_within, opened_modules, target_modules
from workbench.models import Base, linear_modules

LINEAR, ATTENTION, HEAD, ADAPTERS = "linear layers", "attention", "output head", "adapters"


def skeleton(model: Source) -> Base:
    """The model, given as `memory_setup.model_config` takes it, with shapes but no weights (on the meta device)."""
    config = model_config(model)
    name = str(model) if isinstance(model, str | os.PathLike) else config.model_type
    return _skeleton(type(config), config.to_json_string(use_diff=False), name)


@lru_cache(maxsize=32)
def _skeleton(kind: type[PreTrainedConfig], fields: str, name: str) -> Base:
    with torch.device("meta"):
        model = language_model(kind.from_dict(json.loads(fields)))
    return Base(model, None, name, "", "config", None, torch.bfloat16)


def step_flops(
    base: Base, method: Method, batch_size: int, sequence_length: int, checkpointing: bool = False
) -> dict[str, dict[str, float]]:
    """Phase ("forward", "recomputation", "backward") -> part of the model -> FLOPs of one step, loss on every position.

    base: of a dense architecture; its weights may be on the meta device. Only matrix products count, as is usual (PaLM,
    arXiv 2204.02311, appendix B), attention over the whole square of positions: a kernel that skips what causality
    masks does half of that. In the lowest block with anything to train, the gradient of the block's input is counted
    though it may not be needed. Checkpointing is as transformers does it: gradients go down to the embedding whatever
    is trained, and a block's last product is repeated only if an adapter or a norm needs it. Raises MethodError where
    the method does not fit the model.
    """
    model, config = base.model, base.model.config.get_text_config()
    shapes, blocks, tokens = linear_modules(model), config.num_hidden_layers, batch_size * sequence_length
    whole = method.name == "full"
    adapted = [] if whole else target_modules(base, method)
    opened = [] if whole else opened_modules(base, method)
    lowest = 0 if whole or checkpointing else min(_block(base, name) for name in (*adapted, *opened))

    def trains(name: str) -> bool:
        return whole or any(lies_within(name, module) for module in opened)

    linear = {name: 2.0 * tokens * out * into for name, (out, into) in shapes.items()}
    reached = sum(flops for name, flops in linear.items() if _block(base, name) >= lowest)
    weights = sum(flops for name, flops in linear.items() if trains(name))
    head = 2.0 * tokens * model.get_output_embeddings().weight.numel()
    head_name = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    scores = 4.0 * batch_size * sequence_length**2 * config.num_attention_heads * _head_size(config)  # of one block
    low_rank = sum(2.0 * tokens * method.rank * sum(shapes[name]) for name in adapted)
    # For the norm of W + B A, DoRA sends an identity matrix through the adapter, forward only.
    norm = sum(2.0 * shapes[name][1] * method.rank * sum(shapes[name]) for name in adapted if method.dora)

    inside = {LINEAR: sum(linear.values()), ATTENTION: blocks * scores, ADAPTERS: low_rank + norm}
    backward = {
        LINEAR: reached + weights,
        ATTENTION: 2 * max(0, blocks - lowest) * scores,
        ADAPTERS: 2 * low_rank,
        HEAD: head * (1 + trains(head_name)),
    }
    again = dict(inside) if checkpointing else {}
    if checkpointing and not any(name.endswith("post_feedforward_layernorm") for name, _ in model.named_modules()):
        last = {_block(base, name): name for name in linear}.values()
        again[LINEAR] -= sum(linear[name] for name in last if name not in adapted)
    return {"forward": inside | {HEAD: head}, "recomputation": again, "backward": backward}


def _block(base: Base, name: str) -> int:
    """The block that a module lies in; the embedding counts as the first, what comes after the blocks as one more."""
    for part in name.split("."):
        if part.isdigit():
            return int(part)
    embedding = base.model.get_submodule(name) is base.model.get_input_embeddings()
    return 0 if embedding else base.model.config.get_text_config().num_hidden_layers


def _head_size(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
