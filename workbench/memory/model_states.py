"""The model states of a training step: weights, adapters, gradients and optimizer state, and which layers train.

"Model states" as in ZeRO (arXiv 1910.02054): what is there in every step, whatever the batch. `block_memory` adds the
activations of the blocks, and `closed_form` sums up. All three are functions of a `TrainedModel`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from workbench.adapters.inject import choose_targets, lies_within
from workbench.adapters.methods import Method
from workbench.adapters.quantization import stored_parts
from workbench.memory.setup import (
    BLOCK_4BIT,
    BLOCK_8BIT,
    SMALLEST_8BIT,
    SMALLEST_PAGED,
    Setup,
    code_book_values,
)
from workbench.memory.shapes import Shape, in_block, module_names, other_parameters


class TrainedLayers(NamedTuple):
    """The linear layers of one block that have an adapter, and those trained in full, by name in the block."""

    adapted: frozenset[str]
    full: frozenset[str]


@dataclass(frozen=True)
class Term:
    """One term of the sum. tensors: size in bytes -> number of such tensors, because the allocator rounds each."""

    component: str
    words: str
    tensors: Counter[int]

    @property
    def bytes(self) -> int:
        return elements(self.tensors)


@dataclass(frozen=True)
class TrainedModel:
    """The sizes of a model, the settings of its training step, what of it trains, and bytes per element.

    frozen_bytes: of frozen weights. trained_bytes: of weights that train themselves, and of their gradients.
    stream_bytes: of the embeddings' output and of the hidden states between blocks.
    compute_bytes: of the inputs of the linear layers. logit_bytes: of the logits that the head returns.
    blocks: what trains in each block, lowest first. full_weights, adapter_weights: elements of a tensor -> number of
    such tensors, of the weights that train themselves, and of the adapters.
    """

    shape: Shape
    setup: Setup
    frozen_bytes: int
    trained_bytes: int
    stream_bytes: int
    compute_bytes: int
    logit_bytes: int
    blocks: tuple[TrainedLayers, ...]
    full_weights: Counter[int]
    adapter_weights: Counter[int]

    @property
    def method(self) -> Method:
        return self.setup.method

    @property
    def rank(self) -> int:
        """The rank of the adapters; 0 in full fine-tuning."""
        return self.method.rank or 0

    @property
    def full(self) -> bool:
        return self.method.name == "full"

    @property
    def quantized(self) -> bool:
        return self.method.name == "qlora"

    @property
    def mixed(self) -> bool:
        return self.setup.dtype == "mixed"

    @property
    def adapter_weight_bytes(self) -> int:
        """Bytes per element of the adapters, and of their gradients."""
        return 2 if self.setup.adapter_dtype == "bfloat16" else 4

    @property
    def adapter_bytes(self) -> int:
        """Bytes per element in which the products of an adapter are computed."""
        return 2 if self.mixed else self.adapter_weight_bytes

    @property
    def tokens(self) -> int:
        return self.setup.tokens

    @property
    def trainable(self) -> int:
        """The number of trainable parameters."""
        return elements(self.full_weights) + elements(self.adapter_weights)


def trained_model(shape: Shape, setup: Setup) -> TrainedModel:
    """A model of the given shape, trained with the given settings.

    Raises MethodError if the method does not fit the model.
    """
    full, quantized, mixed = setup.method.name == "full", setup.method.name == "qlora", setup.dtype == "mixed"
    frozen = 4 if setup.dtype == "float32" else 2
    # prepare_model_for_kbit_training: all but 4-bit weights are float32
    raised = quantized and not mixed and setup.prepared
    stream = 4 if raised or (full and mixed) else frozen
    blocks = _trained_layers(shape, setup.method)
    full_weights, adapter_weights = _trained_tensors(shape, setup.method, blocks)
    return TrainedModel(
        shape=shape,
        setup=setup,
        frozen_bytes=frozen,
        trained_bytes=2 if setup.dtype == "bfloat16" else 4,
        stream_bytes=stream,
        compute_bytes=4 if raised else frozen,
        logit_bytes=4 if stream == 4 and not mixed else 2,
        blocks=blocks,
        full_weights=full_weights,
        adapter_weights=adapter_weights,
    )


def elements(tensors: Counter[int]) -> int:
    """The sum of the sizes of all tensors. tensors: size -> number of such tensors."""
    return sum(size * count for size, count in tensors.items())


def term_of_elements(component: str, words: str, tensors: Counter[int], size: int) -> Term:
    """A term for tensors with `size` bytes per element. tensors: elements of a tensor -> number of such tensors."""
    words = f"{elements(tensors):,} {words} x {size} bytes"
    return Term(component, words, Counter({number * size: count for number, count in tensors.items()}))


def term_of_tensor(component: str, words: str, size: int) -> Term:
    """A term for one tensor of `size` bytes."""
    return Term(component, words, Counter([size]))


def term_per_token(model: TrainedModel, component: str, words: str, sizes: Iterable[int]) -> Term:
    """A term for tensors with a row for each token of the step. sizes: bytes per token of each tensor."""
    counted = Counter(sizes)
    words = f"{words}: {model.tokens:,} tokens x {elements(counted):,} bytes"
    return Term(component, words, Counter({size * model.tokens: count for size, count in counted.items()}))


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


def trains_in_full(method: Method, module: str) -> bool:
    """Whether `module` trains itself: in full fine-tuning, or as part of hybrid's full_modules."""
    return method.name == "full" or any(lies_within(module, opened) for opened in method.full_modules)


def tensors_of_block(shape: Shape, method: Method, layers: TrainedLayers) -> tuple[list[int], list[int]]:
    """Elements of each trained tensor of a block's linear layers: of those trained in full, and of the adapters."""
    full = [math.prod(shape.linear[name]) for name in layers.full]
    full += [shape.biases[name] for name in layers.full if name in shape.biases]
    adapters: list[int] = []
    rank = method.rank or 0
    for name in layers.adapted:
        out, width = shape.linear[name]
        adapters += [rank * width, rank * out, *([out] if method.dora else [])]
    return full, adapters


def _trained_layers(shape: Shape, method: Method) -> tuple[TrainedLayers, ...]:
    kinds, blocks = shape.linear, range(shape.layers)
    if method.name == "full":
        return tuple(TrainedLayers(frozenset(), frozenset(kinds)) for _ in blocks)
    linear, modules = module_names(shape)
    adapted = set(choose_targets(method, linear, modules, shape.family))
    full = {name for name in linear if trains_in_full(method, name)}

    def chosen(block: int, names: set[str]) -> frozenset[str]:
        return frozenset(kind for kind in kinds if in_block(block, kind) in names)

    return tuple(TrainedLayers(chosen(block, adapted), chosen(block, full)) for block in blocks)


def _trained_tensors(
    shape: Shape, method: Method, blocks: tuple[TrainedLayers, ...]
) -> tuple[Counter[int], Counter[int]]:
    """Elements -> number of such tensors, of the weights that train themselves, and of the adapters."""
    full: Counter[int] = Counter()
    adapters: Counter[int] = Counter()
    full.update(size for name, size in other_parameters(shape).items() if trains_in_full(method, name))
    # If a tied head is named, PEFT trains a copy of it and leaves the embeddings alone.
    if shape.tied and method.name != "full" and trains_in_full(method, "lm_head"):
        full[shape.embedding] += 1
    for layers, count in Counter(blocks).items():
        for found, sizes in zip((full, adapters), tensors_of_block(shape, method, layers), strict=True):
            for size in sizes:
                found[size] += count
    return full, adapters


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
