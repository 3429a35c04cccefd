"""Which parts of a model are trained, and the bytes of one number of each kind: the facts behind every line of the sum.

The sum itself is in `closed_form`, what it says of a block in `block_memory`. All are functions of one `Parts`.
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
from workbench.memory.shapes import Shape, in_block, module_names, parameters_outside

LOWERED = "trained weights lowered by autocast"


class Roles(NamedTuple):
    """The linear layers of one block that carry an adapter, and those that are trained whole, by name in the block."""

    adapted: frozenset[str]
    whole: frozenset[str]


@dataclass(frozen=True)
class Line:
    """One line of the sum. tensors: size in bytes -> how many such tensors."""

    component: str
    words: str
    tensors: Counter[int]

    @property
    def bytes(self) -> int:
        return sum(size * count for size, count in self.tensors.items())


@dataclass(frozen=True)
class Parts:
    """What is trained of a model of some shape, and the bytes of one number of each kind.

    frozen_bytes: of frozen weights. whole_bytes: of weights that are trained themselves, not by an adapter.
    stream_bytes: of the embeddings' output and of what passes between blocks. compute_bytes: of what products read
    inside of a block. logit_bytes: of logits as the head returns them. blocks: what is trained of each block, lowest
    first. whole_weights, adapter_weights: size, in numbers, of each trained tensor -> how many such tensors.
    """

    shape: Shape
    setup: Setup
    frozen_bytes: int
    whole_bytes: int
    stream_bytes: int
    compute_bytes: int
    logit_bytes: int
    blocks: tuple[Roles, ...]
    whole_weights: Counter[int]
    adapter_weights: Counter[int]

    @property
    def method(self) -> Method:
        return self.setup.method

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
    def tokens(self) -> int:
        return self.setup.tokens

    @property
    def table(self) -> int:
        """Numbers in the embeddings, and in the head."""
        return self.shape.vocabulary * self.shape.hidden

    @property
    def trainable(self) -> int:
        """Trained numbers in all."""
        return numbers_in(self.whole_weights) + numbers_in(self.adapter_weights)


def parts_of(shape: Shape, setup: Setup) -> Parts:
    """The parts of a model of `shape` trained as `setup` says.

    Raises MethodError where the method does not fit the model.
    """
    full, quantized, mixed = (setup.method.name == "full", setup.method.name == "qlora", setup.dtype == "mixed")
    frozen = 4 if setup.dtype == "float32" else 2
    raised = quantized and not mixed  # prepare_model_for_kbit_training: all but 4-bit weights are float32
    stream = 4 if raised or (full and mixed) else frozen
    blocks = _roles(shape, setup.method)
    whole_weights, adapter_weights = _trained(shape, setup.method, blocks)
    return Parts(
        shape=shape,
        setup=setup,
        frozen_bytes=frozen,
        whole_bytes=2 if setup.dtype == "bfloat16" else 4,
        stream_bytes=stream,
        compute_bytes=4 if raised else frozen,
        logit_bytes=4 if stream == 4 and not mixed else 2,
        blocks=blocks,
        whole_weights=whole_weights,
        adapter_weights=adapter_weights,
    )


def trains_whole(method: Method, name: str) -> bool:
    """Whether the module called `name` is trained itself: in full fine-tuning, or as one of hybrid's full_modules."""
    return method.name == "full" or any(lies_within(name, module) for module in method.full_modules)


def trained_in(shape: Shape, method: Method, roles: Roles) -> tuple[list[int], list[int]]:
    """Sizes, in numbers, of the tensors of one block's linear layers trained whole, and of those of its adapters."""
    whole = [math.prod(shape.linear[name]) for name in roles.whole]
    whole += [shape.biases[name] for name in roles.whole if name in shape.biases]
    adapters: list[int] = []
    for name in roles.adapted:
        out, width = shape.linear[name]
        adapters += [method.rank * width, method.rank * out, *([out] if method.dora else [])]
    return whole, adapters


def numbers_in(tensors: Counter[int]) -> int:
    """The sum of the sizes of all tensors. tensors: size -> how many such tensors."""
    return sum(size * count for size, count in tensors.items())


def line_of_numbers(component: str, words: str, numbers: Counter[int], size: int) -> Line:
    """A line for tensors of so many numbers (numbers in a tensor -> how many such tensors) of `size` bytes each."""
    told = f"{numbers_in(numbers):,} {words} x {size} bytes"
    return Line(component, told, Counter({number * size: count for number, count in numbers.items()}))


def line_of_tensor(component: str, words: str, size: int) -> Line:
    """A line for one tensor of `size` bytes."""
    return Line(component, words, Counter([size]))


def line_per_token(parts: Parts, component: str, words: str, sizes: Iterable[int]) -> Line:
    """A line for tensors that have an entry for each token of the step. sizes: bytes a token of each tensor."""
    counted = Counter(sizes)
    told = f"{words}: {parts.tokens:,} tokens x {numbers_in(counted):,} bytes"
    return Line(component, told, Counter({size * parts.tokens: count for size, count in counted.items()}))


def _roles(shape: Shape, method: Method) -> tuple[Roles, ...]:
    kinds, blocks = shape.linear, range(shape.layers)
    if method.name == "full":
        return tuple(Roles(frozenset(), frozenset(kinds)) for _ in blocks)
    linear, modules = module_names(shape)
    adapted = set(choose_targets(method, linear, modules, shape.family))
    whole = {name for name in linear if trains_whole(method, name)}

    def chosen(layer: int, names: set[str]) -> frozenset[str]:
        return frozenset(kind for kind in kinds if in_block(layer, kind) in names)

    return tuple(Roles(chosen(layer, adapted), chosen(layer, whole)) for layer in blocks)


def _trained(shape: Shape, method: Method, blocks: tuple[Roles, ...]) -> tuple[Counter[int], Counter[int]]:
    """Sizes, in numbers, of the tensors trained whole, and of those of the adapters -> how many such tensors."""
    whole: Counter[int] = Counter()
    adapters: Counter[int] = Counter()
    whole.update(size for name, size in parameters_outside(shape).items() if trains_whole(method, name))
    # PEFT trains a copy of a head that is named, and leaves the embeddings that it was tied to alone.
    if shape.tied and method.name != "full" and trains_whole(method, "lm_head"):
        whole[shape.vocabulary * shape.hidden] += 1
    for roles, count in Counter(blocks).items():
        for found, sizes in zip((whole, adapters), trained_in(shape, method, roles), strict=True):
            for size in sizes:
                found[size] += count
    return whole, adapters
