"""Exercise 08.undo: merge an adapter into a layer so that it can be taken out again, to the last bit."""

# ruff: noqa: N803 - matrices keep the capital letters that the papers give them

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workbench.exercises.framework import Exercise, Mistake
from workbench.exercises.values import shown


def merge(linear, A, B, scaling):
    before = linear.weight.detach().clone()
    linear.weight.data = (before.float() + scaling * B @ A).to(before.dtype)

    def undo():
        linear.weight.data = before

    return undo


Undo = Callable[[], Any]


def _subtracts(linear: nn.Linear, A: Tensor, B: Tensor, scaling: float) -> Undo:
    update = (scaling * B @ A).to(linear.weight.dtype)
    linear.weight.data = linear.weight.data + update

    def undo() -> None:
        linear.weight.data = linear.weight.data - update

    return undo


def _keeps_a_reference(linear: nn.Linear, A: Tensor, B: Tensor, scaling: float) -> Undo:
    before = linear.weight.data
    linear.weight.data.copy_(before.float() + scaling * B @ A)

    def undo() -> None:
        linear.weight.data = before

    return undo


def _never_merges(linear: nn.Linear, A: Tensor, B: Tensor, scaling: float) -> Undo:
    return lambda: None


def _without_scaling(linear: nn.Linear, A: Tensor, B: Tensor, scaling: float) -> Undo:
    return merge(linear, A, B, 1.0)


def _other_dtype(linear: nn.Linear, A: Tensor, B: Tensor, scaling: float) -> Undo:
    undo = merge(linear, A, B, scaling)
    linear.weight.data = linear.weight.data.float()
    return undo


def _merge_and_undo(answer: Any, before: Tensor, A: Tensor, B: Tensor, scaling: float) -> Any:
    """The weight after merging and after undoing; in float32 both, since the course's tensors are compared so."""
    linear = nn.Linear(before.shape[1], before.shape[0], bias=False, dtype=before.dtype).requires_grad_(False)
    linear.weight.data = before.clone()
    undo = answer(linear, A, B, scaling)
    if not callable(undo):
        return undo
    merged = linear.weight.detach().clone()
    undo()
    return {
        "merged": merged,
        "undone": linear.weight.detach().clone(),
        "every bit as before": torch.equal(linear.weight, before) and linear.weight.dtype == before.dtype,
    }


def _case(before: list[list[float]], A: list[list[float]], B: list[list[float]], scaling: float, dtype: torch.dtype):
    return torch.tensor(before, dtype=dtype), torch.tensor(A), torch.tensor(B), scaling


def _random(rows: int, columns: int, rank: int, dtype: torch.dtype) -> tuple[Any, ...]:
    draw = torch.Generator().manual_seed(rows)
    before = torch.randn(rows, columns, generator=draw).to(dtype)
    return before, torch.randn(rank, columns, generator=draw), torch.randn(rows, rank, generator=draw), 2.0


def _in_words(before: Tensor, A: Tensor, B: Tensor, scaling: float) -> str:
    kind = str(before.dtype).removeprefix("torch.")
    return f"linear.weight = {shown(before)} in {kind}, A = {shown(A)}, B = {shown(B)}, scaling = {scaling:g}"


UNDO = Exercise(
    id="08.undo",
    title="a merge that can be undone",
    difficulty="medium",
    minutes=10,
    task="""\
Merged, an adapter costs nothing per request; but the server must get the base back for the next task. Write
`merge(linear, A, B, scaling)`:

- it adds `scaling * B @ A` to `linear.weight`, whose dtype stays as it is (often bfloat16; `A` and `B` are float32);
- it returns a function without arguments. Calling that function makes `linear.weight` what it was before the merge,
  *to the last bit*.

Try the obvious way first, and see what the check says of it.""",
    function="merge",
    stub="""\
def merge(linear, A, B, scaling):
    # changes linear.weight; returns a function that undoes it: undo = merge(...); undo()
    ...
""",
    solution=merge,
    explanation="Subtracting what was added does not give the old weight back: the sum was rounded, and what rounding "
    "took is gone. Only a copy of the old weight is exact, which costs as much memory as the layer. That is one reason "
    "why servers with many tasks keep adapters unmerged.",
    hints=(
        "After w = w + d and w = w - d, is w the same? Try it with w = 1.0 and d = 0.003 in bfloat16.",
        "Keep the old weight: linear.weight.detach().clone(). Without clone() you keep the tensor that you change.",
        "Inside merge, define a function undo() that puts the copy back into linear.weight.data, and return undo "
        "without calling it.",
    ),
    apply=_merge_and_undo,
    show=_in_words,
    cases=(
        lambda: _case([[1.0, 2.0]], [[0.004, 0.5]], [[1.0]], 2.0, torch.bfloat16),
        lambda: _case([[1.0, 0.0], [0.0, 3.0]], [[0.5, 0.25]], [[1.0], [2.0]], 0.5, torch.float32),
        lambda: _random(6, 5, 2, torch.bfloat16),
        lambda: _random(7, 4, 3, torch.float32),
    ),
    wrong=(
        Mistake(
            _subtracts,
            "You subtract what you added. In bfloat16 that leaves some weights changed: the sum was rounded, and "
            "subtracting does not bring back what rounding took. Keep a copy of the old weight.",
        ),
        Mistake(
            _keeps_a_reference,
            "After undo() the weight is still the merged one. If you kept the weight itself, the merge has written "
            "into it: keep a copy, with clone().",
        ),
        Mistake(
            _never_merges,
            "Right after merge(...) linear.weight is what it was. Add scaling * B @ A to it, and return the function "
            "undo itself, without calling it.",
        ),
        Mistake(_without_scaling, "The scaling is missing: add scaling * B @ A."),
        Mistake(_other_dtype, "The merged weight has another dtype. The layer must stay in the dtype that it had."),
    ),
)
