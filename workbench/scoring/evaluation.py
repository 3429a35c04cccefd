"""Scores, all in float32: loss, exact match and label accuracy on a task; loss on general text; everyday facts."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from numbers import Integral

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.errors import TaskError
from workbench.models.base import Base
from workbench.models.checks import check_ids, most_tokens
from workbench.models.sharing import head_lock, in_float32, own_precision, shared_copy
from workbench.paths import DATA
from workbench.scoring.label_scores import Choice, chosen_right
from workbench.scoring.progress import ScoringProgress
from workbench.scoring.row_scores import RowScores, score_rows
from workbench.scoring.scores import Scores, pack_rows
from workbench.tasks.encoding import Encoded, encode, ended
from workbench.tasks.example import Example
from workbench.tasks.joining import pair_ids, prompt_ids, start_ids, token_ids
from workbench.tasks.tasks import Task

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
    if not task.test:
        raise TaskError(f"The task {task.name} has no test rows to score.")
    if limit is not None and (not isinstance(limit, Integral) or limit < 1):
        raise TaskError(f"limit={limit!r} must be a whole number of at least 1, or None for all rows.")
    model = shared_copy(in_float32(base.model)).eval()  # a copy: another thread may be using the base meanwhile
    rows = encode(task.test[:limit], base.tokenizer, max_length, what="Test row")
    check_ids(model, base.tokenizer, [row.ids for row in rows], "Test row")
    choices = label_choices(base.tokenizer, task, rows, limit)
    general = general_rows(base.tokenizer, most_tokens(model))[:limit]
    facts = fact_rows(base.tokenizer)[:limit]
    tokens = sum(len(row.ids) for row in (*rows, *general, *facts))
    with ScoringProgress(f"{len(rows):,} test rows, general text and facts", tokens) as progress:
        firsts = [[label[0] for label in choice.labels] for choice in choices]
        found = score_rows(model, rows, firsts, progress.advance)
        scores = summary(found, rows)
        if choices:
            right = right_labels(model, rows, choices, found, progress)
            scores["label_accuracy"] = sum(right) / len(right)
            scores.right["label_accuracy"] = pack_rows(right)
        scores["general_loss"] = summary(score_rows(model, general, on_batch=progress.advance), general)["loss"]
        of_facts = summary(score_rows(model, facts, on_batch=progress.advance), facts)
    scores |= {"fact_accuracy": of_facts["exact_match"], "fact_loss": of_facts["loss"]}
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
    most = most_tokens(model) or sys.maxsize
    written = []
    for example in examples:
        ids = prompt_ids(example.prompt, base.tokenizer)
        check_ids(model, base.tokenizer, [ids], "Prompt")
        with head_lock:
            tokens = _greedy(model, ids, base.tokenizer.eos_token_id, min(max_new_tokens, most - len(ids)))
        written.append(base.tokenizer.decode(tokens, skip_special_tokens=True).strip())
    return written


def _greedy(model: PreTrainedModel, ids: list[int], end: int, count: int) -> list[int]:
    """Greedy decoding until the token `end` or `count` tokens.

    `model.generate` would apply the model's own generation_config: penalties, beams, suppressed tokens. PEFT puts a
    trained prefix into the place of the cache at each call, so that nothing can be read from there.
    """
    with_prefix = isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning
    try:
        return _decode(model, ids, end, count, from_cache=not with_prefix)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):  # a cache of another kind
        # Any other fault comes again here, and is raised.
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


def score(model: nn.Module, rows: Sequence[Encoded]) -> Scores:
    """Loss (nats per completion token) and exact match of `rows` with teacher forcing, in one forward pass a batch.

    The result's `right` says which rows matched. Exact match needs no generation: greedy decoding gives exactly the
    reference if and only if every completion token is the argmax given the tokens before it.
    """
    return summary(score_rows(model, rows), rows)


def summary(found: RowScores, rows: Sequence[Encoded]) -> Scores:
    """Loss and exact match of rows that were scored."""
    loss = sum(found.nats) / sum(row.completion_tokens for row in rows)
    exact_match = sum(found.exact) / len(rows)
    return Scores({"loss": loss, "exact_match": exact_match}, right={"exact_match": pack_rows(found.exact)})


def right_labels(
    model: PreTrainedModel,
    rows: Sequence[Encoded],
    choices: Sequence[Choice],
    found: RowScores,
    progress: ScoringProgress | None = None,
) -> list[bool]:
    """For each row, whether its label is the most likely one.

    found: the rows' scores, with those of the first tokens of all labels.
    """
    # A row may tokenize its label differently than the choice does; then the choice is scored separately.
    whole = [Encoded((*each.prompt, *each.labels[each.right]), len(each.prompt)) for each in choices]
    other = [place for place, row in enumerate(rows) if row.ids != whole[place].ids]
    nats = list(found.nats)
    for place, own in zip(other, score_rows(model, [whole[place] for place in other]).nats, strict=True):
        nats[place] = own
    return chosen_right(model, choices, replace(found, nats=nats), progress)


def label_choices(
    tokenizer: PreTrainedTokenizerBase, task: Task, rows: Sequence[Encoded], limit: int | None = None
) -> list[Choice]:
    """What each test row chooses from; nothing in a task without labels."""
    labels, examples = task.labels or (), task.test[:limit]
    if not labels:
        return []
    ids = _label_ids(tokenizer, [each.prompt for each in examples], [_completion(task, label) for label in labels])
    return [
        Choice(row.ids[: row.prompt_length], own, labels.index(example.completion.strip()))
        for row, own, example in zip(rows, ids, examples, strict=True)
    ]


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


def general_rows(tokenizer: PreTrainedTokenizerBase, most: int | None = None) -> list[Encoded]:
    """Evenly spaced chunks of the general text; the loss is on every token but the first.

    most: tokens of a chunk that the model has positions for; None where they are not counted (see `most_tokens`).
    """
    text = general_text()[0]
    stride = len(text) // GENERAL_CHUNKS
    pieces = [text[i * stride : i * stride + 8 * GENERAL_CHUNK_TOKENS] for i in range(GENERAL_CHUNKS)]
    start = start_ids(tokenizer)
    chunks = [(*start, *ids[:GENERAL_CHUNK_TOKENS]) for ids in token_ids(pieces, tokenizer)]
    return [Encoded(chunk[:most], 1) for chunk in chunks]


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
