"""The model states of a training step: weights, adapters, gradients and optimizer state.

"Model states" as in ZeRO (arXiv 1910.02054): what is there in every step, whatever the batch. `block_memory` adds the
activations of the blocks, and `closed_form` sums up.
"""

from __future__ import annotations

from collections import Counter

from workbench.adapters.quantization import stored_parts
from workbench.memory.formula.trained_model import (
    Term,
    TrainedLayers,
    TrainedModel,
    elements,
    tensors_of_block,
    term_of_elements,
    term_of_tensor,
    trains_in_full,
)
from workbench.memory.setup import BLOCK_4BIT, BLOCK_8BIT, SMALLEST_8BIT, SMALLEST_PAGED, code_book_values
from workbench.memory.shapes import other_parameters


def resident(model: TrainedModel) -> list[Term]:
    """The terms that are there at every moment of a step: weights, adapters, optimizer state, accumulated gradients."""
    terms = _weights(model)
    if model.adapter_weights:
        terms.append(term_of_elements("adapters", "adapter weights", model.adapter_weights, model.adapter_weight_bytes))
    return [*terms, _optimizer_state(model), *([gradients(model)] if model.setup.accumulate else [])]


def gradients(model: TrainedModel) -> Term:
    """The gradients of all trainable parameters."""
    sizes = Counter({number * model.trained_bytes: count for number, count in model.full_weights.items()})
    for number, count in model.adapter_weights.items():
        sizes[number * model.adapter_weight_bytes] += count
    return Term("gradients", f"{model.trainable:,} gradients, in the dtype of the trained weights", sizes)


def new_gradients(model: TrainedModel) -> list[Term]:
    """All gradients, if they are made in this step: those of earlier batches are in `resident`."""
    return [] if model.setup.accumulate else [gradients(model)]


def gradients_above(model: TrainedModel, lowest: TrainedLayers) -> list[Term]:
    """The new gradients, without those of the linear layers `lowest` of the lowest block.

    The gradient of untied embeddings is left out too, because it comes last.
    """
    if model.setup.accumulate:
        return []
    sizes = Counter(gradients(model).tensors)
    full, adapters = tensors_of_block(model.shape, model.method, lowest)
    sizes.subtract(
        [
            *(model.trained_bytes * number for number in full),
            *(model.adapter_weight_bytes * number for number in adapters),
        ]
    )
    if trains_in_full(model.method, "model.embed_tokens") and not (model.full and model.shape.tied):
        sizes[model.trained_bytes * model.shape.embedding] -= 1
    return [Term("gradients", "gradients above the lowest block", sizes)]


def head_gradient(model: TrainedModel) -> list[Term]:
    """The gradient of the output head, if it trains and is made in this step."""
    if model.setup.accumulate or not trains_in_full(model.method, "lm_head"):
        return []
    return [term_of_tensor("gradients", "gradient of the output head", model.trained_bytes * model.shape.embedding)]


def _weights(model: TrainedModel) -> list[Term]:
    shape, rest, linear = model.shape, Counter(other_parameters(model.shape).values()), Counter[int]()
    for size in shape.biases.values():
        rest[size] += shape.layers
    for out, width in shape.linear.values():
        linear[out * width] += shape.layers
    if model.quantized:
        bits = 8 if model.setup.double_quantization else 32
        words = f"{elements(linear):,} weights in 4 bits, and a scale of {bits} bits for every {BLOCK_4BIT} of them"
        stored = Term("weights", words, packed(linear, model.setup.double_quantization))
        return [stored, term_of_elements("weights", "other weights", rest, model.stream_bytes)]
    if model.full:
        return [term_of_elements("weights", "weights", linear + rest, model.trained_bytes)]
    terms = [term_of_elements("weights", "frozen weights", linear + rest, model.frozen_bytes)]
    if model.full_weights:
        words = "weights trained in full, copies of the frozen ones"
        terms.append(term_of_elements("weights", words, model.full_weights, model.trained_bytes))
    return terms


def packed(linear: Counter[int], double_quantization: bool) -> Counter[int]:
    """Size in bytes -> number of tensors that bitsandbytes stores for weights in NF4, without the offset (4 bytes).

    linear: elements of a weight -> number of such weights.
    """
    tensors: Counter[int] = Counter()
    for number, count in linear.items():
        stored = stored_parts(number, "nf4", BLOCK_4BIT, double_quantization)
        sizes = [stored[part] for part in ("codes", "scales", "scales of scales") if part in stored]
        for size in (*sizes, 4 * code_book_values(double_quantization)):
            tensors[size] += count
    return tensors


def _optimizer_state(model: TrainedModel) -> Term:
    state: Counter[int] = Counter()
    for tensors, size in (
        (model.full_weights, model.trained_bytes),
        (model.adapter_weights, model.adapter_weight_bytes),
    ):
        for number, count in tensors.items():
            for part in state_tensors(model.setup.optimizer, number, size):
                state[part] += 2 * count
    how = {
        "adamw8bit": "1 byte each and their scales (4 bytes in small tensors)",
        "paged_adamw": "those of small tensors, 4 bytes each; the others are paged, outside of torch's allocator",
        "paged_adamw8bit": "those of small tensors, and scales; the others are paged, outside of torch's allocator",
    }.get(model.setup.optimizer, "in the dtype of the weights")
    return Term("optimizer state", f"AdamW's two averages for {model.trainable:,} parameters, {how}", state)


def state_tensors(optimizer: str, number: int, size: int) -> list[int]:
    """Bytes of the tensors that hold one of AdamW's averages in torch's allocator, for a parameter.

    number: its elements. size: bytes per element of the parameter.
    """
    if optimizer in ("adamw", "adamw_fused"):
        return [number * size]
    paged = optimizer.startswith("paged") and number >= SMALLEST_PAGED
    if optimizer == "paged_adamw" or number < SMALLEST_8BIT:
        return [] if paged else [4 * number]
    scales = 4 * -(-number // BLOCK_8BIT)
    return [scales] if paged else [number, scales]
