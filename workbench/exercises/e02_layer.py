"""Exercises of lesson 02: a LoRA layer's forward pass, and its scaling."""

# ruff: noqa: N803, N806 - matrices keep the capital letters that the papers give them

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workbench.exercises.framework import Exercise, Mistake
from workbench.exercises.values import shown


def lora_forward(x, linear, A, B, scaling):
    return linear(x) + scaling * (x @ A.T) @ B.T


def _layer(rows: int, into: int, out: int, rank: int, scaling: float, bias: bool = False) -> tuple[Any, ...]:
    """Whole numbers, so that a failing case is easy to follow."""
    draw = torch.Generator().manual_seed(rows + 10 * into + 100 * out + rank)
    linear = nn.Linear(into, out, bias=bias)
    linear.weight.data = torch.randint(-3, 4, (out, into), generator=draw).float()
    if bias:
        linear.bias.data.fill_(1.0)
    A, B = (torch.randint(-3, 4, size, generator=draw).float() for size in ((rank, into), (out, rank)))
    return torch.randint(-3, 4, (rows, into), generator=draw).float(), linear, A, B, scaling


def _layer_in_words(x: Tensor, linear: nn.Linear, A: Tensor, B: Tensor, scaling: float) -> str:
    bias = {} if linear.bias is None else {"linear.bias": linear.bias}
    matrices = {"x": x, "linear.weight": linear.weight, **bias, "A": A, "B": B}
    values = {name: shown(matrix).replace(", requires_grad=True", "") for name, matrix in matrices.items()}
    return ", ".join([*(f"{name} = {value}" for name, value in values.items()), f"scaling = {scaling:g}"])


FORWARD = Exercise(
    id="02.forward",
    title="write the forward pass",
    difficulty="easy",
    minutes=8,
    task="""\
Write `lora_forward(x, linear, A, B, scaling)`, the output of a LoRA layer:

- `x` holds one input a row, shape `(rows, in)`;
- `linear` is the frozen layer, an `nn.Linear`: `linear(x)` has shape `(rows, out)`;
- `A` has shape `(r, in)` and `B` has shape `(out, r)`, as in PEFT; `scaling` is a number.

It is the frozen layer's output plus `scaling` times the update's. Go through the small matrices one after the
other, and do not build `B A`. (If your answer passes, the rest of the lesson trains with it.)""",
    function="lora_forward",
    stub="""\
def lora_forward(x, linear, A, B, scaling):
    # x: (rows, in); A: (r, in); B: (out, r); returns (rows, out)
    ...
""",
    solution=lora_forward,
    explanation="Through A each input becomes r numbers, through B these become an output. For one input of a "
    "576 x 576 layer at rank 8 that is 2 x 4,608 products; to build B A first would take 2.7 million.",
    hints=(
        "Rows are inputs, so a weight of shape (out, in) is applied as x @ weight.T. A is such a weight, from in to r.",
        "x @ A.T has shape (rows, r). What must it be multiplied by to get the shape (rows, out)?",
        "(x @ A.T) @ B.T is the update's output. Multiply it by scaling and add linear(x).",
    ),
    show=_layer_in_words,
    cases=(
        lambda: _layer(1, 2, 2, 2, 2.0),
        lambda: _layer(1, 2, 1, 1, 2.0, bias=True),
        lambda: _layer(5, 6, 4, 3, 0.5),
    ),
    wrong=(
        Mistake(
            lambda x, linear, A, B, scaling: linear(x) + (x @ A.T) @ B.T,
            "Nearly: scaling is missing. The update's part is multiplied by it.",
        ),
        Mistake(
            lambda x, linear, A, B, scaling: linear(x) + scaling * (x @ A) @ B,
            "The transposes are missing. A has shape (r, in), so rows of inputs are multiplied by A.T, and then by "
            "B.T. Your line runs only where all sizes are equal, and gives something else there.",
        ),
        Mistake(
            lambda x, linear, A, B, scaling: scaling * (x @ A.T) @ B.T,
            "That is the update's part alone. The frozen layer still answers too: add linear(x).",
        ),
        Mistake(
            lambda x, linear, A, B, scaling: linear(x) + scaling * (x @ B.T) @ A.T,
            "You go through B first. A comes first: it takes the layer's input, in numbers, to r; B takes r to out.",
        ),
        Mistake(
            lambda x, linear, A, B, scaling: scaling * (linear(x) + (x @ A.T) @ B.T),
            "You scale the frozen layer's output as well. Only the update's part is scaled; at B = 0 the layer must "
            "give what it gave before.",
        ),
        Mistake(
            lambda x, linear, A, B, scaling: x @ (linear.weight + scaling * B @ A).T,
            "You build the weight W + scaling B A and lose the layer's bias. Call linear(x), and add the update's "
            "part to it.",
        ),
        Mistake(
            lambda x, linear, A, B, scaling: linear(x) + scaling * (linear(x) @ A.T) @ B.T,
            "You put the output of linear through A. A takes the input x: the update works in parallel to the frozen "
            "layer, not after it.",
        ),
    ),
)

