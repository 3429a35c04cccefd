"""Exercise 07.intruders: which of a tuned weight's largest directions are new."""

# ruff: noqa: N806 - matrices keep the capital letters that the papers give them

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workbench.exercises.framework import Exercise, Mistake
from workbench.exercises.values import shown


def intruders(before, after, top, threshold):
    U = torch.linalg.svd(before, full_matrices=False).U
    U_tuned = torch.linalg.svd(after, full_matrices=False).U[:, :top]
    highest = (U_tuned.T @ U).abs().max(dim=1).values
    return [place for place, cosine in enumerate(highest.tolist()) if cosine < threshold]


def _with_sign(before: Tensor, after: Tensor, top: int, threshold: float) -> list[int]:
    U, U_tuned = (torch.linalg.svd(W, full_matrices=False).U for W in (before, after))
    highest = (U_tuned[:, :top].T @ U).max(dim=1).values
    return torch.where(highest < threshold)[0].tolist()


def _same_place(before: Tensor, after: Tensor, top: int, threshold: float) -> list[int]:
    U, U_tuned = (torch.linalg.svd(W, full_matrices=False).U for W in (before, after))
    cosines = (U_tuned * U).sum(0).abs()[:top]
    return torch.where(cosines < threshold)[0].tolist()


def _of_the_update(before: Tensor, after: Tensor, top: int, threshold: float) -> list[int]:
    return intruders(before, after - before, top, threshold)


def _in_the_base(before: Tensor, after: Tensor, top: int, threshold: float) -> list[int]:
    return intruders(after, before, top, threshold)


def _base_cut_too(before: Tensor, after: Tensor, top: int, threshold: float) -> list[int]:
    U, U_tuned = (torch.linalg.svd(W, full_matrices=False).U[:, :top] for W in (before, after))
    highest = (U_tuned.T @ U).abs().max(dim=1).values
    return torch.where(highest < threshold)[0].tolist()


def _those_that_are_alike(before: Tensor, after: Tensor, top: int, threshold: float) -> list[int]:
    found = intruders(before, after, top, threshold)
    return [place for place in range(min(top, *after.shape)) if place not in found]


def _how_many(before: Tensor, after: Tensor, top: int, threshold: float) -> int:
    return len(intruders(before, after, top, threshold))


def _of_all(before: Tensor, after: Tensor, top: int, threshold: float) -> list[int]:
    return intruders(before, after, len(after), threshold)


def _right_vectors(before: Tensor, after: Tensor, top: int, threshold: float) -> list[int]:
    return intruders(before.T, after.T, top, threshold)


def _case(sizes: tuple[float, ...], size: float, seed: int, top: int) -> Callable[[], tuple[Any, ...]]:
    """A tall weight, whose outputs leave directions empty, and an update of rank 2 into some of these."""

    def build() -> tuple[Any, ...]:
        draw = torch.Generator().manual_seed(seed)
        count = len(sizes)
        Q = torch.linalg.qr(torch.randn(2 * count, 2 * count, generator=draw)).Q
        R = torch.linalg.qr(torch.randn(count, count, generator=draw)).Q
        before = (Q[:, :count] * torch.tensor(sizes)) @ R
        new = Q[:, count : count + 2] + 0.2 * Q[:, :2]
        return before, before + size * new @ torch.randn(2, count, generator=draw), top, 0.5

    return build


def _smallest() -> tuple[Any, ...]:
    before = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    return before, before + torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 9.0]]), 1, 0.5


def _turned() -> tuple[Any, ...]:
    """The two directions have changed places and one its sign; none is new."""
    before = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    return before, torch.tensor([[-1.0, 0.0], [0.0, 4.0], [0.0, 0.0]]), 2, 0.5


def _grown() -> tuple[Any, ...]:
    """The base's smallest direction has become the largest, and a new one is the smallest."""
    before = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    after = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.0], [0.0, 0.5, 0.0]])
    return before, after, 2, 0.5


def _in_words(before: Tensor, after: Tensor, top: int, threshold: float) -> str:
    if before.numel() <= 12:
        return f"before = {shown(before)}, after = {shown(after)}, top = {top}, threshold = {threshold:g}"
    return f"weights of shape {tuple(before.shape)}, top = {top}, threshold = {threshold:g}"


EXERCISE = Exercise(
    id="07.intruders",
    title="find the directions that the base does not have",
    difficulty="hard",
    minutes=15,
    task="""\
The columns of U in a singular value decomposition are the directions in which a weight's outputs point, largest first,
each of length 1. Write `intruders(before, after, top, threshold)`, which looks at the `top` largest such directions of
the tuned weight `after` and returns the places (0 for the largest) of those whose cosine with *every* one of the base's
directions is below `threshold`, whatever the sign. (If your answer passes, the lesson counts with it.)""",
    function="intruders",
    stub="""\
def intruders(before, after, top, threshold):
    # before, after: (out, in); returns a list such as [0, 3]
    ...
""",
    solution=intruders,
    explanation="This is the definition of the paper, and of PEFT's reduce_intruder_dimension.",
    hints=(
        "torch.linalg.svd(W, full_matrices=False).U gives the directions of W as columns. You need both weights'.",
        "All cosines at once: U_tuned[:, :top].T @ U, a row for each direction of the tuned weight.",
        "The sign of a singular vector means nothing: take .abs(), then the highest of each row, then compare.",
    ),
    show=_in_words,
    cases=(
        _smallest,
        _turned,
        _grown,
        _case((5.0, 4.0, 3.0, 2.0), 6.0, 1, 3),
        _case((9.0, 4.0, 2.0, 1.0, 0.5), 2.0, 2, 4),
        _case((9.0, 8.0, 7.0, 6.0, 5.0, 4.0), 4.0, 5, 5),
    ),
    wrong=(
        Mistake(
            _with_sign,
            "You compare with the sign. A singular vector and its negative are the same direction: take the absolute "
            "value of each cosine.",
        ),
        Mistake(
            _same_place,
            "You compare each direction with the base's direction in the same place. Training may only change the "
            "order: compare with all of them and take the highest.",
        ),
        Mistake(
            _base_cut_too,
            "You compare with the base's largest directions only. A direction that was small in the base and has grown "
            "is not new: compare with all of them.",
        ),
        Mistake(
            _of_the_update,
            "You look at the directions of the update. Intruders are directions of the whole tuned weight: where the "
            "update is small they do not show.",
        ),
        Mistake(
            _in_the_base,
            "The two weights have changed places: look at the largest directions of the tuned weight, and compare them "
            "with all those of the base.",
        ),
        Mistake(
            _those_that_are_alike,
            "You return the directions that do resemble one of the base's. Intruders are the others.",
        ),
        Mistake(_how_many, "You return how many there are. Return their places, as a list."),
        Mistake(
            _of_all,
            "You look at all directions of the tuned weight. The smallest are noise: only the `top` largest count.",
        ),
        Mistake(
            _right_vectors,
            "You compare the right singular vectors (inputs). The definition is about the left ones, the columns of U.",
        ),
    ),
)
