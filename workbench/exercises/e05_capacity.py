"""Exercises of lesson 05: the smallest rank that could hold the data, and several adapters on one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.exercises.framework import Exercise, Mistake
from workbench.exercises.values import shown
from workbench.tasks.tasks import SWEEP_FACTS, information_bits

# The linear layers of one block of SmolLM2-135M, (out, in), and the number of blocks.
BLOCK = ((576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536))
BLOCKS = 30

ALL_LAYERS = BLOCKS * sum(out + into for out, into in BLOCK)
ONE_LAYER = sum(BLOCK[0])
BITS = information_bits(SWEEP_FACTS)

EXERCISE = Exercise(
    id="05.capacity",
    title="the smallest rank that could hold it",
    difficulty="medium",
    minutes=8,
    task="""\
A data set holds some `bits` of information, and a trained parameter holds about `bits_per_parameter` of them. `shapes`
lists the adapted layers as `(out, in)`; on each, an adapter of rank `r` has a matrix `B` of `out` by `r` and a matrix
`A` of `r` by `in`.

Write `smallest_rank(bits, shapes, bits_per_parameter=2)`: the smallest rank, the same on all layers, whose adapters
could hold the bits. There is no rank below 1.""",
    function="smallest_rank",
    stub="""\
def smallest_rank(bits, shapes, bits_per_parameter=2):
    # shapes: list of (out, in), for example [(576, 576), (192, 576)]; returns a whole number
    ...
""",
    solution="""\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    parameters_a_rank = sum(out + into for out, into in shapes)
    return max(1, math.ceil(bits / (bits_per_parameter * parameters_a_rank)))
""",
    explanation="It is a bound, not a promise: by this rule a smaller adapter cannot hold the data, and training may "
    "fail to put them into a larger one. At laptop scale the bound is low. Rank 1 on one "
    f"{BLOCK[0][0]} x {BLOCK[0][1]} layer has {ONE_LAYER:,} parameters; rank 1 on all {BLOCKS * len(BLOCK)} linear "
    f"layers of the 135M model has {ALL_LAYERS:,}, with room for {2 * ALL_LAYERS / BITS:.0f} times the {BITS:,.0f} "
    "bits of this lesson's facts. To see an adapter that is too small you have to shrink it to a layer or two.",
    hints=(
        "Start with one layer of 576 x 576 and rank 1: how many numbers do B and A hold together? At rank 2?",
        "Every rank adds out + in parameters on each layer. Sum that over the layers, multiply by bits_per_parameter: "
        "so many bits a rank adds.",
        "Divide the bits by that and round up: math.ceil. With nothing to learn that is 0; max(1, ...) corrects that.",
    ),
    cases=(
        (2551, [(576, 576)]),
        (6912, [(576, 576)]),
        (100_000, [(192, 576), (1536, 576)], 4),
        (0, [(576, 576), (192, 576)]),
    ),
    wrong=(
        Mistake(
            """\
def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, bits // (bits_per_parameter * sum(out + into for out, into in shapes)))
""",
            "You round down, which leaves no room for the last bits: 2551 bits need 1.1 ranks of one 576 x 576 layer, "
            "and ranks are whole numbers. Round up.",
        ),
        Mistake(
            """\
def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, round(bits / (bits_per_parameter * sum(out + into for out, into in shapes))))
""",
            "You round to the nearest rank, which may be the one below. What is left over needs a rank too: round up.",
        ),
        Mistake(
            """\
def smallest_rank(bits, shapes, bits_per_parameter=2):
    return bits // (bits_per_parameter * sum(out + into for out, into in shapes)) + 1
""",
            "Nearly: rounding down and adding 1 is one rank too many when the bits fit exactly, as 6912 bits do in "
            "rank 3 of a 576 x 576 layer. math.ceil rounds up only where something is left over.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, math.ceil(bits / (bits_per_parameter * sum(out * into for out, into in shapes))))
""",
            "out * in is the size of the full matrix. The adapter's two have r * out and r * in numbers: a rank costs "
            "out + in.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, math.ceil(bits / (bits_per_parameter * sum(into for out, into in shapes))))
""",
            "You count A alone. B has out numbers for each rank, and they hold bits as well.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, math.ceil(bits / (bits_per_parameter * sum(out for out, into in shapes))))
""",
            "You count B alone. A has in numbers for each rank, and they hold bits as well.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, math.ceil(bits / sum(out + into for out, into in shapes)))
""",
            "You give each parameter one bit. It holds bits_per_parameter of them: multiply the parameters by that.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    return max(1, math.ceil(bits / (2 * sum(out + into for out, into in shapes))))
""",
            "You always take 2 bits a parameter. That is only the default: use bits_per_parameter.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    return math.ceil(bits / (bits_per_parameter * sum(out + into for out, into in shapes)))
""",
            "With nothing to learn you return rank 0, which no adapter has: the smallest is 1.",
        ),
        Mistake(
            """\
import math


def smallest_rank(bits, shapes, bits_per_parameter=2):
    out, into = shapes[0]
    return max(1, math.ceil(bits / (bits_per_parameter * (out + into))))
