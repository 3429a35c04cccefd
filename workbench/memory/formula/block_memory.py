"""What the blocks of a decoder save for the backward pass.

A block's operations decide what is saved: a linear layer saves its input if its weight trains; a norm saves its input
in float32; a gated MLP saves both factors; attention saves queries, keys, values and its result.
"""

from __future__ import annotations

from collections import Counter

from workbench.memory.formula.trained_model import (
    Term,
    TrainedLayers,
    TrainedModel,
    term_per_token,
    trains_in_full,
)
from workbench.memory.shapes import SHARED_INPUTS, other_parameters


def saved_by_blocks(model: TrainedModel, leave_out: int = 0) -> list[Term]:
    """What all blocks save for the backward pass. leave_out: how many of the highest blocks not to count."""
    active = model.blocks[lowest_block_with_gradient(model) : len(model.blocks) - leave_out]
    hidden = model.shape.hidden
    if model.setup.checkpointing:
        return [term_per_token(model, "activations", "block inputs", [model.stream_bytes * hidden] * len(active))]
    if not active:
        return []
    sizes: Counter[int] = Counter()
    for layers, blocks in Counter(active).items():
        for size in saved_by_block(model, layers):
            sizes[size] += blocks
    sizes.update(() if model.full else (_norm_input(model, name) for name in _trained_norms(model)))
    if not trains_in_full(model.method, "model.embed_tokens") and model.shape.family != "olmo2":
        sizes[4 * hidden] -= 1  # nothing before the first norm trains, so it needs no gradient
    return [term_per_token(model, "activations", f"saved by {len(active)} blocks", sizes)]


def lowest_block_with_gradient(model: TrainedModel) -> int:
    """The index of the lowest block that gradients reach."""
    # With checkpointing, transformers makes the embeddings' output require a gradient, whatever trains.
    if model.setup.checkpointing or trains_in_full(model.method, "model.embed_tokens"):
        return 0
    trained = [index for index, layers in enumerate(model.blocks) if any(layers)]
    return min([*trained, *(int(name.split(".")[2]) for name in _trained_norms(model))])


def norm_output_bytes(model: TrainedModel, usual: int) -> int:
    """Bytes per element of what a norm saves for its weight: some families multiply in float32, then round."""
    return 4 if model.shape.family in ("olmo2", "gemma", "gemma2") else usual


def cache_bytes(model: TrainedModel) -> int:
    """Bytes per token of one block's keys, or values, in the cache that the model returns by default."""
    return (4 if model.full and model.mixed else model.compute_bytes) * model.shape.keys


def saved_by_block(model: TrainedModel, layers: TrainedLayers) -> list[int]:
    """Bytes per token of each tensor that a block saves for the backward pass."""
    shape, compute = model.shape, model.compute_bytes
    sizes = [4 * width for width in shape.norms]
    if model.full:
        for width in shape.norms:
            usual = model.stream_bytes if width == shape.hidden else compute
            sizes.append(norm_output_bytes(model, usual) * width)
    sizes += _saved_by_attention(model)
    sizes += [compute * shape.intermediate] * 3  # input and output of the activation function, and the other factor
    for names in SHARED_INPUTS:
        sizes += inputs_saved(model, names, layers)
    for name in layers.adapted:
        sizes.append(model.adapter_bytes * model.rank)
        if model.method.dora:
            sizes += [compute * shape.linear[name][0], model.adapter_bytes * shape.linear[name][0]]
    return sizes


def _trained_norms(model: TrainedModel) -> list[str]:
    """Full names of the blocks' norms that train."""
    names = other_parameters(model.shape)
    return [name for name in names if name.startswith("model.layers.") and trains_in_full(model.method, name)]


def _norm_input(model: TrainedModel, name: str) -> int:
    """Bytes per token that a norm saves for the gradient of its weight."""
    shape = model.shape
    width = {"q_norm": shape.queries, "k_norm": shape.keys}.get(name.rpartition(".")[2], shape.hidden)
    usual = model.stream_bytes if width == shape.hidden else model.compute_bytes
    return norm_output_bytes(model, usual) * width


def inputs_saved(model: TrainedModel, names: tuple[str, ...], layers: TrainedLayers) -> list[int]:
    """Bytes per token that layers save of the input that they share: the tensor itself, or copies in another dtype."""
    width = model.shape.linear[names[0]][1]
    full, copies = [name for name in names if name in layers.full], []
    if full and _copied_by_autocast(model, names):
        copies += [2 * width] * len(full)
    for _ in layers.adapted.intersection(names):
        if model.method.dropout:
            copies += [width, model.adapter_bytes * width]
        elif not adapters_take_it_as_it_is(model):
            copies.append(model.adapter_bytes * width)
    # Attention saves its own result, which is the input of o_proj.
    itself = saves_input_itself(model, names, layers) and names != SHARED_INPUTS[1]
    return copies + ([model.compute_bytes * width] if itself else [])


def saves_input_itself(model: TrainedModel, names: tuple[str, ...], layers: TrainedLayers) -> bool:
    """Whether layers save the very tensor that they share as input, and not only copies of it."""
    if layers.full.intersection(names) and not _copied_by_autocast(model, names):
        return True
    adapted = bool(layers.adapted.intersection(names))
    return adapted and not model.method.dropout and adapters_take_it_as_it_is(model)


def adapters_take_it_as_it_is(model: TrainedModel) -> bool:
    """Whether adapters compute with a layer's input without converting it first."""
    return model.compute_bytes == model.adapter_weight_bytes or (model.quantized and model.mixed)


def _copied_by_autocast(model: TrainedModel, names: tuple[str, ...]) -> bool:
    """Autocast copies the output of a norm to bfloat16 once per layer; other inputs are in bfloat16 already."""
    return model.mixed and model.stream_bytes == 4 and len(names) > 1


def _saved_by_attention(model: TrainedModel) -> list[int]:
    """Bytes per token of each tensor that attention saves, by its kernel."""
    shape, setup, length = model.shape, model.setup, model.setup.rows[1]
    size = 2 if model.mixed else model.compute_bytes
    if setup.attention == "flash":
        return [size * shape.queries, size * shape.keys, size * shape.keys, size * shape.queries, 4 * shape.heads]
    sizes = [size * shape.queries] * 4
    if shape.heads != shape.key_heads and setup.keep_outputs and not setup.checkpointing:
        sizes += [cache_bytes(model)] * 2  # in addition to the repeated keys and values
    scores = shape.heads * length
    if setup.attention == "eager":
        capped = [size * scores] if shape.capped_scores else []
        return [*sizes, *capped, 4 * scores, *([2 * scores] if size == 2 else [])]
    return [*sizes, size * length, 4 * shape.heads]
