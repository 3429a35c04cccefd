"""Scores, all in float32: loss, exact match and label accuracy on a task; loss on general text; everyday facts."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.models.base import Base
from workbench.models.checks import check_ids
from workbench.models.padding_free import completion_logits
from workbench.models.sharing import head_lock, in_float32, own_precision, share
from workbench.paths import DATA
from workbench.scoring.label_scores import label_likelihoods as _label_scores
from workbench.scoring.scores import Scores, pack_rows
from workbench.tasks.encoding import Encoded, collate, encode, ended
from workbench.tasks.files import Example
from workbench.tasks.joining import pair_ids, prompt_ids, start_ids, token_ids
from workbench.tasks.tasks import Task

TOKENS_A_BATCH = 2048
GENERAL_CHUNKS, GENERAL_CHUNK_TOKENS = 12, 128
PROMPT_END = 32  # characters, on which the tokens of what follows a prompt depend


@own_precision()
def evaluate(base: Base, task: Task, limit: int | None = None, max_length: int = 512) -> Scores:
    """Score a model (a base or a tuned one) on a task's test rows and on general text.

    loss: nats per completion token. exact_match: share of rows whose greedy answer equals the reference.
    label_accuracy (tasks with labels): share of rows whose most likely label is the right one.
    general_loss: nats per token of text that no task trains on. fact_accuracy: share of everyday facts completed right.
    The result's `right` says which test rows had the exact answer and the right label. limit: score only the first
    `limit` test rows, pieces of general text and facts. Raises TaskError for a row of more than `max_length` tokens.
    """
    model = share(in_float32(base.model)).eval()  # a copy: another thread may be using the base meanwhile
    rows = encode(task.test[:limit], base.tokenizer, max_length, what="Test row")
    check_ids(model, base.tokenizer, [row.ids for row in rows], "Test row")
    scores = score(model, rows)
    if task.labels:
        right = right_labels(model, base.tokenizer, task, limit, max_length)
        scores["label_accuracy"] = sum(right) / len(right)
        scores.right["label_accuracy"] = pack_rows(right)
    facts = score(model, fact_rows(base.tokenizer)[:limit])
    scores |= {"general_loss": score(model, general_rows(base.tokenizer)[:limit])["loss"]}
    scores |= {"fact_accuracy": facts["exact_match"], "fact_loss": facts["loss"]}
    return scores


def forgetting(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Loss gained on general text (nats a token) and accuracy lost on everyday facts; above 0 means forgotten."""
    return {
        "general_loss": after["general_loss"] - before["general_loss"],
        "fact_accuracy": before["fact_accuracy"] - after["fact_accuracy"],
    }


@own_precision()
@torch.no_grad()
def answers(base: Base, examples: Sequence[Example], max_new_tokens: int = 48) -> list[str]:
    """The model's answer to each prompt by greedy decoding, one prompt at a time, so that nothing is padded."""
    model = in_float32(base.model)
    written = []
    for example in examples:
        ids = prompt_ids(example.prompt, base.tokenizer)
        check_ids(model, base.tokenizer, [ids], "Prompt")
        with head_lock:
            tokens = _greedy(model, ids, base.tokenizer.eos_token_id, max_new_tokens)
        written.append(base.tokenizer.decode(tokens, skip_special_tokens=True).strip())
    return written


def _greedy(model: PreTrainedModel, ids: list[int], end: int, count: int) -> list[int]:
    """Greedy decoding until the token `end` or `count` tokens.

    `model.generate` would apply the model's own generation_config: penalties, beams, suppressed tokens.
    """
    try:
        return _decode(model, ids, end, count, from_cache=True)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):  # a state of a kind of its own
        return _decode(model, ids, end, count, from_cache=False)


def _decode(model: PreTrainedModel, ids: list[int], end: int, count: int, from_cache: bool) -> list[int]:
    written: list[int] = []
    cache = None
    while len(written) < count and written[-1:] != [end]:
        new = written[-1:] if from_cache and written else ids + written
        row = torch.tensor([new], device=model.device)
        if from_cache:
            out = model(input_ids=row, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
        else:
            out = model(input_ids=row, use_cache=False)
        written.append(out.logits[0, -1].argmax().item())
    return written


@torch.no_grad()
def score(model: nn.Module, rows: Sequence[Encoded]) -> Scores:
    """Loss (nats per completion token) and exact match of `rows` with teacher forcing, in one forward pass a batch.

    The result's `right` says which rows matched.

    Exact match needs no generation: greedy decoding gives exactly the reference if and only if every completion token
    is the argmax given the tokens before it.
    """
    total, tokens, exact = 0.0, 0, [False] * len(rows)
    for places in _by_length(rows):
        batch = to_device(collate([rows[place] for place in places], pad_id=0), model)
        logits = completion_logits(model, batch).float()
        total += F.cross_entropy(logits, batch["targets"], reduction="sum").item()
        tokens += batch["targets"].numel()
        wrong = torch.zeros(len(places), device=logits.device, dtype=torch.float32)
        wrong.index_add_(0, batch["rows"], (logits.argmax(-1) != batch["targets"]).float())
        for place, count in zip(places, wrong.tolist(), strict=True):
            exact[place] = count == 0
    shares = {"loss": total / tokens, "exact_match": sum(exact) / len(rows)}
    return Scores(shares, right={"exact_match": pack_rows(exact)})


def label_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    limit: int | None = None,
    max_length: int = 512,
) -> float:
    """Share of test rows whose right label is the most likely one (see `right_labels`)."""
    right = right_labels(model, tokenizer, task, limit, max_length)
    return sum(right) / len(right)


