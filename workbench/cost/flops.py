"""The arithmetic of one training step, counted from the shapes of a model: the work that a GPU is paid for.

A product of an (m, k) and a (k, n) matrix takes 2 m k n FLOPs. For T tokens through P weights that is 2 P T forward, as
much again for the gradient of the inputs, and as much again for the gradient of the weights: 6 P T when all of it
trains. Frozen weights need no gradient of their own, which leaves 4 P T and the adapters' own little products.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import lru_cache

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from workbench.adapters.inject import lies_within, opened_modules, target_modules
from workbench.memory.setup import Setup, Source, language_model, model_config, model_name
from workbench.memory.shapes import head_size
from workbench.models.base import Base, linear_modules

LINEAR, ATTENTION, HEAD, ADAPTERS = "linear layers", "attention", "output head", "adapters"


def skeleton(model: Source) -> Base:
    """The model, given as `memory.setup.model_config` takes it, with shapes but no weights (on the meta device)."""
    config = model_config(model)
    empty = _without_weights(type(config), config.to_json_string(use_diff=False))
    return Base(empty, None, model_name(model), "", "config", None, torch.bfloat16)


@lru_cache(maxsize=32)
def _without_weights(kind: type[PreTrainedConfig], fields: str) -> PreTrainedModel:
    with torch.device("meta"):
        return language_model(kind.from_dict(json.loads(fields)))


def step_flops(base: Base, setup: Setup) -> dict[str, dict[str, float]]:
    """Phase ("forward", "recomputation", "backward") -> part of the model -> FLOPs of one step, loss on every position.

    base: of a dense architecture; its weights may be on the meta device. setup: its method, the shape of its batch and
    checkpointing count here. Only matrix products count, as is usual (PaLM, arXiv 2204.02311, appendix B), attention
    over the whole square of positions: a kernel that skips what causality masks does half of that. In the lowest block
    with anything to train, the gradient of the block's input is counted though it may not be needed. Checkpointing is
    as transformers does it: gradients go down to the embedding whatever is trained, and a block's last product is
    repeated only if an adapter or a norm needs it. Raises MethodError where the method does not fit the model.
    """
    model, method, tokens = base.model, setup.method, setup.tokens
    shapes, blocks = linear_modules(model), _text_config(base).num_hidden_layers
    whole = method.name == "full"
    adapted = [] if whole else target_modules(base, method)
    opened = [] if whole else opened_modules(base, method)
    lowest = 0 if whole or setup.checkpointing else min(_block(base, name) for name in (*adapted, *opened))

    def trains(name: str) -> bool:
        return whole or any(lies_within(name, module) for module in opened)

    linear = {name: 2.0 * tokens * out * into for name, (out, into) in shapes.items()}
    reached = sum(flops for name, flops in linear.items() if _block(base, name) >= lowest)
    weights = sum(flops for name, flops in linear.items() if trains(name))
    head = 2.0 * tokens * model.get_output_embeddings().weight.numel()
    head_name = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    scores = _scores_flops(base, setup)
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
    again = _recomputed(base, inside, linear, adapted) if setup.checkpointing else {}
    return {"forward": inside | {HEAD: head}, "recomputation": again, "backward": backward}


def _scores_flops(base: Base, setup: Setup) -> float:
    """FLOPs of one block's attention, forward: queries times keys, and probabilities times values."""
    config = _text_config(base)
    width = config.num_attention_heads * head_size(config)
    return 4.0 * setup.batch_size * setup.sequence_length**2 * width


def _recomputed(
    base: Base, inside: dict[str, float], linear: dict[str, float], adapted: Collection[str]
) -> dict[str, float]:
    """FLOPs of computing all blocks again. inside: of one forward pass through them. linear: of each linear layer."""
    again = dict(inside)
    if not any(name.endswith("post_feedforward_layernorm") for name, _ in base.model.named_modules()):
        last = {_block(base, name): name for name in linear}.values()
        again[LINEAR] -= sum(linear[name] for name in last if name not in adapted)
    return again


def _text_config(base: Base) -> PreTrainedConfig:
    return base.model.config.get_text_config()


def _block(base: Base, name: str) -> int:
    """The block that a module lies in; the embedding counts as the first, what comes after the blocks as one more."""
    for part in name.split("."):
        if part.isdigit():
            return int(part)
    embedding = base.model.get_submodule(name) is base.model.get_input_embeddings()
    return 0 if embedding else _text_config(base).num_hidden_layers
