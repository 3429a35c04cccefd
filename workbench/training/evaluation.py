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
from workbench.models.sharing import completion_logits, head_lock, in_float32, share
from workbench.paths import DATA
from workbench.tasks.encoding import Encoded, collate, encode, start_ids
from workbench.tasks.files import Example
from workbench.tasks.tasks import Task

TOKENS_A_BATCH = 2048
GENERAL_CHUNKS, GENERAL_CHUNK_TOKENS = 12, 128


def evaluate(base: Base, task: Task, limit: int | None = None, max_length: int = 512) -> dict[str, float]:
    """Score a model (a base or a tuned one) on a task's test rows and on general text.

    loss: nats per completion token. exact_match: share of rows whose greedy answer equals the reference.
    label_accuracy (tasks with labels): share of rows whose most likely label is the right one.
    general_loss: nats per token of text that no task trains on. fact_accuracy: share of everyday facts completed right.
    limit: score only the first `limit` test rows, pieces of general text and facts. Raises TaskError for a row of more
    than `max_length` tokens.
    """
    model = share(in_float32(base.model)).eval()  # a copy: another thread may be using the base meanwhile
    rows = encode(task.test[:limit], base.tokenizer, max_length, what="Test row")
    scores = score(model, rows)
    if task.labels:
        scores["label_accuracy"] = label_accuracy(model, base.tokenizer, task, limit, max_length)
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


@torch.no_grad()
def answers(base: Base, examples: Sequence[Example], max_new_tokens: int = 48) -> list[str]:
    """The model's answer to each prompt by greedy decoding, one prompt at a time, so that nothing is padded."""
    model = in_float32(base.model)
    written = []
    for example in examples:
        ids = [*start_ids(base.tokenizer), *_tokens(base.tokenizer, example.prompt)]
        with head_lock:
            tokens = _greedy(model, ids, base.tokenizer.eos_token_id, max_new_tokens)
        written.append(base.tokenizer.decode(tokens, skip_special_tokens=True).strip())
    return written


def _greedy(model: PreTrainedModel, ids: list[int], end: int, count: int) -> list[int]:
    """Greedy decoding until the token `end` or `count` tokens.

    `model.generate` would apply the model's own generation_config: penalties, beams, suppressed tokens.
    """
    written: list[int] = []
    cache = None
    while len(written) < count and written[-1:] != [end]:
        new = torch.tensor([written[-1:] or ids], device=model.device)
        out = model(input_ids=new, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        written.append(out.logits[0, -1].argmax().item())
    return written


@torch.no_grad()
def score(model: nn.Module, rows: Sequence[Encoded]) -> dict[str, float]:
    """Loss (nats per completion token) and exact match of `rows` with teacher forcing, in one forward pass a batch.

    Exact match needs no generation: greedy decoding gives exactly the reference if and only if every completion token
    is the argmax given the tokens before it.
    """
    total, tokens, exact = 0.0, 0, 0.0
    for batch_rows in _by_length(rows):
        batch = to_device(collate(batch_rows, pad_id=0), model)
        logits = completion_logits(model, batch).float()
        total += F.cross_entropy(logits, batch["targets"], reduction="sum").item()
        tokens += batch["targets"].numel()
        wrong = torch.zeros(len(batch_rows), device=logits.device)
        wrong.index_add_(0, batch["rows"], (logits.argmax(-1) != batch["targets"]).float())
        exact += (wrong == 0).sum().item()
    return {"loss": total / tokens, "exact_match": exact / len(rows)}


@torch.no_grad()
def label_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    limit: int | None = None,
    max_length: int = 512,
) -> float:
    """Share of test rows whose right label has the highest log-likelihood among all of the task's labels.

    Rows with prompts of equal length go through the model together; every label then continues from the cached prompt.
    """
    labels = task.labels or ()
    completions = [_completion(task, label) for label in labels]
    label_ids = [[*_tokens(tokenizer, text), tokenizer.eos_token_id] for text in completions]
    right = [labels.index(example.completion.strip()) for example in task.test[:limit]]
    groups = defaultdict(list)
    for index, row in enumerate(encode(task.test[:limit], tokenizer, max_length, what="Test row")):
        groups[row.prompt_length].append((index, row.ids[: row.prompt_length]))
    hits = 0
    for group in groups.values():
        for start in range(0, len(group), 16):
            part = group[start : start + 16]
            prompts = torch.tensor([ids for _, ids in part], device=model.device)
            with head_lock:
                best = _label_scores(model, prompts, label_ids).argmax(-1).tolist()
            hits += sum(right[index] == choice for (index, _), choice in zip(part, best, strict=True))
    return hits / len(right)


def _label_scores(model: PreTrainedModel, prompts: torch.Tensor, labels: list[list[int]]) -> torch.Tensor:
    """Log-likelihood, (prompts, labels), of each label after each prompt; prompts: token ids of equal length."""
    longest = max(map(len, labels))
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in labels], device=prompts.device)
    real = torch.tensor([[1.0] * len(ids) + [0.0] * (longest - len(ids)) for ids in labels], device=prompts.device)
    first = model(input_ids=prompts, use_cache=True, logits_to_keep=1)
    first.past_key_values.batch_repeat_interleave(len(labels))
    # Nothing is predicted from the last token of a label, so it does not go through the model.
    rest = model(input_ids=padded[:, :-1].repeat(len(prompts), 1), past_key_values=first.past_key_values).logits.float()
    start = first.logits[:, -1].float().repeat_interleave(len(labels), 0)
    logits = torch.cat([start[:, None], rest], 1).log_softmax(-1)
    chosen = logits.gather(-1, padded.repeat(len(prompts), 1)[..., None])[..., 0]
    return (chosen * real.repeat(len(prompts), 1)).sum(-1).view(len(prompts), len(labels))


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
    chunks = [(*start, *_tokens(tokenizer, piece)[:GENERAL_CHUNK_TOKENS]) for piece in pieces]
    return [Encoded(chunk, 1) for chunk in chunks]


@cache
def everyday_facts() -> tuple[Example, ...]:
    """Short sentences of common knowledge, prompt and completion."""
    lines = (DATA / "everyday_facts.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(Example(**json.loads(line)) for line in lines)


def fact_rows(tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """The everyday facts without an end-of-text token: a base model may continue after the answer."""
    rows = []
    for fact in everyday_facts():
        prompt = [*start_ids(tokenizer), *_tokens(tokenizer, fact.prompt)]
        rows.append(Encoded((*prompt, *_tokens(tokenizer, fact.completion)), len(prompt)))
    return rows


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def to_device(batch: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """The batch on the device of the model."""
    device = next(model.parameters()).device
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _by_length(rows: Sequence[Encoded]) -> list[list[Encoded]]:
    """Rows sorted by length, in batches of about TOKENS_A_BATCH tokens."""
    batches: list[list[Encoded]] = []
    for row in sorted(rows, key=lambda r: len(r.ids)):
        if not batches or (len(batches[-1]) + 1) * len(row.ids) > TOKENS_A_BATCH:
            batches.append([])
        batches[-1].append(row)
    return batches