@torch.no_grad()
def right_labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    limit: int | None = None,
    max_length: int = 512,
) -> list[bool]:
    """For each test row, whether its label has the highest log-likelihood among all of the task's labels.

    Rows with prompts of equal length go through the model together.
    """
    labels = task.labels or ()
    rows = task.test[:limit]
    wanted = [labels.index(example.completion.strip()) for example in rows]
    choices = _label_ids(tokenizer, [example.prompt for example in rows], [_completion(task, each) for each in labels])
    groups = defaultdict(list)
    encoded = encode(rows, tokenizer, max_length, what="Test row")
    for index, (row, label_ids) in enumerate(zip(encoded, choices, strict=True)):
        groups[row.prompt_length, label_ids].append((index, row.ids[: row.prompt_length]))
    right = [False] * len(rows)
    for (_, label_ids), group in groups.items():
        for start in range(0, len(group), 16):
            part = group[start : start + 16]
            prompts = torch.tensor([ids for _, ids in part], device=model.device)
            with head_lock:
                best = _label_scores(model, prompts, label_ids).argmax(-1).tolist()
            for (index, _), choice in zip(part, best, strict=True):
                right[index] = wanted[index] == choice
    return right


def _label_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], labels: Sequence[str]
) -> list[tuple[tuple[int, ...], ...]]:
    """For each prompt, the tokens of every label as its continuation, end-of-text included.

    They depend on how the prompt ends, and in a task of classification most end alike.
    """
    ends = {prompt[-PROMPT_END:]: prompt for prompt in prompts}
    pairs = [(prompt, label) for prompt in ends.values() for label in labels]
    joined = pair_ids([prompt for prompt, _ in pairs], [label for _, label in pairs], tokenizer)
    rows = [tuple(ended(label, tokenizer.eos_token_id)) for _, label in joined]
    of_end = {end: tuple(rows[i * len(labels) : (i + 1) * len(labels)]) for i, end in enumerate(ends)}
    return [of_end[prompt[-PROMPT_END:]] for prompt in prompts]


def _completion(task: Task, label: str) -> str:
    """The label as the task's completions write it, with the space in front.

    `Task.head` may have cut off every example of a label, which is still one of the choices: it is written as others.
    """
    written = [example.completion for example in (*task.test, *task.train)]
    like = next((text for text in written if text.strip() == label), written[0])
    return like.replace(like.strip(), label)


@cache
def general_text() -> tuple[str, str]:
    """English text that no task trains on, the reference topics in Python's standard library, and its sha256."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    return text, hashlib.sha256(text.encode()).hexdigest()


def general_rows(tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """Evenly spaced chunks of the general text; the loss is on every token but the first."""
    text = general_text()[0]
    stride = len(text) // GENERAL_CHUNKS
    pieces = [text[i * stride : i * stride + 8 * GENERAL_CHUNK_TOKENS] for i in range(GENERAL_CHUNKS)]
    start = start_ids(tokenizer)
    chunks = [(*start, *ids[:GENERAL_CHUNK_TOKENS]) for ids in token_ids(pieces, tokenizer)]
    return [Encoded(chunk, 1) for chunk in chunks]


@cache
def everyday_facts() -> tuple[Example, ...]:
    """Short sentences of common knowledge, prompt and completion."""
    lines = (DATA / "everyday_facts.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(Example(**json.loads(line)) for line in lines)


def fact_rows(tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """The everyday facts without an end-of-text token: a base model may continue after the answer."""
    facts = everyday_facts()
    pairs = pair_ids([fact.prompt for fact in facts], [fact.completion for fact in facts], tokenizer)
    return [Encoded((*before, *after), len(before)) for before, after in pairs]


def to_device(batch: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The batch on the device of the model."""
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _by_length(rows: Sequence[Encoded]) -> list[list[int]]:
    """The places of the rows, sorted by their length, in batches of about TOKENS_A_BATCH tokens."""
    batches: list[list[int]] = []
    for place in sorted(range(len(rows)), key=lambda each: len(rows[each].ids)):
        if not batches or (len(batches[-1]) + 1) * len(rows[place].ids) > TOKENS_A_BATCH:
            batches.append([])
        batches[-1].append(place)
    return batches
