"""Exercises of lesson 01: the best pair of a rank, and one step of gradient descent on a pair."""

# ruff: noqa: N803, N806 - matrices keep the capital letters that the papers give them

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workbench.exercises.framework import Exercise, Mistake


def best_pair(dW, rank):
    U, S, Vh = torch.linalg.svd(dW, full_matrices=False)
    B = U[:, :rank] * S[:rank]
    A = Vh[:rank]
    return A, B


def descent_step(A, B, wanted, rate):
    E = B @ A - wanted
    return A - rate * B.T @ E, B - rate * E @ A.T


def _is_pair(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(part, Tensor) for part in value)


def _product(answer: Callable[..., Any], dW: Tensor, rank: int) -> object:
    """The shapes of a pair and its product, in which all good pairs agree; anything else as it is."""
    value = answer(dW, rank)
    if not _is_pair(value):
        return value
    A, B = value
    fits = A.ndim == B.ndim == 2 and B.shape[1] == A.shape[0]
    shapes = {"shape of A": tuple(A.shape), "shape of B": tuple(B.shape)}
    return {**shapes, "B @ A": B @ A if fits else "cannot be multiplied"}


def _moved(answer: Callable[..., Any], A: Tensor, B: Tensor, wanted: Tensor, rate: float) -> object:
    """The new pair by name; anything else as it is."""
    value = answer(A, B, wanted, rate)
    return {"A": value[0], "B": value[1]} if _is_pair(value) else value


