"""The moments at which a block may hold most in its backward pass, and the temporaries that are alive at each.

What does not exist together is not added up: the weights that a 4-bit layer dequantizes are freed before the gradients
of the gated product exist, and the input of the last linear layer is freed before that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from itertools import chain

from workbench.adapters.quantization import stored_parts
from workbench.memory.formula.block_memory import (
    adapters_take_it_as_it_is,
    inputs_saved,
    saved_by_block,
    saves_input_itself,
)
from workbench.memory.formula.trained_model import (
    Term,
    TrainedLayers,
    TrainedModel,
    tensors_of_block,
    term_per_token,
)
from workbench.memory.setup import BLOCK_4BIT
from workbench.memory.shapes import SHARED_INPUTS

AUTOCAST_COPIES = "bfloat16 copies of trained weights, made by autocast"
UP, LAST = "mlp.up_proj", "mlp.down_proj"


def block_in_backward(model: TrainedModel, layers: TrainedLayers) -> list[list[Term]]:
    """What a block holds, with what it saved, at each moment of its backward pass at which that may be most.

    With checkpointing the backward pass begins with the forward pass again, so that its temporaries count as well.
    """
    moments = [_at_product(model, layers)]
    if LAST in layers.adapted:
        moments.append(_at_last_adapter(model, layers))
    if model.quantized:
        moments.append(_dequantized(model, layers))
    if model.setup.checkpointing:
        moments += _recomputed(model, layers)
    copies = _autocast_copies(model, layers)
    return [[*terms, *copies] for terms in moments]


def largest_block(model: TrainedModel) -> TrainedLayers:
    """The trained layers of the block that saves most."""
    return max(dict.fromkeys(model.blocks), key=lambda layers: sum(saved_by_block(model, layers)))


def passing_block(model: TrainedModel) -> Term:
    """What a checkpointed block holds at its gated MLP the first time, when nothing of it is saved."""
    shape = model.shape
    sizes = [(model.stream_bytes + model.compute_bytes) * shape.hidden, *[model.compute_bytes * shape.intermediate] * 3]
    return term_per_token(model, "activations", "one block, not saved", sizes)


def block_at_scores(model: TrainedModel, layers: TrainedLayers, backward: bool) -> list[Term]:
    """A block at its eager attention, where it holds most. What follows attention is not made yet, or freed already."""
    shape, length, before = model.shape, model.setup.rows[1], layers_before_scores(layers)
    low, scores = 2 if model.mixed else model.compute_bytes, shape.heads * length
    later = [4 * shape.hidden, *[model.compute_bytes * shape.intermediate] * 3]
    saved = Counter(saved_by_block(model, before)) - Counter(later)
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


def largest_temporaries(model: TrainedModel) -> list[Term]:
    """The most that is made and freed within a block's forward pass: DoRA's norm, or dequantized 4-bit weights."""
    if model.method.dora:
        adapted = frozenset[str]().union(*(layers.adapted for layers in model.blocks))
        return [max((_dora(model, name) for name in adapted), key=lambda term: term.bytes)]
    return [_dequantized_weights(model, LAST)] if model.quantized else []


def _at_product(model: TrainedModel, layers: TrainedLayers) -> list[Term]:
    """The gradient of the gated product and those of its two factors, while the input of the last layer is freed."""
    shape = model.shape
    sizes = [model.stream_bytes * shape.hidden, *[model.compute_bytes * shape.intermediate] * 3]
    term = term_per_token(model, "temporaries", "gradients of the gated product and its factors", sizes)
    if LAST in layers.full:
        term.tensors[model.trained_bytes * shape.hidden * shape.intermediate] += 1
    return [_saved(model, layers, without=inputs_saved(model, (LAST,), layers)), term]


def _at_last_adapter(model: TrainedModel, layers: TrainedLayers) -> list[Term]:
    """The gradient that the last adapter passes to its input, which is still saved."""
    sizes = [*_gradients_of_output(model), model.adapter_bytes * model.shape.intermediate]
    return [
        _saved(model, layers),
        term_per_token(model, "temporaries", "gradients at the adapter of the last layer", sizes),
    ]


def _dequantized(model: TrainedModel, layers: TrainedLayers) -> list[Term]:
    """The backward pass of the last 4-bit layer: its weights, and the gradients of its output and its input."""
    shape = model.shape
    sizes = [model.stream_bytes * shape.hidden, model.frozen_bytes * shape.intermediate]
    sizes += [model.compute_bytes * shape.intermediate] if LAST in layers.adapted else []
    sizes += [model.frozen_bytes * shape.hidden] if model.compute_bytes != model.frozen_bytes else []
    words = "gradients of the last layer's output and input"
    return [
        _saved(model, layers, without=inputs_saved(model, (LAST,), layers)),
        term_per_token(model, "temporaries", words, sizes),
        _dequantized_weights(model, LAST),
    ]


def _recomputed(model: TrainedModel, layers: TrainedLayers) -> list[list[Term]]:
    """Moments of the forward pass of a block that is recomputed, while the gradient of its output waits."""
    moments = [_at_adapter(model, layers, name) for name in (UP, LAST) if name in layers.adapted]
    if model.quantized and LAST in layers.adapted:
        moments.append(_at_last_4bit_layer(model, layers))
    return moments


def _at_adapter(model: TrainedModel, layers: TrainedLayers, name: str) -> list[Term]:
    """The forward pass of the adapter of the last layer, or of the one before, in a block that is recomputed."""
    out, width = model.shape.linear[name]
    sizes = [*_alive(model, layers), *_gradients_of_output(model)]
    if (model.mixed or model.method.dropout) and not adapters_take_it_as_it_is(model):
        # The input as converted for the adapter, and autocast's copy of it after dropout: not what is saved.
        sizes += [model.adapter_weight_bytes * width] * (2 if model.mixed and model.method.dropout else 1)
    dora = [_dora(model, name)] if model.method.dora else []
    if name == LAST:
        # DoRA saves the outputs of layer and adapter; that of the adapter is not made yet.
        without = [model.adapter_bytes * out] if dora else []
        sizes += [*_product(model, layers), *([] if dora else [model.compute_bytes * out])]
    else:
        # What is saved of the sum with the adapter's output stands for the layer's own, which DoRA saves in addition.
        without = [*inputs_saved(model, (LAST,), layers), *([model.compute_bytes * out] if dora else [])]
        sizes += [] if dora else [model.adapter_bytes * out] * 2  # the adapter's output, before and after scaling
    term = term_per_token(model, "temporaries", f"at the adapter of {name}; gradients of the block's output", sizes)
    return [_saved(model, layers, without), term, *dora]


def _at_last_4bit_layer(model: TrainedModel, layers: TrainedLayers) -> list[Term]:
    """The forward pass of the last 4-bit layer of a block that is recomputed."""
    out, width = model.shape.linear[LAST]
    sizes = [*_alive(model, layers), *_gradients_of_output(model), *_product(model, layers), model.frozen_bytes * out]
    sizes += [model.frozen_bytes * width] if model.compute_bytes != model.frozen_bytes else []
    saved = inputs_saved(model, (LAST,), layers) if _product(model, layers) else []
    words = "input and output of the last 4-bit layer; gradients of the block's output"
    return [
        _saved(model, layers, without=saved),
        term_per_token(model, "temporaries", words, sizes),
        _dequantized_weights(model, LAST),
    ]


def _alive(model: TrainedModel, layers: TrainedLayers) -> list[int]:
    """Bytes per token of the input of the gated MLP and of the residual, which are alive whether they are saved or not.

    A residual in float32 is what the norm before the MLP saves.
    """
    sizes = [2 * model.shape.hidden] if model.stream_bytes == 2 else []
    return (
        sizes
        if saves_input_itself(model, SHARED_INPUTS[2], layers)
        else [*sizes, model.compute_bytes * model.shape.hidden]
    )


def _product(model: TrainedModel, layers: TrainedLayers) -> list[int]:
    """Bytes per token of the gated product, the input of the last layer, if it is not saved."""
    return [] if saves_input_itself(model, (LAST,), layers) else [model.compute_bytes * model.shape.intermediate]


def _gradients_of_output(model: TrainedModel) -> list[int]:
    """Bytes per token of the gradients of a block's output: of the residual, and of the last layer's adapter.

    If the adapter computes in another dtype, the last layer has a gradient of its own, and DoRA keeps one more.
    """
    hidden, sizes = model.shape.hidden, [model.stream_bytes, model.adapter_bytes]
    if model.compute_bytes != model.adapter_bytes:
        sizes += [model.compute_bytes, *[model.adapter_bytes] * model.method.dora]
    return [size * hidden for size in sizes]


def _saved(model: TrainedModel, layers: TrainedLayers, without: Iterable[int] = ()) -> Term:
    """What one block saves. without: bytes per token of tensors that are freed already, or not made yet."""
    sizes = Counter(saved_by_block(model, layers)) - Counter(without)
    words = "saved by one block"
    if model.setup.checkpointing:
        words = "one block, recomputed"
        if model.stream_bytes == 4:
            sizes[4 * model.shape.hidden] -= 1  # its first norm saves the block's input itself
    return term_per_token(model, "activations", words, sizes)


def _dequantized_weights(model: TrainedModel, name: str) -> Term:
    """A 4-bit layer's weights, dequantized."""
    size = math.prod(model.shape.linear[name])
    tensors = Counter([model.frozen_bytes * size])
    if not model.setup.double_quantization:
        return Term("temporaries", f"weights of {name}, dequantized", tensors)
    tensors[4 * stored_parts(size, "nf4", BLOCK_4BIT, double_quantization=True)["scales"]] += 1
    return Term("temporaries", f"weights of {name}, dequantized, and their scales", tensors)


def _dora(model: TrainedModel, name: str) -> Term:
    """For the norm, DoRA makes the whole update (an identity matrix times A and B), the weights and their sum.

    Update and weights are still alive when its output is made, which is the sum of three float32 tensors.
    """
    out, width = model.shape.linear[name]
    copies = [4 * out * width] * (1 if model.frozen_bytes == 4 else 2)
    if model.mixed:
        copies += [2 * out * width, 4 * width * model.tokens]
    copies += max([4 * out * width] * 2, [4 * out * model.tokens] * 3, key=sum)
    return Term("temporaries", f"DoRA's norm of {name}", Counter([model.adapter_bytes * width * width, *copies]))


def _autocast_copies(model: TrainedModel, layers: TrainedLayers) -> list[Term]:
    """The copies of a block's trained weights that autocast makes again when the block is recomputed."""
    if not (model.mixed and model.setup.checkpointing):
        return []
    sizes = Counter(2 * number for number in chain(*tensors_of_block(model.shape, model.method, layers)))
    return [Term("activations", AUTOCAST_COPIES, sizes)]
