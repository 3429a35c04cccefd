"""What the blocks of a decoder save for the backward pass, and the largest temporaries of one block.

A block's operations decide what is saved: a linear layer saves its input if its weight trains; a norm saves its input
in float32; a gated MLP saves both factors; attention saves queries, keys, values and its result.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain

from workbench.adapters.quantization import stored_parts
from workbench.memory.model_states import (
    Term,
    TrainedLayers,
    TrainedModel,
    tensors_of_block,
    term_per_token,
    trains_in_full,
)
from workbench.memory.setup import BLOCK_4BIT
from workbench.memory.shapes import SHARED_INPUTS, other_parameters

AUTOCAST_COPIES = "bfloat16 copies of trained weights, made by autocast"


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
        for size in _saved_by_block(model, layers):
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


def largest_block(model: TrainedModel) -> TrainedLayers:
    """The trained layers of the block that saves most."""
    return max(dict.fromkeys(model.blocks), key=lambda layers: sum(_saved_by_block(model, layers)))


def one_block(model: TrainedModel, layers: TrainedLayers) -> Term:
    """What one block saves."""
    words = "one block, recomputed" if model.setup.checkpointing else "saved by one block"
    return term_per_token(model, "activations", words, _saved_by_block(model, layers))


def block_in_backward(model: TrainedModel, layers: TrainedLayers) -> list[Term]:
    """What a block saves, and if it is recomputed, the copies of its trained weights that autocast makes again."""
    return [one_block(model, layers), *_autocast_copies(model, layers)]


def block_at_scores(model: TrainedModel, layers: TrainedLayers, backward: bool) -> list[Term]:
    """A block at its eager attention, where it holds most. What follows attention is not made yet, or freed already."""
    shape, length, before = model.shape, model.setup.rows[1], layers_before_scores(layers)
    low, scores = 2 if model.mixed else model.compute_bytes, shape.heads * length
    later = [4 * shape.hidden, *[model.compute_bytes * shape.intermediate] * 3]
    saved = Counter(_saved_by_block(model, before)) - Counter(later)
    # Two gradients in float32. They are made when the 16-bit probabilities, which count as saved, are freed.
    words, made = ("gradients of the scores", [4, low]) if backward else ("scores", [4])
    terms = [
        term_per_token(model, "activations", "one block, up to its attention", saved),
        term_per_token(model, "temporaries", words, [size * scores for size in made]),
    ]
    if model.setup.checkpointing or not backward:
        terms.append(term_per_token(model, "activations", "mask", [low * length]))
    return terms + (_autocast_copies(model, before) if backward else [])


def layers_before_scores(layers: TrainedLayers) -> TrainedLayers:
    """The layers of a block that come before its attention scores: queries, keys and values."""
    return TrainedLayers(*(names & frozenset(SHARED_INPUTS[0]) for names in layers))


def norm_output_bytes(model: TrainedModel, usual: int) -> int:
    """Bytes per element of what a norm saves for its weight: some families multiply in float32, then round."""
    return 4 if model.shape.family in ("olmo2", "gemma", "gemma2") else usual


def cache_bytes(model: TrainedModel) -> int:
    """Bytes per token of one block's keys, or values, in the cache that the model returns by default."""
    return (4 if model.full and model.mixed else model.compute_bytes) * model.shape.keys


def gradients_in_flight(model: TrainedModel) -> Term:
    """Gradients at the last linear layer of a block, while the block still holds all that it saved."""
    shape, layers = model.shape, model.blocks[-1]
    sizes = [model.stream_bytes * shape.hidden] * 2 + [model.compute_bytes * shape.intermediate]
    if "mlp.down_proj" in layers.adapted:
        sizes += [model.adapter_weight_bytes * shape.intermediate] * (2 if model.method.dropout else 1)
    tensors = Counter(size * model.tokens for size in sizes)
    if "mlp.down_proj" in layers.full:
        tensors[model.trained_bytes * shape.hidden * shape.intermediate] += 1
    return Term("temporaries", "gradients of the activations of one block", tensors)


def largest_temporaries(model: TrainedModel) -> list[Term]:
    """The most that is made and freed within a block: DoRA's norm, or dequantized 4-bit weights."""
    if model.method.dora:
        adapted = frozenset[str]().union(*(layers.adapted for layers in model.blocks))
        return [max((_dora(model, name) for name in adapted), key=lambda term: term.bytes)]
    if not model.quantized:
        return []
    size = max(map(math.prod, model.shape.linear.values()))
    if not model.setup.double_quantization:
        return [Term("temporaries", "the largest layer's weights, dequantized", Counter([model.frozen_bytes * size]))]
    words = "the largest layer's weights, dequantized, and their scales"
    scales = stored_parts(size, "nf4", BLOCK_4BIT, double_quantization=True)["scales"]
    return [Term("temporaries", words, Counter([model.frozen_bytes * size, 4 * scales]))]


def _dora(model: TrainedModel, name: str) -> Term:
    """For the norm, DoRA makes the whole update (an identity matrix times A and B), the weights and their sum.

    Its output is then the sum of three float32 tensors.
    """
    out, width = model.shape.linear[name]
    copies = [4 * out * width] * (3 if model.frozen_bytes == 4 else 4) + [4 * out * model.tokens] * 3
    if model.mixed:
        copies += [2 * out * width, 4 * width * model.tokens]
    tensors = Counter([model.adapter_bytes * width * width, *copies])
    return Term("temporaries", "DoRA's norm of a whole layer", tensors)


def _saved_by_block(model: TrainedModel, layers: TrainedLayers) -> list[int]:
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
        sizes += _saved_inputs(model, names, layers)
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


def _autocast_copies(model: TrainedModel, layers: TrainedLayers) -> list[Term]:
    """The copies of a block's trained weights that autocast makes again when the block is recomputed."""
    if not (model.mixed and model.setup.checkpointing):
        return []
    sizes = Counter(2 * number for number in chain(*tensors_of_block(model.shape, model.method, layers)))
    return [Term("activations", AUTOCAST_COPIES, sizes)]


def _saved_inputs(model: TrainedModel, names: tuple[str, ...], layers: TrainedLayers) -> list[int]:
    """Bytes per token that layers save of the input that they share: the tensor itself, or copies in another dtype."""
    width = model.shape.linear[names[0]][1]
    adapted = [name for name in names if name in layers.adapted]
    full = [name for name in names if name in layers.full]
    itself, copies = False, []
    if full:
        # Autocast copies the output of a norm to bfloat16 once per layer; other inputs are in bfloat16 already.
        if model.mixed and model.stream_bytes == 4 and len(names) > 1:
            copies += [2 * width] * len(full)
        else:
            itself = True
    for _ in adapted:
        if model.method.dropout:
            copies += [width, model.adapter_bytes * width]
        elif model.compute_bytes == model.adapter_weight_bytes or (model.quantized and model.mixed):
            itself = True
        else:
            copies.append(model.adapter_bytes * width)
    # Attention saves its own result, which is the input of o_proj.
    return copies + ([model.compute_bytes * width] if itself and names != SHARED_INPUTS[1] else [])


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
