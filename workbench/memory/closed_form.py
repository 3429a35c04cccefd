"""Training memory as a sum of a few lines: weights, gradients, optimizer state, what each block keeps, the logits.

`simulate` is the check of every line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedConfig

from workbench.adapters.quantization import stored_parts
from workbench.memory.block_memory import (
    before_scores,
    block_at_scores,
    block_in_backward,
    cache_bytes,
    gradients_in_flight,
    kept_by_blocks,
    largest_block,
    lowest_reached,
    normed_bytes,
    one_block,
    scratch,
)
from workbench.memory.setup import BLOCK_4BIT, BLOCK_8BIT, CODE_BOOK_VALUES, SMALLEST_8BIT, Setup
from workbench.memory.shapes import parameters_outside, shape_of
from workbench.memory.trained_parts import (
    LOWERED,
    Line,
    Parts,
    Roles,
    line_of_numbers,
    line_of_tensor,
    line_per_token,
    numbers_in,
    parts_of,
    trained_in,
    trains_whole,
)

SHARDED = ("weights", "adapters", "gradients", "optimizer state")  # by ZeRO stage 3
OTHER_GRADIENT = "the other gradient of the tied embeddings"
COPIES = (LOWERED, OTHER_GRADIENT)  # whole copies of weights, of which sharding leaves one block at a time
ROOTS = "roots of the second averages, all at once (foreach)"  # as large as the optimizer's share

Moments = dict[tuple[str, str], list[Line]]  # (phase, moment) -> what is alive beside `resident`


@dataclass(frozen=True)
class Closed:
    """lines: at the highest moment of the step. peaks: phase -> bytes. moments: see MemoryReport."""

    lines: list[Line]
    peaks: dict[str, int]
    moments: list[tuple[int, int]]
    trainable_parameters: int


def closed_form(config: PreTrainedConfig, setup: Setup) -> Closed:
    """The lines of the highest of the moments at which a step may peak, and the peak of each phase.

    Raises MemoryModelError for a family whose blocks are not known, and MethodError where the method does not fit.
    """
    parts = parts_of(shape_of(config), setup)
    always, moments = resident(parts), moments_of(parts)
    rest = sum(line.bytes for line in always)
    sizes = {name: rest + sum(line.bytes for line in lines) for name, lines in moments.items()}
    peaks = {phase: max(size for name, size in sizes.items() if name[0] == phase) for phase, _ in moments}
    highest = moments[max(sizes, key=sizes.__getitem__)]
    split = [_split([*always, *lines]) for lines in moments.values()]
    return Closed(always + highest, peaks, split, parts.trainable)


def _split(lines: Iterable[Line]) -> tuple[int, int]:
    """Bytes that sharding splits over GPUs, and bytes that it leaves on each."""
    shared = kept = 0
    for line in lines:
        if line.component in SHARDED or line.words == ROOTS:
            shared += line.bytes
        elif line.words not in COPIES:
            kept += line.bytes
    return shared, kept


def resident(parts: Parts) -> list[Line]:
    """What is there all the time: weights, adapters and the optimizer's state."""
    lines = _weights(parts)
    if parts.adapter_weights:
        lines.append(line_of_numbers("adapters", "adapter weights", parts.adapter_weights, 4))
    return [*lines, _optimizer_state(parts)]


def _weights(parts: Parts) -> list[Line]:
    shape, rest, linear = parts.shape, Counter(parameters_outside(parts.shape).values()), Counter[int]()
    for size in shape.biases.values():
        rest[size] += shape.layers
    for out, width in shape.linear.values():
        linear[out * width] += shape.layers
    if parts.quantized:
        words = f"{numbers_in(linear):,} weights in 4 bits, a scale of 8 bits for every {BLOCK_4BIT} of them"
        packed = Line("weights", words, _packed(linear))
        return [packed, line_of_numbers("weights", "other weights", rest, parts.stream_bytes)]
    if parts.full:
        return [line_of_numbers("weights", "weights", linear + rest, parts.whole_bytes)]
    lines = [line_of_numbers("weights", "frozen weights", linear + rest, parts.frozen_bytes)]
    if parts.whole_weights:
        words = "copies of weights that are trained whole"
        lines.append(line_of_numbers("weights", words, parts.whole_weights, parts.whole_bytes))
    return lines