SCALING = Exercise(
    id="02.scaling",
    title="a new rank, the same factor",
    difficulty="easy",
    minutes=5,
    task="""\
You found settings that work: some `alpha` at some `rank`. Now you want to try `new_rank`, with the
same factor in front of `B A`. (The same factor is not the same movement: try your answer in the panel above.)

Write `matching_alpha(alpha, rank, new_rank, rslora)`: the alpha to use with `new_rank`. The factor is `alpha / rank`,
or `alpha / sqrt(rank)` when `rslora` is true.""",
    function="matching_alpha",
    stub="""\
def matching_alpha(alpha, rank, new_rank, rslora):
    # for example: alpha = 16 at rank 8, without rsLoRA; which alpha at rank 64?
    ...
""",
    solution="""\
import math


def matching_alpha(alpha, rank, new_rank, rslora):
    if rslora:
        return alpha * math.sqrt(new_rank / rank)
    return alpha * new_rank / rank
""",
    explanation='This keeps the factor: people who write "alpha = 2 x rank" do just this, and people who fix alpha and '
    "raise the rank lower the factor without knowing it. The same factor is not yet the same movement of the output: "
    "compare the two pictures of the panel.",
    hints=(
        "Write the old factor on one side and the new factor on the other: alpha / rank = new_alpha / new_rank.",
        "Solve for new_alpha. At rank 8, alpha 16 gives a factor of 2; at rank 64 a factor of 2 needs which alpha?",
        "With rsLoRA, put sqrt(rank) and sqrt(new_rank) in the places of rank and new_rank.",
    ),
    cases=(
        (16, 8, 64, False),
        (16, 8, 64, True),
        (32, 32, 8, False),
        (32, 32, 8, True),
        (20, 8, 12, False),
        (20, 8, 12, True),
    ),
    wrong=(
        Mistake(
            "def matching_alpha(alpha, rank, new_rank, rslora):\n    return alpha\n",
            "With the same alpha the factor does change: 16 / 8 is 2, but 16 / 64 is 0.25. Alpha has to move with "
            "the rank.",
        ),
        Mistake(
            """\
def matching_alpha(alpha, rank, new_rank, rslora):
    return alpha * (rank / new_rank) ** (0.5 if rslora else 1)
""",
            "Upside down: the factor divides by the rank, so a larger rank needs a larger alpha, not a smaller one.",
        ),
        Mistake(
            "def matching_alpha(alpha, rank, new_rank, rslora):\n    return alpha * new_rank / rank\n",
            "Right without rsLoRA. With rsLoRA the factor is alpha / sqrt(rank), so alpha must grow with the square "
            "root of the rank only.",
        ),
        Mistake(
            "def matching_alpha(alpha, rank, new_rank, rslora):\n    return alpha * (new_rank / rank) ** 0.5\n",
            "Right with rsLoRA. Without it the factor is alpha / rank, no root: look at `rslora` before choosing.",
        ),
        Mistake(
            """\
def matching_alpha(alpha, rank, new_rank, rslora):
    return alpha / (new_rank**0.5 if rslora else new_rank)
""",
            "You return the factor that the old alpha gives at the new rank. The task asks for the alpha which brings "
            "the factor back to what it was.",
        ),
        Mistake(
            """\
def matching_alpha(alpha, rank, new_rank, rslora):
    ratio = new_rank // rank
    return alpha * (ratio**0.5 if rslora else ratio)
""",
            "// throws the remainder away: 12 // 8 is 1 and 8 // 32 is 0. Divide with / instead.",
        ),
    ),
)
