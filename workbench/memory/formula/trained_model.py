"""What trains in a model, and the terms of which the closed form is a sum.

`model_states`, `block_memory`, `block_moments` and `loss_memory` are functions of a `TrainedModel`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from workbench.adapters.inject import choose_targets, lies_within
from workbench.adapters.methods import Method
from workbench.memory.setup import Setup
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
