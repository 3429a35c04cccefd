"""Exercise 06.directions: in how many directions a weight matrix was changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workbench.exercises.framework import Exercise, Mistake
from workbench.exercises.values import shown


def directions(before, after, share):
    values = torch.linalg.svdvals(after - before)
    energy = (values**2).cumsum(0) / (values**2).sum()
    return int((energy < share).sum()) + 1


def _of_the_weight(before: Tensor, after: Tensor, share: float) -> int:
    return directions(torch.zeros_like(after), after, share)


def _not_squared(before: Tensor, after: Tensor, share: float) -> int:
    values = torch.linalg.svdvals(after - before)
    return int((values.cumsum(0) / values.sum() < share).sum()) + 1


def _one_too_few(before: Tensor, after: Tensor, share: float) -> int:
    return directions(before, after, share) - 1


def _all_of_them(before: Tensor, after: Tensor, share: float) -> int:
    return int(torch.linalg.matrix_rank(after - before))


def _against_the_largest(before: Tensor, after: Tensor, share: float) -> int:
    values = torch.linalg.svdvals(after - before)
    return int((values >= (1 - share) * values[0]).sum())


def _share_of_each(before: Tensor, after: Tensor, share: float) -> int:
    values = torch.linalg.svdvals(after - before) ** 2
    return int((values / values.sum() < share).sum()) + 1


def _difference_of_spectra(before: Tensor, after: Tensor, share: float) -> int:
    values = (torch.linalg.svdvals(after) - torch.linalg.svdvals(before)).abs()
    energy = (values**2).cumsum(0) / (values**2).sum()
    return int((energy < share).sum()) + 1


def _case(sizes: tuple[float, ...], share: float, columns: int) -> tuple[Any, ...]:
    """A weight, and the same after an update with these singular values."""
    draw = torch.Generator().manual_seed(len(sizes))
    rows = len(sizes)
    before = torch.randn(rows, columns, generator=draw)
    left = torch.linalg.qr(torch.randn(rows, rows, generator=draw)).Q
    right = torch.linalg.qr(torch.randn(columns, rows, generator=draw)).Q
    return before, before + left @ torch.diag(torch.tensor(sizes)) @ right.T, share


def _smallest() -> tuple[Any, ...]:
    before = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    return before, before + torch.tensor([[0.0, 3.0], [2.0, 0.0]]), 0.9


def _in_words(before: Tensor, after: Tensor, share: float) -> str:
    if before.numel() <= 4:
        return f"before = {shown(before)}, after = {shown(after)}, share = {share:g}"
    values = ", ".join(f"{value:.3g}" for value in torch.linalg.svdvals(after - before).tolist())
    return f"an update with the singular values {values} and share = {share:g}"


EXERCISE = Exercise(
    id="06.directions",
    title="in how many directions was a weight changed?",
    difficulty="medium",
    minutes=10,
    task="""\
`before` and `after` are one weight matrix as tensors, before and after fine-tuning. The update is their difference;
its singular values say how far it goes in each direction, and their squares add up to its energy.

Write `directions(before, after, share)`: the smallest number of directions, largest first, that hold at least `share`
of the update's energy. An update of rank 8 has 8 at most. (If your answer passes, the next cell counts with it.)""",
    function="directions",
    stub="""\
def directions(before, after, share):
    # before, after: (out, in); share: for example 0.9; returns a whole number
    ...
""",
    solution=directions,
    explanation="The number for a share of 0.9 is the rank at which a product B A could hold 90 % of the update: its "
    "error, by the theorem of lesson 01, would be the rest.",
    hints=(
        "torch.linalg.svdvals gives the singular values of a matrix, largest first. Of which matrix do you need them?",
        "Square them. cumsum of the squares, divided by their sum, is the share that the first 1, 2, 3 ... hold.",
        "Count the entries below share, and add one: the entry that reaches it counts too.",
    ),
    show=_in_words,
    cases=(
        _smallest,
        lambda: _case((4.0, 1.0, 0.5), 0.9, 5),
        lambda: _case((3.0, 3.0, 3.0, 1.0), 0.95, 6),
        lambda: _case((2.0, 1.9, 1.8, 1.7, 0.01, 0.001), 0.5, 8),
    ),
    wrong=(
        Mistake(
            _of_the_weight,
            "You count the directions of the weight after training. The update is what changed: after minus before.",
        ),
        Mistake(
            _not_squared,
            "You add up the singular values themselves. Energy is the sum of their squares, which is the squared "
            "Frobenius norm of the update.",
        ),
        Mistake(
            _one_too_few,
            "One too few: you count the directions that are not enough yet. The one that reaches the share belongs to "
            "them.",
        ),
        Mistake(
            _all_of_them,
            "You count every direction in which anything changed (the rank), however little. Count until share of the "
            "energy is reached.",
        ),
        Mistake(
            _against_the_largest,
            "You compare each singular value with the largest. The question is when their squares, added up, reach "
            "share of the total.",
        ),
        Mistake(
            _share_of_each,
            "You compare each direction's own share of the energy. Add the shares up first, with cumsum.",
        ),
        Mistake(
            _difference_of_spectra,
            "You subtract the singular values of before and after. Subtract the matrices first: an update can turn a "
            "weight without changing any singular value.",
        ),
    ),
)
