"""FLOPs of one training step, counted from the shapes of a model.

A product of an (m, k) and a (k, n) matrix takes 2 m k n FLOPs. For T tokens and P weights that is 2 P T in the forward
pass, 2 P T for the gradient of the inputs and 2 P T for the gradient of the weights: 6 P T if all weights train. Frozen
weights need no gradient of their own, which leaves 4 P T, and the small products of the adapters.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from transformers import PreTrainedConfig

from workbench.adapters.inject import block_of, lies_within, opened_modules, target_modules
from workbench.memory.configs import Source, meta_model, model_config, model_name
from workbench.memory.setup import Setup
from workbench.memory.shapes import head_size
from workbench.models.base import Base, linear_modules

LINEAR, ATTENTION, HEAD, ADAPTERS = "linear layers", "attention", "output head", "adapters"


def meta_base(model: Source) -> Base:
    """A base on the meta device: shapes, but no weights. model: as `memory.configs.model_config` takes it."""
    return Base(meta_model(model_config(model)), None, model_name(model), "", "config", None, torch.bfloat16)


def step_flops(base: Base, setup: Setup) -> dict[str, dict[str, float]]:
    """Phase ("forward", "recomputation", "backward") -> part of the model -> FLOPs of one step, loss on every position.

    base: of a dense architecture; its weights may be on the meta device. setup: its method, batch and checkpointing
    matter. Only matrix products count, as usual (PaLM, arXiv 2204.02311, appendix B), with attention over all pairs of
    positions: a kernel that skips masked pairs does half of that. In the lowest block with trainable weights, the
    gradient of the block's input is counted even if it is not needed. Checkpointing is as in transformers: gradients
    reach the embeddings whatever trains, and the last product of a block is only repeated if an adapter or a norm needs
    its result. Raises MethodError if the method does not fit the model.
    """
    model, method = base.model, setup.method
    shapes, blocks = linear_modules(model), _text_config(base).num_hidden_layers
    full, rank = method.name == "full", method.rank or 0
    adapted = [] if full else target_modules(base, method)
    opened = [] if full else opened_modules(base, method)
    lowest = 0 if full or setup.checkpointing else min(_block(base, name) for name in (*adapted, *opened))

    def trains_in_full(name: str) -> bool:
        return full or any(lies_within(name, module) for module in opened)

    linear = {name: 2.0 * setup.tokens * out * into for name, (out, into) in shapes.items()}
    weights = sum(flops for name, flops in linear.items() if trains_in_full(name))
    inputs = sum(flops for name, flops in linear.items() if _block(base, name) >= lowest)
    low_rank = sum(2.0 * setup.tokens * rank * sum(shapes[name]) for name in adapted)
    # For the norm of W + B A, DoRA sends an identity matrix through the adapter, in the forward pass only.
    norm = sum(2.0 * shapes[name][1] * rank * sum(shapes[name]) for name in adapted if method.dora)
    scores, (head_name, head) = _scores_flops(base, setup), _head_flops(base, setup)

    in_blocks = {LINEAR: sum(linear.values()), ATTENTION: blocks * scores, ADAPTERS: low_rank + norm}
    backward = {
        LINEAR: inputs + weights,
        ATTENTION: 2 * max(0, blocks - lowest) * scores,
        ADAPTERS: 2 * low_rank,
        HEAD: head * (1 + trains_in_full(head_name)),
    }
    again = _recomputed(base, in_blocks, linear, adapted) if setup.checkpointing else {}
    return {"forward": in_blocks | {HEAD: head}, "recomputation": again, "backward": backward}


def _head_flops(base: Base, setup: Setup) -> tuple[str, float]:
    """The full name of the output head, and its FLOPs in the forward pass."""
    head = base.model.get_output_embeddings()
    name = next(name for name, module in base.model.named_modules() if module is head)
    return name, 2.0 * setup.tokens * head.weight.numel()


def _scores_flops(base: Base, setup: Setup) -> float:
    """FLOPs of one block's attention in the forward pass: queries times keys, and probabilities times values."""
    config = _text_config(base)
    width = config.num_attention_heads * head_size(config)
    return 4.0 * setup.batch_size * setup.sequence_length**2 * width


def _recomputed(
    base: Base, in_blocks: dict[str, float], linear: dict[str, float], adapted: Collection[str]
) -> dict[str, float]:
    """FLOPs of recomputing all blocks. in_blocks: of one forward pass through them. linear: of each linear layer."""
    again = dict(in_blocks)
    if not any(name.endswith("post_feedforward_layernorm") for name, _ in base.model.named_modules()):
        last = {_block(base, name): name for name in linear}.values()
        again[LINEAR] -= sum(linear[name] for name in last if name not in adapted)
    return again


def _text_config(base: Base) -> PreTrainedConfig:
    return base.model.config.get_text_config()


def _block(base: Base, name: str) -> int:
    """The index of the block that holds a module: 0 for the embeddings, the number of blocks for what follows them."""
    if (block := block_of(name)) is not None:
        return block
    embedding = base.model.get_submodule(name) is base.model.get_input_embeddings()
    return 0 if embedding else _text_config(base).num_hidden_layers