def _packed(linear: Counter[int]) -> Counter[int]:
    """Size in bytes -> number of tensors that bitsandbytes stores of weights in NF4, without the offsets (one number).

    linear: entries of a weight -> how many such weights.
    """
    tensors: Counter[int] = Counter()
    for entries, count in linear.items():
        stored = stored_parts(entries, "nf4", BLOCK_4BIT, double_quantization=True)
        for size in (stored["codes"], stored["scales"], stored["scales of scales"], 4 * CODE_BOOK_VALUES):
            tensors[size] += count
    return tensors


def _optimizer_state(parts: Parts) -> Line:
    state: Counter[int] = Counter()
    in_8_bits = parts.setup.optimizer == "adamw8bit"
    for numbers, size in ((parts.whole_weights, parts.whole_bytes), (parts.adapter_weights, 4)):
        for number, count in numbers.items():
            if not in_8_bits:
                state[number * size] += 2 * count
            elif number < SMALLEST_8BIT:
                state[number * 4] += 2 * count
            else:
                state[number] += 2 * count
                state[4 * -(-number // BLOCK_8BIT)] += 2 * count
    how = "1 byte and a share of a scale, small ones 4" if in_8_bits else "as the weights"
    return Line("optimizer state", f"two averages of {parts.trainable:,} gradients, {how}", state)


def moments_of(parts: Parts) -> Moments:
    """The moments at which a step may peak, each with what is alive then beside `resident`."""
    checkpointing = parts.setup.checkpointing
    kept, held, temporary = kept_by_blocks(parts), _held(parts), scratch(parts)
    lowered, above = _lowered(parts, after=False), [*kept, _tail(parts)]
    largest, lowest = largest_block(parts), parts.blocks[lowest_reached(parts)]
    running = [one_block(parts, largest)] if checkpointing else []
    again = block_in_backward(parts, largest) if checkpointing else []
    # DoRA needs its scratch on the way forward alone.
    passing = [*(temporary if checkpointing or parts.quantized else []), gradients_in_flight(parts)]
    moments: Moments = {
        ("forward", "block"): [*kept, *lowered, *held, *running, *temporary],
        ("forward", "loss"): [*above, *lowered, *_logits(parts, after=False), *held],
        ("backward", "loss"): [*above, *_lowered(parts, after=True), *_logits(parts, after=True)],
        ("backward", "block"): [*kept, *held, *_head_gradient(parts), *again, *passing],
        ("backward", "lowest block"): [
            _gradients_above(parts, lowest),
            *block_in_backward(parts, lowest),
            *held,
            *passing,
        ],
        ("backward", "end"): [_gradients(parts), *held],
        ("optimizer", "update"): [_gradients(parts), *held],
    }
    if parts.full and parts.shape.tied:
        other = line_of_tensor("temporaries", OTHER_GRADIENT, parts.whole_bytes * parts.table)
        moments["backward", "end"].append(other)
    if parts.setup.attention == "eager":
        moments |= _moments_of_scores(parts)
    if parts.setup.optimizer == "adamw":
        moments["optimizer", "update"].append(Line("temporaries", ROOTS, _gradients(parts).tensors))
    return moments


def _moments_of_scores(parts: Parts) -> Moments:
    """Eager attention makes whole matrices of scores: in a long row, more than all the rest of a block."""
    lowest, held, lowered = parts.blocks[lowest_reached(parts)], _held(parts), _lowered(parts, after=False)
    if parts.setup.checkpointing:
        block, kept, in_use = largest_block(parts), kept_by_blocks(parts), []
    else:
        block, kept, in_use = parts.blocks[-1], kept_by_blocks(parts, above=1), lowered
    back = [*held, *_head_gradient(parts), *block_at_scores(parts, block, backward=True)]
    gradients = _gradients_above(parts, before_scores(lowest))
    return {
        ("forward", "scores"): [*kept, *lowered, *held, *block_at_scores(parts, block, backward=False)],
        ("backward", "scores"): [*kept, *in_use, *back],
        ("backward", "lowest scores"): [gradients, *held, *block_at_scores(parts, lowest, backward=True)],
    }


def _gradients(parts: Parts) -> Line:
    sizes = Counter({number * parts.whole_bytes: count for number, count in parts.whole_weights.items()})
    for number, count in parts.adapter_weights.items():
        sizes[number * 4] += count
    return Line("gradients", f"{parts.trainable:,} gradients, as the trained weights", sizes)


def _gradients_above(parts: Parts, lowest: Roles) -> Line:
    """All but those of the lowest block's layers; an untied lookup's comes last, too."""
    sizes = Counter(_gradients(parts).tensors)
    whole, adapters = trained_in(parts.shape, parts.method, lowest)
    sizes.subtract([*(parts.whole_bytes * number for number in whole), *(4 * number for number in adapters)])
    if trains_whole(parts.method, "model.embed_tokens") and not (parts.full and parts.shape.tied):
        sizes[parts.whole_bytes * parts.table] -= 1
    return Line("gradients", "gradients above the lowest block", sizes)


def _head_gradient(parts: Parts) -> list[Line]:
    if not trains_whole(parts.method, "lm_head"):
        return []
    return [line_of_tensor("gradients", "gradient of the head", parts.whole_bytes * parts.table)]


def _logits(parts: Parts, after: bool) -> list[Line]:
    """Before the backward pass: logits, in float32, their log-softmax; then two gradients in the place of one."""
    entries, size = parts.tokens * parts.shape.vocabulary, parts.logit_bytes
    raised = [4] if size == 2 and not after else []
    each = [size, *raised, 4, *([4, 4] if after else [])]
    words = f"logits: {parts.tokens:,} tokens x {parts.shape.vocabulary:,} x ({' + '.join(map(str, each))}) bytes"
    capped = [line_of_tensor("logits", "capped logits", size * entries)] if parts.shape.capped else []
    return [Line("logits", words, Counter(one * entries for one in each)), *capped]


def _held(parts: Parts) -> list[Line]:
    """What the last call's `outputs` still hold while the next call runs."""
    entries = parts.tokens * parts.shape.vocabulary
    lines = [line_of_tensor("logits", "logits of the last call, still held", parts.logit_bytes * entries)]
    if not parts.setup.checkpointing:
        sizes = [cache_bytes(parts)] * 2 * parts.shape.layers
        lines.append(line_per_token(parts, "activations", "keys and values of the last call, still held", sizes))
    return lines


def _tail(parts: Parts) -> Line:
    """After the last block: the last normalisation, the head's input, and the mask."""
    hidden = parts.shape.hidden
    sizes = [4 * hidden]
    if parts.full:
        sizes.append(normed_bytes(parts, parts.stream_bytes) * hidden)
    if trains_whole(parts.method, "lm_head"):
        sizes.append(parts.compute_bytes * hidden)
    if parts.setup.attention == "sdpa":
        sizes.append(parts.setup.sequence_length)
    return line_per_token(parts, "activations", "after the last block", sizes)


def _lowered(parts: Parts, after: bool) -> list[Line]:
    """Copies of trained weights that autocast makes; checkpointed blocks lose theirs with the forward pass."""
    if not parts.mixed:
        return []
    inside = parts.adapter_weights + parts.whole_weights
    if trains_whole(parts.method, "model.embed_tokens") and not parts.shape.tied:
        inside -= Counter([parts.table])  # a lookup is no product
    if after and parts.setup.checkpointing:
        inside = Counter([parts.table] if trains_whole(parts.method, "lm_head") else [])
    sizes = Counter({2 * number: count for number, count in inside.items()})
    return [Line("activations", LOWERED, sizes)]
