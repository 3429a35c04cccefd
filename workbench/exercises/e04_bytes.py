"""Exercises of lesson 04: the bytes of a training step at rest, and those that a layer keeps for its backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workbench.exercises.framework import Exercise, Mistake

EXERCISE = Exercise(
    id="04.bytes",
    title="what training must hold besides activations",
    difficulty="medium",
    minutes=8,
    task="""\
Just before the optimizer changes the weights (from the second step on), memory holds

- `frozen` numbers that never change, in `frozen_bits` bits each (32, 16, or 4 for a quantized base);
- `trained` numbers of `trained_bytes` bytes each, with a gradient and AdamW's two averages for each, of as many bytes.

Write `resting_bytes(frozen, frozen_bits, trained, trained_bytes)`: the bytes of all of them. In full
fine-tuning `frozen` is 0.""",
    function="resting_bytes",
    stub="""\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    # for example LoRA on a 1B model: frozen = 1_000_000_000 in 16 bits, trained = 10_000_000 in 4 bytes
    ...
""",
    solution="""\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    each = 4  # the number itself, its gradient, two averages
    return frozen * frozen_bits / 8 + each * trained * trained_bytes
""",
    explanation="A billion numbers are 16 GB when all train in float32, and 8 GB in pure bfloat16. With LoRA they are "
    "2 GB, or 0.5 GB in 4 bits, and ten million adapter numbers add 0.16 GB. So at rest full in float32 takes 7 times "
    "as much, and over 20 times as much as with 4 bits; full in bfloat16 takes 3.7 and 12 times. What brings that down "
    "in a real step are the activations, which LoRA keeps as well.",
    hints=(
        "How many numbers are there in memory for each one that trains? Itself, and what else?",
        "It is four: the number, its gradient, and AdamW's two averages. A frozen number has none of the extras.",
        "Bits to bytes: divide by 8. Then add the frozen part and the trained part.",
    ),
    cases=(
        (0, 16, 1_000_000_000, 4),
        (1_000_000_000, 16, 10_000_000, 4),
        (1_000_000_000, 4, 10_000_000, 4),
        (134_515_008, 32, 4_884_480, 4),
        (0, 16, 1_000_000_000, 2),
    ),
    wrong=(
        Mistake(
            """\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    return frozen * frozen_bits / 8 + 3 * trained * trained_bytes
""",
            "You count three numbers for each one that trains. There are four: the number itself, its gradient, and "
            "AdamW's two averages.",
        ),
        Mistake(
            """\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    return frozen * frozen_bits + 4 * trained * trained_bytes
""",
            "`frozen_bits` is in bits: eight of them are a byte.",
        ),
        Mistake(
            """\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    return 4 * trained * trained_bytes
""",
            "The frozen numbers need no gradient and no averages, but they still take memory: without the base there "
            "is no forward pass.",
        ),
        Mistake(
            """\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    return 4 * (frozen * frozen_bits / 8 + trained * trained_bytes)
""",
            "Frozen numbers have no gradient and no averages; only what trains counts four times. That is all that "
            "LoRA saves here.",
        ),
        Mistake(
            """\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    return frozen * frozen_bits / 8 + trained * trained_bytes
""",
            "Those are the weights alone. What trains has a gradient, and AdamW keeps two averages for it.",
        ),
        Mistake(
            """\
def resting_bytes(frozen, frozen_bits, trained, trained_bytes):
    return frozen * frozen_bits / 8 + 2 * trained * trained_bytes
