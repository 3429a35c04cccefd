"""Exercises of lesson 03: the codes of one block, and of a whole weight with any code book."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workbench.exercises.framework import Exercise, Mistake


def block_codes(block, bits):
    largest = 2 ** (bits - 1) - 1
    absmax = block.abs().max()
    return (block / absmax * largest).round()


def quantize_blocks(weight, book, block_size):
    blocks = weight.reshape(-1, block_size)
    absmax = blocks.abs().amax(dim=1)
    scaled = blocks / absmax[:, None]
    codes = (scaled[..., None] - book).abs().argmin(dim=-1)
    return codes, absmax


def _as_list(answer: Callable[..., Any], block: Tensor, bits: int) -> object:
    """Codes as a list of numbers, so that any dtype will do; anything but a vector as it is."""
    value = answer(block, bits)
    return value.tolist() if isinstance(value, Tensor) and value.ndim else value


def _by_name(answer: Callable[..., Any], weight: Tensor, book: Tensor, block_size: int) -> object:
    """Codes and absmax as flat lists, so that any dtype and shape will do; anything but two tensors as it is."""
    value = answer(weight, book, block_size)
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(isinstance(each, Tensor) for each in value):
        return value
    return {name: part.reshape(-1).tolist() for name, part in zip(("codes", "absmax"), value, strict=True)}


def _weight_case(rows: int, columns: int, block_size: int) -> tuple[Any, ...]:
    draw = torch.Generator().manual_seed(10 * rows + columns)
    weight = torch.randint(-20, 21, (rows, columns), generator=draw) / 4
    return weight, torch.tensor([-1.0, -0.4, 0.0, 0.5, 1.0]), block_size


def _largest_value(block, bits):
    return (block / block.max() * (2 ** (bits - 1) - 1)).round()


def _cut_off(block, bits):
    return (block / block.abs().max() * (2 ** (bits - 1) - 1)).trunc()


def _rounded_down(block, bits):
    return (block / block.abs().max() * (2 ** (bits - 1) - 1)).floor()


def _one_too_many(block, bits):
    return (block / block.abs().max() * 2 ** (bits - 1)).round()


def _all_positive(block, bits):
    return (block / block.abs().max() * (2**bits - 1)).round()


def _restored(block, bits):
    codes = block_codes(block, bits)
    return codes / (2 ** (bits - 1) - 1) * block.abs().max()


ABSMAX = Exercise(
    id="03.absmax",
    title="the codes of one block",
    difficulty="easy",
    minutes=6,
    task="""\
Write `block_codes(block, bits)`, which does for any block and any number of bits what you have just seen for eight
weights and 4 bits:

- the codes run from `-L` to `L`, where `L = 2 ** (bits - 1) - 1`;
- the largest magnitude of the block gets `L` or `-L`, every other weight the nearest code on the same scale.

`block` is a tensor of floats, not all zero; return a tensor of whole numbers (of any dtype).""",
    function="block_codes",
    stub="""\
def block_codes(block, bits):
    # block: a tensor of floats; bits: 4 or 8, say; returns a tensor of whole numbers
    ...
