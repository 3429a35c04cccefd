"""How many configurations of a sweep share a pass: what each needs of memory, and a plan of as few passes as fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice

import torch
from torch import nn

from workbench.adapters.inject import adapter_parameters
from workbench.errors import SweepError
from workbench.machine import available_memory
from workbench.tasks.encoding import Encoded, collate, each_batch, encode
from workbench.training.lifecycle import alone_in_this_process
from workbench.training.loop import BYTES_A_PARAMETER, accelerator_for, batched, held, make_slot, slots_at_once
from workbench.training.peak_memory import LiveBytes
from workbench.training.step import PAD_ID, backward
from workbench.training.trial import Trial

PLANNED_BATCHES = 20_000  # whose fullest is looked for
FREE_SHARE = 0.7  # of the free memory; the rest is left to the allocator's overhead


@dataclass(frozen=True)
class Needs:
    """Bytes of tensors in a pass: the base, each member's adapter with its gradients and moments, and activations.

    activations: of one member, in forward and backward of the largest batch; at_once: of how many members they are
    alive together.
    """

    base: int
    members: list[int]
    activations: int
    at_once: int

    def of(self, members: Sequence[int]) -> int:
        """Bytes of a pass of these members (indices)."""
        states = sum(self.members[index] for index in members)
        return self.base + states + self.activations * min(self.at_once, len(members))

    def room(self, device: torch.device) -> int:
        """Bytes that a pass may plan with: the base is there already, and a part of what is free may be taken."""
        return self.base + int(FREE_SHARE * available_memory(device))


def plan_passes(needs: Needs, room: int, at_most: int) -> list[list[int]]:
    """Put members into as few passes as fit `room` (bytes) by first-fit decreasing; indices, `at_most` in a pass.

    Raises SweepError when one member alone does not fit.
    """
    passes: list[list[int]] = []
    for index in sorted(range(len(needs.members)), key=lambda i: -needs.members[i]):
        own = needs.of([index])
        if own > room:
            raise SweepError(
                f"One configuration needs about {own / 1e9:.2f} GB of tensors, and {room / 1e9:.2f} GB are "
                "allowed: lower batch_size, max_length or rank, turn on checkpointing, or raise max_memory."
            )
        fitting = (group for group in passes if len(group) < at_most and needs.of([*group, index]) <= room)
        group = next(fitting, None)
        if group is None:
            passes.append(group := [])
        group.append(index)
    return sorted(sorted(group) for group in passes)


@alone_in_this_process()
def needs(trials: Sequence[Trial]) -> Needs:
    """The memory of passes of these trials, measured in a forward and backward pass of the largest one."""
    base, task = trials[0].base, trials[0].task
    counts = [adapter_parameters(base, trial.method) for trial in trials]
    largest = trials[max(range(len(trials)), key=counts.__getitem__)]
    rows = encode(task.train, base.tokenizer, largest.config.max_length)
    accelerator = accelerator_for(base)
    slot = make_slot(largest, largest.new_run(), rows, accelerator)
    slot.batches, slot.tokens = [_largest_batch(rows, trials)], 1
    (group,) = batched(base, [slot])
    with LiveBytes(held([slot])) as memory:
        backward(accelerator, group)
    fixed = LiveBytes([*base.model.parameters(), *base.model.buffers()]).now
    copies = base.dtype.itemsize  # of an adapter in the dtype of the frozen weights, for the backward pass
    activations = memory.peak - fixed - max(counts) * (8 + copies)  # values and gradients in float32
    return Needs(
        fixed, [count * (BYTES_A_PARAMETER + copies) for count in counts], activations, slots_at_once(base, [slot])
    )


def _largest_batch(rows: list[Encoded], trials: Sequence[Trial]) -> dict[str, torch.Tensor]:
    """As wide as the widest micro-batch of any trial, with the most tokens and completion tokens that one of them has.

    These can meet in a pass: attention pads a slice to the width of the others, whose seeds order the rows differently.
    """
    config, seeds = trials[0].config, {trial.config.seed for trial in trials}
    count = config.steps * config.accumulation
    tokens = [row.completion_tokens for row in rows]
    if count * len(seeds) > PLANNED_BATCHES:  # of so many, one may hold the fullest rows
        by_tokens = sorted(range(len(rows)), key=tokens.__getitem__, reverse=True)
        plan = [list(islice(cycle(by_tokens), config.batch_size)), list(range(len(rows)))]
        fullest = plan[0]
    else:
        plan = [part for seed in seeds for part in each_batch(len(rows), config.batch_size, count, seed)]
        fullest = max(plan, key=lambda part: sum(tokens[index] for index in part))
    batch = collate([rows[index] for index in fullest], PAD_ID)
    ids, width = batch["input_ids"], max(len(rows[index].ids) for index in chain(*plan))
    most = max(sum(len(rows[index].ids) for index in part) for part in plan)
    places = {i * width + t for i, index in enumerate(fullest) for t in range(len(rows[index].ids))}
    padding = [place for place in range(len(fullest) * width) if place not in places]
    real = torch.tensor(sorted([*places, *padding[: most - len(places)]]))
    return batch | {"input_ids": nn.functional.pad(ids, (0, width - ids.shape[1]), value=PAD_ID), "real": real}
