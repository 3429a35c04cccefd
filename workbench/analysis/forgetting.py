"""How far a tuned model has moved from its base: KL divergence on given texts, and perplexity.

Every token is predicted from those before it, so that targets are shifted by one; the base is the base itself, without
an adapter. The forgetting values that PEFT's benchmarks published before July 2026 had neither (huggingface/peft, pull
request 3419): they scored each token against itself, and the base with an adapter that had not been trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor

from workbench.errors import ModelError, TaskError
from workbench.models.base import Base
from workbench.models.checks import check_ids, most_tokens
from workbench.models.padding_free import completion_logits
from workbench.models.sharing import in_float32, own_precision, shared_copy
from workbench.scoring.evaluation import general_rows, score
from workbench.scoring.row_scores import in_batches, to_device
from workbench.tasks.encoding import Encoded, collate
from workbench.tasks.joining import prompt_ids

POSITIONS = 128  # whose probabilities are in memory at once: 25 MB in float32 for 49,152 tokens


@own_precision()
@torch.no_grad()
def kl_from_base(base: Base, tuned: Base, texts: Sequence[str]) -> float:
    """KL(base || tuned) of the next token, in nats, as a mean over all tokens of the texts.

    After each token, the last one included, the base's distribution of the next one is compared with the tuned model's.
    Shenfeld et al., "RL's Razor", arXiv 2509.04259, predict forgetting from the KL over the answers to the new task's
    prompts. Here it is that over the prompts' own tokens, which needs no answers to be sampled. Scored in float32.
    Raises TaskError for texts without tokens, ModelError for models of two vocabularies.
    """
    rows = [Encoded((*ids, ids[-1]), 1) for ids in _tokens(base, texts)]  # with a target for the last position too
    before, after = (shared_copy(in_float32(each.model)).eval() for each in (base, tuned))
    total = 0.0
    for places in in_batches([len(row.ids) for row in rows]):
        batch = to_device(collate([rows[place] for place in places], pad_id=0), before)
        total += _kl(*(completion_logits(model, batch).float() for model in (before, after)))
    return total / sum(row.completion_tokens for row in rows)


def _kl(before: Tensor, after: Tensor) -> float:
    """The sum over all positions of KL(before || after), from logits (positions, vocabulary)."""
    if before.shape != after.shape:
        raise ModelError(
            f"The base predicts {before.shape[-1]} tokens and the tuned model {after.shape[-1]}; compare a model with "
            "the base that it was tuned from."
        )
    total = 0.0
    for one, two in zip(before.split(POSITIONS), after.split(POSITIONS), strict=True):
        each = F.kl_div(two.log_softmax(-1), one.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        total += each.clamp_min(0).double().sum().item()  # rounding can leave less than 0
    return total


@own_precision()
def perplexity(model: Base, texts: Sequence[str] | None = None) -> float:
    """exp(nats per token) of the texts, each token but the first predicted from those before it.

    texts: None takes the general text of `evaluate`, whose `general_loss` is the logarithm of this. Raises TaskError
    for texts of less than two tokens.
    """
    if texts is None:
        rows = general_rows(model.tokenizer, most_tokens(model.model))
    else:
        rows = [Encoded(tuple(ids), 1) for ids in _tokens(model, texts, fewest=2)]
    return math.exp(score(shared_copy(in_float32(model.model)).eval(), rows)["loss"])


def _tokens(base: Base, texts: Sequence[str], fewest: int = 1) -> list[list[int]]:
    """The tokens of each text, after the beginning-of-text token where the tokenizer adds one."""
    if isinstance(texts, str) or not texts:
        raise TaskError("texts must be a list with at least one text.")
    rows = [prompt_ids(text, base.tokenizer) for text in texts]
    for number, ids in enumerate(rows, 1):
        if len(ids) < fewest:
            raise TaskError(f"Text {number} has {len(ids)} tokens, and {fewest} are needed; leave it out.")
    check_ids(base.model, base.tokenizer, rows, "Text")
    return rows
