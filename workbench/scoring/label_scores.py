"""How likely each label is after each prompt: from a cached prompt where the model's cache can be repeated."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from transformers import PreTrainedModel

from workbench.models.padding_free import completion_logits
from workbench.tasks.encoding import Encoded, collate

TOKENS_AT_ONCE = 2048
RELATIVE, ABSOLUTE = 1e-5, 1e-4  # rounding between the two ways: 4e-5 of 40 nats with SmolLM2
NOISE = 3  # times what the same way differs by with other rows in the batch
TRIED_TOKENS = 4  # some caches take one more token, and not several

_repeatable: dict[str, bool] = {}  # what `_cache_repeats` found, by configuration: it is no matter of the weights


@torch.no_grad()
def label_likelihoods(model: PreTrainedModel, prompts: torch.Tensor, labels: Sequence[Sequence[int]]) -> torch.Tensor:
    """Log-likelihood, (prompts, labels), of each label after each prompt; prompts: token ids of equal length.

    Each prompt goes through the model once, and every label continues from its cache. Caches with the state of linear
    attention or of a recurrence cannot be repeated: there each label goes through the model with its prompt.
    """
    kind = model.config.to_json_string()
    if kind not in _repeatable:
        _repeatable[kind] = _cache_repeats(model, prompts, labels)
    return _from_cache(model, prompts, labels) if _repeatable[kind] else _one_by_one(model, prompts, labels)


def _cache_repeats(model: PreTrainedModel, prompts: torch.Tensor, labels: Sequence[Sequence[int]]) -> bool:
    """Whether both ways agree on two prompts and two labels; some caches refuse, others are wrong without a word."""
    two = torch.cat([prompts[:1], prompts[-1:].flip(1)])
    few = [[*max(labels, key=len), *prompts[0, :TRIED_TOKENS].tolist()], min(labels, key=len)]
    try:
        cached = _from_cache(model, two, few)
    except Exception:  # each kind of cache has its own way to fail, and the other way is always right
        return False
    apart = _one_by_one(model, two, few)
    if torch.allclose(cached, apart, rtol=RELATIVE, atol=ABSOLUTE):
        return True
    # int8 picks outliers a batch, so that scores depend on the rows that go together: no cache is closer than that.
    alone = torch.cat([_one_by_one(model, row[None], few) for row in two])
    return bool((cached - apart).abs().max() < NOISE * (alone - apart).abs().max())


def _from_cache(model: PreTrainedModel, prompts: torch.Tensor, labels: Sequence[Sequence[int]]) -> torch.Tensor:
    longest = max(map(len, labels))
    padded = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in labels], device=prompts.device)
    real = torch.tensor([[1.0] * len(ids) + [0.0] * (longest - len(ids)) for ids in labels], device=prompts.device)
    first = model(input_ids=prompts, use_cache=True, logits_to_keep=1)
    first.past_key_values.batch_repeat_interleave(len(labels))
    # Nothing is predicted from the last token of a label, so it does not go through the model.
    rest = model(input_ids=padded[:, :-1].repeat(len(prompts), 1), past_key_values=first.past_key_values).logits.float()
    start = first.logits[:, -1].float().repeat_interleave(len(labels), 0)
    logits = torch.cat([start[:, None], rest], 1).log_softmax(-1)
    chosen = logits.gather(-1, padded.repeat(len(prompts), 1)[..., None])[..., 0]
    return (chosen * real.repeat(len(prompts), 1)).sum(-1).view(len(prompts), len(labels))


def _one_by_one(model: PreTrainedModel, prompts: torch.Tensor, labels: Sequence[Sequence[int]]) -> torch.Tensor:
    rows = [Encoded((*ids, *label), len(ids)) for ids, label in product(prompts.tolist(), labels)]
    at_once = max(1, TOKENS_AT_ONCE // max(len(row.ids) for row in rows))
    sums = [_likelihoods(model, rows[start : start + at_once]) for start in range(0, len(rows), at_once)]
    return torch.cat(sums).view(len(prompts), len(labels))


def _likelihoods(model: PreTrainedModel, rows: Sequence[Encoded]) -> torch.Tensor:
    """Log-likelihood of each row's completion."""
    batch = {name: tensor.to(model.device) for name, tensor in collate(rows, pad_id=0).items()}
    losses = F.cross_entropy(completion_logits(model, batch).float(), batch["targets"], reduction="none")
    return torch.zeros(len(rows), device=losses.device).index_add(0, batch["rows"], -losses)