""",
            "You count two numbers for each one that trains. There are four: the number itself, its gradient, and "
            "AdamW's two averages.",
        ),
    ),
)


def saved_bytes(layer, x):
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    return sum(kept.values())


def _with_weights(layer: nn.Module, x: Tensor) -> int:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    return sum(kept.values())


def _each_time(layer: nn.Module, x: Tensor) -> int:
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    return sum(sizes)


def _numbers(layer: nn.Module, x: Tensor) -> int:
    return saved_bytes(layer, x) // x.element_size()


def _always_four(layer: nn.Module, x: Tensor) -> int:
    return _numbers(layer, x) * 4


def _input_and_output(layer: nn.Module, x: Tensor) -> int:
    return x.nbytes + layer(x).nbytes


def _input_alone(layer: nn.Module, x: Tensor) -> int:
    return x.nbytes


class Gate(nn.Module):
    """The MLP of a Llama block: two layers in parallel, one through SiLU, their product, and a third layer."""

    def __init__(self, size: int, inner: int):
        super().__init__()
        self.gate, self.up = nn.Linear(size, inner, bias=False), nn.Linear(size, inner, bias=False)
        self.down = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def _layers(kind: str, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    draw = torch.Generator().manual_seed(0)
    layer = {
        "linear": lambda: nn.Linear(4, 3),
        "two": lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 4, bias=False)),
        "gate": lambda: Gate(8, 24),
    }[kind]()
    return layer.to(dtype), torch.randn(5, layer_input(layer), generator=draw).to(dtype)


def layer_input(layer: nn.Module) -> int:
    """How many numbers the layer takes for each row."""
    return next(module for module in layer.modules() if isinstance(module, nn.Linear)).in_features


def _layer_in_words(layer: nn.Module, x: Tensor) -> str:
    sizes = ", ".join(f"{m.in_features} -> {m.out_features}" for m in layer.modules() if isinstance(m, nn.Linear))
    return f"layer = {type(layer).__name__} ({sizes}) and x of shape {tuple(x.shape)} in {x.dtype}"


SAVED = Exercise(
    id="04.saved",
    title="what does a layer keep for the way back?",
    difficulty="hard",
    minutes=15,
    task="""\
In the forward pass autograd keeps the tensors that the backward pass will need: these are the activations that fill
the memory. `torch.autograd.graph.saved_tensors_hooks(pack, unpack)` is a context in which torch calls `pack(tensor)`
for every tensor that it keeps, and `unpack` when it needs it again; both return the tensor.

Write `saved_bytes(layer, x)`: the bytes that `layer(x)` keeps. Leave out the layer's own parameters, which are in
memory anyway, and count each storage once, however often it is kept. (A tensor `t` has its bytes in
`t.untyped_storage()`, which has `data_ptr()`, its address, and `nbytes()`.)""",
    function="saved_bytes",
    stub="""\
def saved_bytes(layer, x):
    # layer: any module, x: its input; returns bytes
    ...
""",
    solution=saved_bytes,
    explanation="A linear layer keeps its input; SiLU keeps its own; a product keeps both factors. So the MLP of a "
    "block keeps several tensors of its inner size, for every token. It does so whether its weights train or only an "
    "adapter somewhere below: freezing the weights hardly helps. Checkpointing throws them away and computes them "
    "again.",
    hints=(
        "Write a function pack(tensor) that notes the tensor's address and size in a dictionary, and returns the "
        "tensor.",
        "Addresses of the parameters: {p.untyped_storage().data_ptr() for p in layer.parameters()}. Skip these.",
        "with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor): layer(x). Then add up the sizes.",
    ),
    show=_layer_in_words,
    cases=(
        lambda: _layers("linear"),
        lambda: _layers("two"),
        lambda: _layers("gate"),
        lambda: _layers("gate", torch.bfloat16),
    ),
    wrong=(
        Mistake(
            _with_weights,
            "You count the layer's own weights too. Autograd keeps them, but they are in memory anyway.",
        ),
        Mistake(
            _each_time,
            "You count a tensor again each time it is kept. Two layers with the same input keep it once: go by the "
            "address of its storage.",
        ),
        Mistake(_numbers, "You count numbers, not bytes: a float32 has four of them, a bfloat16 two."),
        Mistake(
            _always_four,
            "You take four bytes for each number. In bfloat16 it is two: ask the storage for its nbytes().",
        ),
        Mistake(
            _input_and_output,
            "You count the layer's input and output. What is kept lies between them: use the hooks to see it.",
        ),
        Mistake(
            _input_alone, "You count the input alone. That is right for one linear layer, and too little for more."
        ),
    ),
)
