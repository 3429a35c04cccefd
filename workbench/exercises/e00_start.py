"""Exercises of lesson 00: how large an adapter's file is, and the weight that an adapter makes of W."""

# ruff: noqa: N803, N806 - matrices keep the capital letters that the papers give them

from __future__ import annotations

import torch
from torch import Tensor

from workbench.exercises.framework import Exercise, Mistake

SIZE = Exercise(
    id="00.size",
    title="how large is the file?",
    difficulty="easy",
    minutes=3,
    task="""\
An adapter's file holds one number for each trainable parameter, and each number takes some bytes: 4 in float32, 2 in
bfloat16. Write `file_megabytes(parameters, bytes_per_number)`: the size of the file in MB, where one MB is a million
bytes.""",
    function="file_megabytes",
    stub="""\
def file_megabytes(parameters, bytes_per_number):
    # parameters: how many numbers the file holds; returns megabytes
    ...
""",
    solution="""\
def file_megabytes(parameters, bytes_per_number):
    return parameters * bytes_per_number / 1_000_000
""",
    explanation="So a million parameters are 4 MB in float32 and 2 MB in bfloat16; that is all the arithmetic behind "
    "every file size in this course.",
    hints=(
        "First the bytes: how many numbers, times how many bytes each.",
        "Then divide by the number of bytes in a megabyte, 1_000_000.",
    ),
    cases=((1_000_000, 4), (2_442_240, 4), (134_515_008, 2), (0, 4)),
    wrong=(
        Mistake(
            """\
def file_megabytes(parameters, bytes_per_number):
    return parameters * bytes_per_number / 2**20
""",
            "That is in MiB (2**20 bytes). Here one MB is 1_000_000 bytes; the two differ by 5 %.",
        ),
        Mistake(
            """\
def file_megabytes(parameters, bytes_per_number):
    return parameters / 1_000_000
""",
            "You count parameters, not bytes: each number takes `bytes_per_number` bytes.",
        ),
        Mistake(
            """\
def file_megabytes(parameters, bytes_per_number):
    return parameters * bytes_per_number
""",
            "That is in bytes; divide by 1_000_000 for megabytes.",
        ),
    ),
)


def updated_weight(W, A, B, scaling):
    return W + scaling * B @ A


def _matrices(out: int, into: int, rank: int) -> tuple[Tensor, Tensor, Tensor, float]:
    draw = torch.Generator().manual_seed(out + into + rank)
    W, A, B = (torch.randn(size, generator=draw) for size in ((out, into), (rank, into), (out, rank)))
    return W, A, B, 2.0


UPDATE = Exercise(
    id="00.update",
    title="from two small matrices to one large update",
    difficulty="easy",
    minutes=5,
    task="""\
`W` is a frozen weight of shape `(out, in)`. LoRA trains `A` of shape `(r, in)` and `B` of shape `(out, r)`; the
layer then behaves as if its weight were $W + \\text{scaling} \\cdot B A$.

Write `updated_weight(W, A, B, scaling)`: that weight, a tensor of the shape of `W`. The arguments are torch tensors
and a number; `@` is the matrix product.""",
    function="updated_weight",
    stub="""\
def updated_weight(W, A, B, scaling):
    # for example W: (576, 576), A: (8, 576), B: (576, 8), scaling: 2.0
    ...
""",
    solution=updated_weight,
    explanation="Two thin matrices make an update of the full shape, so every entry of W can change. But the update "
    "has rank r at most: its rows are all mixtures of the r rows of A. Lesson 01 asks how much that forbids.",
    hints=(
        "Which order of A and B gives the shape (out, in)? In a product, the inner sizes must be equal and vanish.",
        "(out, r) times (r, in) is (out, in): B @ A. Multiply it by scaling, and add it to W.",
    ),
    cases=(
        (torch.eye(2), torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [0.0]]), 2.0),
        (torch.eye(2), torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 1.0]]), 2.0),
        lambda: _matrices(6, 4, 3),
        lambda: _matrices(3, 5, 2),
    ),
    wrong=(
        Mistake(
            lambda W, A, B, scaling: W + scaling * A @ B,
            "You multiply A @ B. That is r by r, as soon as r differs from the layer's sizes: the inner sizes of a "
            "product must be equal, and (out, r) @ (r, in) is B @ A.",
        ),
        Mistake(
            lambda W, A, B, scaling: W + B @ A,
            "The product is right, but scaling is missing: the update is scaling times B A.",
        ),
        Mistake(
            lambda W, A, B, scaling: scaling * B @ A,
            "That is the update alone. The layer still has its own weight: add W.",
        ),
        Mistake(
            lambda W, A, B, scaling: scaling * (W + B @ A),
            "You scale W as well. Only the update is scaled; with B = 0 the weight must stay as it was.",
        ),
        Mistake(
            lambda W, A, B, scaling: W + scaling * B * A,
            "* multiplies entry by entry, and only at rank 1 does that happen to be the product. Use @.",
        ),
        Mistake(
            lambda W, A, B, scaling: W + scaling * (B @ A).T,
            "Your update is the transpose of the one asked for: B @ A already has the shape of W.",
        ),
    ),
)