""",
            "You count the first layer alone. The bits may be spread over all adapted layers: sum over shapes.",
        ),
    ),
)


def together(x, weight, adapters, owner):
    y = x @ weight.T
    for number, (a, b, scaling) in enumerate(adapters):
        rows = owner == number
        y[rows] = y[rows] + scaling * (x[rows] @ a.T) @ b.T
    return y


Adapters = Sequence[tuple[Tensor, Tensor, float]]


def _all_on_all(x: Tensor, weight: Tensor, adapters: Adapters, owner: Tensor) -> Tensor:
    return x @ weight.T + sum(scaling * (x @ A.T) @ B.T for A, B, scaling in adapters)


def _first_alone(x: Tensor, weight: Tensor, adapters: Adapters, owner: Tensor) -> Tensor:
    return together(x, weight, adapters, torch.zeros_like(owner))


def _in_order(x: Tensor, weight: Tensor, adapters: Adapters, owner: Tensor) -> Tensor:
    places = torch.arange(len(owner)) * len(adapters) // len(owner)
    return together(x, weight, adapters, places)


def _without_base(x: Tensor, weight: Tensor, adapters: Adapters, owner: Tensor) -> Tensor:
    return together(x, torch.zeros_like(weight), adapters, owner)


def _without_scaling(x: Tensor, weight: Tensor, adapters: Adapters, owner: Tensor) -> Tensor:
    return together(x, weight, [(A, B, 1.0) for A, B, _ in adapters], owner)


def _scaled_base(x: Tensor, weight: Tensor, adapters: Adapters, owner: Tensor) -> Tensor:
    scales = torch.tensor([scaling for *_, scaling in adapters])[owner]
    return scales[:, None] * together(x, weight, [(A, B, 1.0) for A, B, _ in adapters], owner)


def _batch(rows: int, into: int, out: int, ranks: Sequence[int], owner: Sequence[int]) -> tuple[Any, ...]:
    """Whole numbers, so that a failing case is easy to follow."""
    draw = torch.Generator().manual_seed(rows + out)

    def whole(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape, generator=draw).float()

    adapters = [(whole(r, into), whole(out, r), 2.0 / (1 + place)) for place, r in enumerate(ranks)]
    return whole(rows, into) + 3, whole(out, into), adapters, torch.tensor(owner)


def _batch_in_words(x: Tensor, weight: Tensor, adapters: Adapters, owner: Tensor) -> str:
    ranks = ", ".join(f"rank {len(A)} with scaling {scaling:g}" for A, _, scaling in adapters)
    return f"x = {shown(x)}, a weight of shape {tuple(weight.shape)}, adapters of {ranks}, owner = {owner.tolist()}"


TOGETHER = Exercise(
    id="05.together",
    title="several adapters on one batch",
    difficulty="medium",
    minutes=10,
    task="""\
Four ranks are to be trained on one frozen model. Four passes would read the same frozen weights four times; better to
stack the batches, go through the frozen layer once, and give each row the product of *its own* adapter.

Write `together(x, weight, adapters, owner)`:

- `x` holds one input a row, shape `(rows, in)`; `weight` is the frozen layer's, shape `(out, in)`, without bias;
- `adapters` is a list of `(A, B, scaling)`, with `A` of shape `(r, in)` and `B` of shape `(out, r)`; ranks differ;
- `owner` is a tensor of whole numbers, one a row: the place in `adapters` of the row's adapter.

It returns the outputs, shape `(rows, out)`, in the order of `x`.""",
    function="together",
    stub="""\
def together(x, weight, adapters, owner):
    # for example owner = tensor([0, 0, 1]): two rows of the first adapter, one of the second
    ...
""",
    solution=together,
    explanation="The large product is done once for all rows; each adapter adds two thin ones for its own. This is how "
    "the next cell trains its ranks, and how one server answers for many adapters (lesson 08): PEFT calls it "
    "`adapter_names`, one for each row of a batch.",
    hints=(
        "Begin with what all rows share: y = x @ weight.T.",
        "rows = owner == number is a mask of the rows of one adapter; x[rows] are their inputs.",
        "For each adapter add scaling * (x[rows] @ A.T) @ B.T to y[rows].",
    ),
    show=_batch_in_words,
    cases=(
        lambda: _batch(2, 2, 2, (1, 2), (1, 0)),
        lambda: _batch(3, 3, 2, (1, 2), (0, 1, 1)),
        lambda: _batch(6, 5, 4, (1, 3, 2), (2, 0, 1, 1, 0, 2)),
    ),
    wrong=(
        Mistake(
            _all_on_all,
            "Every row gets the products of all adapters, added up. Each belongs to one of them: pick its rows by "
            "owner.",
        ),
        Mistake(_first_alone, "Every row gets the first adapter. Look up each row's own: owner says which it is."),
        Mistake(
            _in_order,
            "You give the first rows to the first adapter, the next to the second. Rows come in any order: owner says "
            "whose each one is.",
        ),
        Mistake(_without_base, "The frozen layer is missing: every row also gets x @ weight.T."),
        Mistake(_without_scaling, "The scaling is missing. Each adapter has its own; multiply its product by it."),
        Mistake(_scaled_base, "You scale the frozen layer's output too. Only the adapter's product is scaled."),
    ),
)
