"""Exercise 07.cut: a weight whose update is cut to a rank."""

# ruff: noqa: N806 - matrices keep the capital letters that the papers give them

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workbench.exercises.framework import Exercise, Mistake
from workbench.exercises.values import shown


def cut(before, after, rank):
    U, S, Vh = torch.linalg.svd(after - before, full_matrices=False)
    return before + (U[:, :rank] * S[:rank]) @ Vh[:rank]


def _of_the_weight(before: Tensor, after: Tensor, rank: int) -> Tensor:
    return cut(torch.zeros_like(after), after, rank)


def _the_update_alone(before: Tensor, after: Tensor, rank: int) -> Tensor:
    return cut(before, after, rank) - before


def _added_to_after(before: Tensor, after: Tensor, rank: int) -> Tensor:
    return cut(before, after, rank) - before + after


def _other_way_round(before: Tensor, after: Tensor, rank: int) -> Tensor:
    return 2 * before - cut(before, after, rank)


def _without_sizes(before: Tensor, after: Tensor, rank: int) -> Tensor:
    U, _, Vh = torch.linalg.svd(after - before, full_matrices=False)
    return before + U[:, :rank] @ Vh[:rank]


def _the_smallest(before: Tensor, after: Tensor, rank: int) -> Tensor:
    U, S, Vh = torch.linalg.svd(after - before, full_matrices=False)
    return before + (U[:, -rank:] * S[-rank:]) @ Vh[-rank:]


def _what_is_left(before: Tensor, after: Tensor, rank: int) -> Tensor:
    return before + after - cut(before, after, rank)


def _first_rows(before: Tensor, after: Tensor, rank: int) -> Tensor:
    new = before.clone()
    new[:rank] = after[:rank]
    return new


def _case(rows: int, columns: int, rank: int) -> Callable[[], tuple[Any, ...]]:
    def build() -> tuple[Any, ...]:
        draw = torch.Generator().manual_seed(rows + columns)
        before, update = (torch.randn(rows, columns, generator=draw) for _ in range(2))
        return before, before + update, rank

    return build


def _smallest() -> tuple[Any, ...]:
    before = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    return before, before + torch.tensor([[0.0, 3.0], [2.0, 0.0]]), 1


def _in_words(before: Tensor, after: Tensor, rank: int) -> str:
    if before.numel() <= 4:
        return f"before = {shown(before)}, after = {shown(after)}, rank = {rank}"
    return f"weights of shape {tuple(before.shape)} and rank = {rank}"


EXERCISE = Exercise(
    id="07.cut",
    title="keep the largest directions of an update",
    difficulty="medium",
    minutes=8,
    task="""\
`before` and `after` are one weight as tensors, before and after fine-tuning. Write `cut(before, after, rank)`: the
weight that fine-tuning would have left if its update had only its `rank` largest directions, that is, the base's
weight plus the matrix of that rank nearest to the update. (If your answer passes, the next cell cuts with it.)""",
    function="cut",
    stub="""\
def cut(before, after, rank):
    # before, after: (out, in); returns a weight of the same shape
    ...
""",
    solution=cut,
    explanation="At full rank nothing is lost, and at any rank the directions that are left out are the smallest ones "
    "(the theorem of lesson 01).",
    hints=(
        "The update is after - before. U, S, Vh = torch.linalg.svd(..., full_matrices=False) takes it apart.",
        "(U[:, :rank] * S[:rank]) @ Vh[:rank] is the nearest matrix of that rank.",
        "It is still only the update: what do you have to add to get a weight?",
    ),
    show=_in_words,
    cases=(_smallest, _case(4, 6, 2), _case(7, 5, 3), _case(5, 5, 5)),
    wrong=(
        Mistake(
            _of_the_weight,
            "You cut the weight after training. The update is after minus before: cut that, and add it to before.",
        ),
        Mistake(_the_update_alone, "You return the update alone. Add it to the weight before training."),
        Mistake(
            _added_to_after,
            "You add the cut update to the weight after training, which holds the whole update already. Add it to "
            "before.",
        ),
        Mistake(
            _other_way_round,
            "The sign is wrong: the update is after minus before, and you take before minus after.",
        ),
        Mistake(
            _without_sizes,
            "The directions are right, their sizes are missing: multiply each column of U by its singular value.",
        ),
        Mistake(
            _the_smallest,
            "You keep the smallest directions. The singular values come largest first: take the first ones.",
        ),
        Mistake(
            _what_is_left,
            "You keep what should go: the update without its largest directions.",
        ),
        Mistake(
            _first_rows,
            "You keep the first rows of the update. A direction is a column of U and a row of Vh, and changes every "
            "row of the weight.",
        ),
    ),
)
