"""Exercise 08.mixed: the forward pass of a layer for a batch in which each row has its own adapter, or none."""

# ruff: noqa: N806 - matrices keep the capital letters that the papers give them

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from workbench.exercises.framework import Exercise, Mistake
from workbench.exercises.values import shown


def mixed_forward(x, linear, adapters, names):
    y = linear(x)
    for name, (A, B, scaling) in adapters.items():
        rows = [row for row, wanted in enumerate(names) if wanted == name]
        y[rows] = y[rows] + scaling * (x[rows] @ A.T) @ B.T
    return y


Adapters = Mapping[str, tuple[Tensor, Tensor, float]]


def _first_for_all(x: Tensor, linear: nn.Linear, adapters: Adapters, names: Sequence[str | None]) -> Tensor:
    wanted = next((name for name in names if name), None)
    return mixed_forward(x, linear, adapters, [wanted] * len(names))


def _all_for_all(x: Tensor, linear: nn.Linear, adapters: Adapters, names: Sequence[str | None]) -> Tensor:
    return linear(x) + sum(scaling * (x @ A.T) @ B.T for A, B, scaling in adapters.values())


def _by_place(x: Tensor, linear: nn.Linear, adapters: Adapters, names: Sequence[str | None]) -> Tensor:
    known = list(adapters)
    return mixed_forward(x, linear, adapters, [known[row % len(known)] for row in range(len(names))])


def _sorted_rows(x: Tensor, linear: nn.Linear, adapters: Adapters, names: Sequence[str | None]) -> Tensor:
    order = [row for name in [*adapters, None] for row, wanted in enumerate(names) if wanted == name]
    return mixed_forward(x, linear, adapters, names)[order]


def _without_linear(x: Tensor, linear: nn.Linear, adapters: Adapters, names: Sequence[str | None]) -> Tensor:
    return mixed_forward(x, linear, adapters, names) - linear(x)


def _without_scaling(x: Tensor, linear: nn.Linear, adapters: Adapters, names: Sequence[str | None]) -> Tensor:
    return mixed_forward(x, linear, {name: (A, B, 1.0) for name, (A, B, _) in adapters.items()}, names)


def _base_rows_zero(x: Tensor, linear: nn.Linear, adapters: Adapters, names: Sequence[str | None]) -> Tensor:
    y = mixed_forward(x, linear, adapters, names)
    y[[row for row, wanted in enumerate(names) if wanted is None]] = 0.0
    return y


def _batch(names: Sequence[str | None], ranks: Mapping[str, int], length: int, into: int, out: int) -> tuple[Any, ...]:
    """Whole numbers, so that a failing case is easy to follow."""
    draw = torch.Generator().manual_seed(len(names) + 10 * into + 100 * out)

    def whole(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape, generator=draw).float()

    linear = nn.Linear(into, out, bias=False).requires_grad_(False)
    linear.weight.data = whole(out, into) + 1
    adapters = {
        name: (whole(rank, into) + 1, whole(out, rank) + 1, 2.0 / (1 + place))
        for place, (name, rank) in enumerate(ranks.items())
    }
    return whole(len(names), length, into) + 3, linear, adapters, list(names)


def _in_words(x: Tensor, linear: nn.Linear, adapters: Adapters, names: Sequence[str | None]) -> str:
    kinds = ", ".join(f"{name} (rank {len(A)}, scaling {scaling:g})" for name, (A, _, scaling) in adapters.items())
    return f"x = {shown(x)}, linear of shape {tuple(linear.weight.shape)}, adapters {kinds}, names = {list(names)}"


MIXED = Exercise(
    id="08.mixed",
    title="one batch, an adapter for each row",
    difficulty="medium",
    minutes=10,
    task="""\
A server gathers requests into a batch, and neighbours in it may want different tasks, or the base alone. Write the
forward pass of one layer for such a batch, `mixed_forward(x, linear, adapters, names)`:

- `x` holds the hidden states, shape `(rows, length, in)`: a row is one request, with `length` tokens;
- `linear` is the frozen layer, an `nn.Linear`; it is the same for all rows, so call it once;
- `adapters` maps a name to `(A, B, scaling)`, with `A` of shape `(r, in)` and `B` of shape `(out, r)`; ranks differ;
- `names` has one entry a row: the name of its adapter, or `None` for the base alone.

It returns the outputs, shape `(rows, length, out)`, in the order of `x`. (If your answer passes, the next cell puts it
into all 210 layers of the model and compares it with PEFT.)""",
    function="mixed_forward",
    stub="""\
def mixed_forward(x, linear, adapters, names):
    # for example names = ["orders", None, "tickets", "orders"]; returns (rows, length, out)
    ...
""",
    solution=mixed_forward,
    explanation="The large product is read and multiplied once for everybody; each request adds two thin products of "
    "its own. Servers such as vLLM do this with one kernel for all adapters, so that a batch of a hundred tasks costs "
    "little more than a batch of one.",
    hints=(
        "Begin with y = linear(x): that is what all rows share, and all that a row with None gets.",
        "rows = [row for row, wanted in enumerate(names) if wanted == name] are the rows of one adapter; x[rows] takes "
        "them out of the batch.",
        "For each adapter: y[rows] = y[rows] + scaling * (x[rows] @ A.T) @ B.T. The matrices act on the last "
        "dimension, so that the length needs no loop.",
    ),
    show=_in_words,
    cases=(
        lambda: _batch(("b", "a"), {"a": 1, "b": 1}, 1, 2, 2),
        lambda: _batch(("b", None, "a"), {"a": 1, "b": 2}, 2, 3, 2),
        lambda: _batch((None, "c", "a", "a", None, "b"), {"a": 2, "b": 1, "c": 3}, 3, 5, 4),
    ),
    wrong=(
        Mistake(_first_for_all, "Every row gets the first adapter that is named. Look up each row's own name."),
        Mistake(_all_for_all, "Every row gets the products of all adapters, added up. Each row has one at most."),
        Mistake(
            _by_place,
            "You take adapters by their place in the dictionary. Rows come in any order: names says whose each one is.",
        ),
        Mistake(
            _sorted_rows,
            "The rows come back grouped by adapter. Each request waits for its own answer: keep the order of x.",
        ),
        Mistake(_without_linear, "The frozen layer is missing: every row also gets linear(x)."),
        Mistake(_without_scaling, "The scaling is missing. Each adapter has its own; multiply its product by it."),
        Mistake(
            _base_rows_zero, "A row with None comes out as zeros. It gets linear(x), like a row of the plain base."
        ),
    ),
)