def _whole_numbers(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randint(-4, 5, (rows, columns), generator=torch.Generator().manual_seed(seed)).float()


def _pair_case(rows: int, columns: int, rank: int) -> tuple[Any, ...]:
    return _whole_numbers(rows, columns, 10 * rows + columns), rank


def _step_case(rows: int, columns: int, rank: int, rate: float) -> tuple[Any, ...]:
    sizes = ((rank, columns), (rows, rank), (rows, columns))
    return *(_whole_numbers(*size, seed) for seed, size in enumerate(sizes)), rate


def _without_values(dW, rank):
    U, _, Vh = torch.linalg.svd(dW, full_matrices=False)
    return Vh[:rank], U[:, :rank]


def _values_twice(dW, rank):
    U, S, Vh = torch.linalg.svd(dW, full_matrices=False)
    return S[:rank, None] * Vh[:rank], U[:, :rank] * S[:rank]


def _swapped(dW, rank):
    A, B = best_pair(dW, rank)
    return B, A


def _transposed(dW, rank):
    A, B = best_pair(dW, rank)
    return A.T, B.T


def _smallest(dW, rank):
    U, S, Vh = torch.linalg.svd(dW, full_matrices=False)
    return Vh[-rank:], U[:, -rank:] * S[-rank:]


def _every_piece(dW, rank):
    U, S, Vh = torch.linalg.svd(dW, full_matrices=False)
    return Vh, U * S


def _columns_of_right(dW, rank):
    U, S, Vh = torch.linalg.svd(dW, full_matrices=False)
    return Vh[:, :rank].T, U[:, :rank] * S[:rank]


def _rows_of_left(dW, rank):
    U, S, Vh = torch.linalg.svd(dW, full_matrices=False)
    return Vh[:rank], (U[:rank] * S).T[:, :rank]


PAIR = Exercise(
    id="01.pair",
    title="the best pair of a rank",
    difficulty="medium",
    minutes=8,
    task="""\
Write `best_pair(dW, rank)`. It returns two matrices `A, B` in this order:

- `A` has shape `(rank, in)` and `B` has shape `(out, rank)`, as in PEFT; `dW` has shape `(out, in)`;
- `B @ A` is the matrix of that rank that is nearest to `dW`.

`U, S, Vh = torch.linalg.svd(dW, full_matrices=False)` gives the pieces: piece k is
`S[k] * torch.outer(U[:, k], Vh[k])`. (If your answer passes, the next cells put it into a PEFT layer.)""",
    function="best_pair",
    stub="""\
def best_pair(dW, rank):
    # dW: (out, in); returns A of shape (rank, in) and B of shape (out, rank)
    ...
""",
    solution=best_pair,
    explanation="No training was needed, because we knew dW. So a LoRA adapter can be extracted from a model that was "
    "fine-tuned in full: take the difference of each weight and keep its largest pieces.",
    hints=(
        "Columns of U belong to B, rows of Vh belong to A. Which slices hold the first `rank` pieces?",
        "U[:, :rank] has shape (out, rank) and Vh[:rank] has shape (rank, in). Their product lacks the singular "
        "values.",
        "U[:, :rank] * S[:rank] multiplies each column by its singular value. Return Vh[:rank] and that, A first.",
    ),
    cases=(
        (torch.tensor([[3.0, 0.0], [0.0, 2.0]]), 1),
        lambda: _pair_case(2, 3, 1),
        lambda: _pair_case(3, 2, 2),
        lambda: _pair_case(6, 5, 3),
        lambda: _pair_case(4, 7, 2),
    ),
    wrong=(
        Mistake(
            _without_values,
            "The singular values are missing: your pieces have the right directions, and all have size 1. Multiply "
            "either the columns of B or the rows of A by S.",
        ),
        Mistake(
            _values_twice,
            "You multiplied both B and A by S, so each piece is counted with S squared. Give S to one of the two (or "
            "its square root to each).",
        ),
        Mistake(_swapped, "The right two matrices in the wrong order: return A first, then B."),
        Mistake(
            _transposed,
            "Both matrices are transposed. A has a row for each piece, B a column: (rank, in) and (out, rank).",
        ),
        Mistake(
            _smallest,
            "You keep the last pieces, which are the smallest. torch.linalg.svd sorts the largest first: take the "
            "first `rank` of them.",
        ),
        Mistake(
            _every_piece,
            "You keep every piece, so the pair has the full rank. Cut U, S and Vh after the first `rank` of them.",
        ),
        Mistake(
            _columns_of_right,
            "You took columns of Vh. torch.linalg.svd returns it transposed already (that is the h), so its pieces "
            "are rows: Vh[:rank].",
        ),
        Mistake(
            _rows_of_left,
            "You took rows of U. Its pieces are columns: U[:, :rank].",
        ),
    ),
    apply=_product,
)


def _new_b_for_a(A, B, wanted, rate):
    E = B @ A - wanted
    B = B - rate * E @ A.T
    return A - rate * B.T @ E, B


def _new_a_for_b(A, B, wanted, rate):
    E = B @ A - wanted
    A = A - rate * B.T @ E
    return A, B - rate * E @ A.T


def _uphill(A, B, wanted, rate):
    E = B @ A - wanted
    return A + rate * B.T @ E, B + rate * E @ A.T


def _doubled(A, B, wanted, rate):
    return descent_step(A, B, wanted, 2 * rate)


def _without_rate(A, B, wanted, rate):
    return descent_step(A, B, wanted, 1.0)


def _gradients_alone(A, B, wanted, rate):
    E = B @ A - wanted
    return B.T @ E, E @ A.T


def _b_alone(A, B, wanted, rate):
    return A, descent_step(A, B, wanted, rate)[1]


def _b_first(A, B, wanted, rate):
    return descent_step(A, B, wanted, rate)[::-1]


def _error_again(A, B, wanted, rate):
    A = A - rate * B.T @ (B @ A - wanted)
    return A, B - rate * (B @ A - wanted) @ A.T


STEP = Exercise(
    id="01.step",
    title="one step of training",
    difficulty="medium",
    minutes=8,
    task="""\
Training lowers $\\tfrac12|BA - \\text{wanted}|^2$. With $E = BA - \\text{wanted}$, its gradient is $B^T E$ for $A$ and
$E A^T$ for $B$.

Write `descent_step(A, B, wanted, rate)`. It returns the new `A, B` after one step of gradient descent: each matrix
minus `rate` times its own gradient. (If your answer passes, the rest of the lesson trains with it.)""",
    function="descent_step",
    stub="""\
def descent_step(A, B, wanted, rate):
    # A: (r, in); B: (out, r); wanted: (out, in); rate: a number; returns the new A and the new B
    ...
""",
    solution=descent_step,
    explanation="While B is zero, the gradient of A is zero too: the first step moves only B. If both started at zero, "
    "nothing would ever move.",
    hints=(
        "Compute E = B @ A - wanted once, before anything changes.",
        "The gradient of A must have the shape of A: (r, out) @ (out, in). That of B: (out, in) @ (in, r).",
        "Return A - rate * B.T @ E and B - rate * E @ A.T in one line, so that both use the old A and B.",
    ),
    cases=(
        (torch.ones(1, 1), torch.full((1, 1), 2.0), torch.full((1, 1), 5.0), 0.1),
        lambda: _step_case(2, 3, 1, 0.5),
        lambda: _step_case(4, 3, 2, 0.25),
        lambda: _step_case(3, 3, 3, 0.125),
    ),
    wrong=(
        Mistake(
            _new_b_for_a,
            "You changed B first and used the new B in the gradient of A. Both gradients belong to the old pair: "
            "compute both, then change both.",
        ),
        Mistake(
            _new_a_for_b,
            "You changed A first and used the new A in the gradient of B. Both gradients belong to the old pair: "
            "compute both, then change both.",
        ),
        Mistake(
            _error_again,
            "You computed E a second time, after A had changed. Both gradients belong to the old pair: compute E once.",
        ),
        Mistake(
            _uphill,
            "Your step walks uphill. E is B A minus the wanted update, and the gradients are subtracted.",
        ),
        Mistake(
            _doubled,
            "Your step is twice as long: that is the gradient of |E|^2. The 1/2 in front of it cancels the 2.",
        ),
        Mistake(_without_rate, "The rate is missing: multiply each gradient by it before you subtract."),
        Mistake(
            _gradients_alone,
            "You return the gradients. The task asks for the new A and B: each minus rate times its gradient.",
        ),
        Mistake(_b_alone, "A does not move. Only in the very first step, while B is zero, is its gradient zero."),
        Mistake(_b_first, "The right two matrices in the wrong order: return A first, then B."),
    ),
    apply=_moved,
)