""",
    solution=block_codes,
    explanation="Stored are the codes and one absmax a block; a weight comes back as code / L * absmax. One large "
    "weight in the block makes the steps of this scale coarser for all the others.",
    hints=(
        "With 4 bits L is 7. In the block [0.55, -1.0, 0.25] absmax is 1.0, so -1.0 gets -7. What do the others get?",
        "Divide by block.abs().max(), and the block runs from -1 to 1. Multiply by L, and it runs from -L to L.",
        ".round() gives the nearest whole number.",
    ),
    cases=(
        (torch.tensor([0.55, -1.0, 0.25]), 4),
        (torch.tensor([0.011, -0.02, 0.013, 0.004]), 4),
        (torch.tensor([0.011, -0.02, 0.013, 0.004]), 8),
        (torch.tensor([0.3, 0.1, -0.05]), 4),
        (torch.tensor([8.0, 0.1, -0.2, 0.3]), 4),
        (torch.tensor([-0.9, 0.4]), 3),
    ),
    wrong=(
        Mistake(
            _largest_value,
            "You divide by the largest value. Absmax is the largest magnitude: in [0.55, -1.0, 0.25] it is 1.0, and "
            "without abs() the -1.0 gets a code that does not exist.",
        ),
        Mistake(
            _cut_off,
            "You cut off what stands behind the point, so every weight moves towards zero (int() and trunc() do that). "
            "The nearest code is what round() gives.",
        ),
        Mistake(_rounded_down, "floor() rounds every weight down. The nearest code is what round() gives."),
        Mistake(
            _one_too_many,
            "Your scale ends at 2 ** (bits - 1), which is 8 for 4 bits. With -8 to 8 there are 17 codes, and "
            "4 bits tell only 16 apart: subtract 1.",
        ),
        Mistake(
            _all_positive,
            "2 ** bits - 1 is the largest code when all are positive. Here half of the codes are negative, so only "
            "bits - 1 bits are left for the size.",
        ),
        Mistake(
            _restored,
            "You went on and restored the weights. The task asks for the codes, the whole numbers that are stored.",
        ),
    ),
    apply=_as_list,
)


def _one_absmax(weight, book, block_size):
    blocks = weight.reshape(-1, block_size)
    absmax = weight.abs().max()
    return (blocks[..., None] / absmax - book).abs().argmin(-1), absmax


def _absmax_of_rows(weight, book, block_size):
    absmax = weight.abs().amax(dim=1)
    return ((weight / absmax[:, None])[..., None] - book).abs().argmin(-1), absmax


def _largest_of_block(weight, book, block_size):
    blocks = weight.reshape(-1, block_size)
    top = blocks.amax(dim=1)
    return ((blocks / top[:, None])[..., None] - book).abs().argmin(-1), top


def _unscaled(weight, book, block_size):
    blocks = weight.reshape(-1, block_size)
    return (blocks[..., None] - book).abs().argmin(-1), blocks.abs().amax(dim=1)


def _next_value(weight, book, block_size):
    blocks = weight.reshape(-1, block_size)
    absmax = blocks.abs().amax(dim=1)
    return torch.bucketize(blocks / absmax[:, None], book), absmax


def _values(weight, book, block_size):
    codes, absmax = quantize_blocks(weight, book, block_size)
    return book[codes], absmax


def _down_columns(weight, book, block_size):
    return quantize_blocks(weight.T, book, block_size)


def _swapped(weight, book, block_size):
    return quantize_blocks(weight, book, block_size)[::-1]


BLOCKS = Exercise(
    id="03.blocks",
    title="quantize a weight with any code book",
    difficulty="medium",
    minutes=10,
    task="""\
Write `quantize_blocks(weight, book, block_size)`, which returns `codes, absmax`:

- cut `weight` into blocks of `block_size` numbers, in the order in which they are stored (along the rows);
- `absmax` has one number a block, its largest magnitude;
- `codes` has one whole number a weight: the place in `book` of the value that is nearest to weight / absmax.

`book` is a tensor of values from -1 to 1, the smallest first. No block is all zeros. (If your answer passes, the
next cell compares it with bitsandbytes on a real layer.)""",
    function="quantize_blocks",
    stub="""\
def quantize_blocks(weight, book, block_size):
    # weight: (out, in); book: for example 16 values; returns codes (blocks, block_size) and absmax (blocks,)
    ...
""",
    solution=quantize_blocks,
    explanation="This one function is int4, NF4 and every other block-wise format: they differ in the book. Restoring "
    "is one line, book[codes] * absmax[:, None].",
    hints=(
        "weight.reshape(-1, block_size) has a block in each row. What is the absmax of each row?",
        "Divide each block by its own absmax: blocks / absmax[:, None].",
        "(scaled[..., None] - book).abs() holds the distance to every value of the book; argmin over the last "
        "dimension is the place of the nearest.",
    ),
    cases=(
        (torch.tensor([[0.5, -1.0], [3.0, 1.0]]), torch.tensor([-1.0, 0.0, 0.4, 1.0]), 2),
        lambda: _weight_case(2, 6, 4),
        lambda: _weight_case(4, 6, 3),
        lambda: _weight_case(3, 8, 8),
    ),
    wrong=(
        Mistake(
            _one_absmax,
            "You use one absmax for the whole weight, so one outlier spoils every block. Each block has its own: take "
            "the maximum of each row of blocks.",
        ),
        Mistake(
            _absmax_of_rows,
            "Your blocks are the rows of the weight. A block is block_size numbers, whatever the shape: reshape first.",
        ),
        Mistake(
            _largest_of_block,
            "You divide by the largest value of each block. Absmax is the largest magnitude: take abs() first.",
        ),
        Mistake(_unscaled, "You look up the weights as they are. The book spans -1 to 1: divide by absmax first."),
        Mistake(
            _next_value,
            "You take the next larger value of the book. Compare the distances to both neighbours: the nearest counts.",
        ),
        Mistake(_values, "You return values of the book. The codes are their places in it, whole numbers."),
        Mistake(
            _down_columns,
            "Your blocks run down the columns. Numbers are stored row by row, so no transpose is needed.",
        ),
        Mistake(_swapped, "The right two tensors in the wrong order: return codes first, then absmax."),
    ),
    apply=_by_name,
)
