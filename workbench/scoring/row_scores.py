"""Scores of each row by itself, in one forward pass a batch: the longest rows first, about equally many tokens a batch.

A batch that does not fit into memory is then the first one, and not one at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn

from workbench.models.padding_free import completion_logits
from workbench.tasks.encoding import Encoded, collate

TOKENS_A_BATCH = 2048
PLACES_A_BATCH = 2 * TOKENS_A_BATCH  # padding included

OnBatch = Callable[[int], None]  # is told how many tokens are done


@dataclass
class RowScores:
    """One entry a row, in their order.

    nats: minus the log-likelihood of the completion. exact: whether each of its tokens is the most likely one. firsts:
    the log-likelihoods of the tokens that were asked for, as the first of the completion.
    """

    nats: list[float] = field(default_factory=list)
    exact: list[bool] = field(default_factory=list)
    firsts: list[list[float]] = field(default_factory=list)


@torch.no_grad()
def score_rows(
    model: nn.Module, rows: Sequence[Encoded], asked: Sequence[Sequence[int]] = (), on_batch: OnBatch | None = None
) -> RowScores:
    """The scores of each row with teacher forcing. asked: for each row, the tokens of `RowScores.firsts`."""
    found = RowScores([math.nan] * len(rows), [False] * len(rows), [[] for _ in rows])
    for places in in_batches([len(row.ids) for row in rows]):
        batch = to_device(collate([rows[place] for place in places], pad_id=0), model)
        logits = completion_logits(model, batch).float()
        per_token = torch.stack(
            [
                F.cross_entropy(logits, batch["targets"], reduction="none"),
                (logits.argmax(-1) != batch["targets"]).float(),
            ],
            dim=1,
        )
        sums = per_token.new_zeros(len(places), 2).index_add_(0, batch["rows"], per_token)
        for place, (nats, wrong) in zip(places, sums.tolist(), strict=True):
            found.nats[place], found.exact[place] = nats, wrong == 0
        if asked:
            first = [rows[place].completion_tokens for place in places]
            starts = torch.tensor([0, *first[:-1]]).cumsum(0).to(logits.device)
            likely = logits[starts].log_softmax(-1)
            for own, place in zip(likely, places, strict=True):
                found.firsts[place] = own[list(asked[place])].tolist()
        if on_batch:
            on_batch(sum(len(rows[place].ids) for place in places))
    return found


def in_batches(lengths: Sequence[int]) -> list[list[int]]:
    """The places of rows of these lengths, longest first, in batches of about the same number of tokens.

    That is at most TOKENS_A_BATCH unless a single row is longer, and PLACES_A_BATCH with padding.
    """
    share = sum(lengths) / max(1, math.ceil(sum(lengths) / TOKENS_A_BATCH))
    batches: list[list[int]] = []
    tokens = 0
    for place in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        full = tokens >= share or tokens + lengths[place] > TOKENS_A_BATCH
        if not batches or full or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > PLACES_A_BATCH:
            batches.append([])
            tokens = 0
        batches[-1].append(place)
        tokens += lengths[place]
    return batches


def to_device(batch: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The batch on the device of the model."""
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}
