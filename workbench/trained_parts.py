"""Which parts of a model are trained, and the bytes of one number of each kind: where every line of the sum begins."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from workbench.memory_setup import Setup
from workbench.methods import choose_targets, lies_within
from workbench.model_shapes import Shape, in_block, module_names, parameters_outside

Roles = tuple[frozenset[str], frozenset[str]]  # of a block's linear layers: with an adapter, and trained whole
LOWERED = "trained weights lowered by autocast"


@dataclass(frozen=True)
class Line:
    """One line of the sum. tensors: size in bytes -> how many such tensors."""

    component: str
    words: str
    tensors: Counter[int]

    @property
    def bytes(self) -> int:
        return sum(size * count for size, count in self.tensors.items())


class Parts:
    """The bytes of one number, by kind, and which parameters are trained."""

    def __init__(self, shape: Shape, setup: Setup):
        self.shape, self.setup, self.method = shape, setup, setup.method
        self.full, self.quantized = self.method.name == "full", self.method.name == "qlora"
        self.mixed = setup.dtype == "mixed"
        self.tokens = setup.batch_size * setup.sequence_length
        self.frozen = 4 if setup.dtype == "float32" else 2
        self.whole = 2 if setup.dtype == "bfloat16" else 4  # what is trained itself, not by an adapter
        raised = self.quantized and not self.mixed  # prepare_model_for_kbit_training: all but 4-bit weights
        self.stream = 4 if raised or (self.full and self.mixed) else self.frozen  # embeddings, and between blocks
        self.compute = 4 if raised else self.frozen
        self.logit = 4 if self.stream == 4 and not self.mixed else 2
        self.table = shape.vocabulary * shape.hidden  # numbers in the embeddings, and in the head
        self.outside = parameters_outside(shape)
        self.blocks = self._roles()
        self.whole_weights, self.adapter_weights = self._trained()
        self.trainable = self._numbers(self.whole_weights + self.adapter_weights)

    def _roles(self) -> list[Roles]:
        """Of each block: the linear layers that carry an adapter, and those that are trained whole."""
        kinds, blocks = self.shape.linear, range(self.shape.layers)
        if self.full:
            return [(frozenset(), frozenset(kinds)) for _ in blocks]
        linear, modules = module_names(self.shape)
        adapted = set(choose_targets(self.method, linear, modules, self.shape.family))
        opened = {name for name in linear if self._is_opened(name)}
        return [
            tuple(frozenset(kind for kind in kinds if in_block(layer, kind) in chosen) for chosen in (adapted, opened))
            for layer in blocks
        ]

    def _is_opened(self, name: str) -> bool:
        return self.full or any(lies_within(name, module) for module in self.method.full_modules)

    def _copies_tied_head(self) -> bool:
        """PEFT trains a copy of a head that is named, and leaves the embeddings that it was tied to alone."""
        return self.shape.tied and not self.full and self._is_opened("lm_head")

    def _trained(self) -> tuple[Counter[int], Counter[int]]:
        """Sizes, in numbers, of the tensors trained whole, and of those of the adapters."""
        whole, adapters = Counter(), Counter()
        whole.update(size for name, size in self.outside.items() if self._is_opened(name))
        if self._copies_tied_head():
            whole[self.table] += 1
        for roles, blocks in Counter(self.blocks).items():
            for found, sizes in zip((whole, adapters), self._trained_in(roles), strict=True):
                for size in sizes:
                    found[size] += blocks
        return whole, adapters

    def _trained_in(self, roles: Roles) -> tuple[list[int], list[int]]:
        """The same of the linear layers of one block."""
        adapted, opened = roles
        whole = [math.prod(self.shape.linear[name]) for name in opened]
        whole += [self.shape.biases[name] for name in opened if name in self.shape.biases]
        adapters = []
        for name in adapted:
            out, width = self.shape.linear[name]
            adapters += [self.method.rank * width, self.method.rank * out, *([out] if self.method.dora else [])]
        return whole, adapters

    @staticmethod
    def _numbers(tensors: Counter[int]) -> int:
        return sum(size * count for size, count in tensors.items())

    # --- lines, by what is given: numbers of some size in bytes, one tensor, or bytes a token ---

    def _line(self, component: str, words: str, numbers: Counter[int], size: int) -> Line:
        told = f"{self._numbers(numbers):,} {words} x {size} bytes"
        return Line(component, told, Counter({number * size: count for number, count in numbers.items()}))

    def _one(self, component: str, words: str, size: int) -> Line:
        return Line(component, words, Counter([size]))

    def _per_token(self, component: str, words: str, sizes: Iterable[int]) -> Line:
        sizes = Counter(sizes)
        told = f"{words}: {self.tokens:,} tokens x {self._numbers(sizes):,} bytes"
        return Line(component, told, Counter({size * self.tokens: count for size, count in sizes.items()}))
