"""From examples to tensors: tokenize, choose the rows of each step, and collate them into a batch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.console import say
from workbench.errors import TaskError
from workbench.tasks.example import Example
from workbench.tasks.joining import pair_ids, plain, start_ids

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Pair = tuple[list[int], list[int]]  # tokens of prompt and completion
COMPARED_ROWS = 50  # of a data set, whose tokens are decoded and compared with their text


@dataclass(frozen=True)
class Encoded:
    """Token ids: prompt, completion, end-of-text. The loss is on `ids[prompt_length:]`."""

    ids: tuple[int, ...]
    prompt_length: int

    @property
    def completion_tokens(self) -> int:
        """How many tokens the loss is on, end-of-text included."""
        return len(self.ids) - self.prompt_length


def encode(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, what: str = "Row"
) -> list[Encoded]:
    """Prompt and completion as one text, with the loss on the tokens of the completion; end-of-text is appended.

    No token spans the boundary of the two. A line on stderr tells if the tokens decode to other text than the rows. The
    beginning-of-text token appears only if the tokenizer adds it by itself; end-of-text is not appended to a completion
    that ends in it. Raises TaskError for a completion with end-of-text in its middle and for a row of more than
    `max_length` tokens: a cut-off completion would teach the model to stop in the middle. `what` names the row there.
    """
    prompts, completions = [row.prompt for row in examples], [row.completion for row in examples]
    pairs = pair_ids(prompts, completions, tokenizer)
    end = tokenizer.eos_token_id
    encoded = [Encoded((*before, *ended(after, end)), len(before)) for before, after in pairs]
    faults = {number: fault for number, row in enumerate(encoded, 1) if (fault := _fault(row, tokenizer, max_length))}
    for number, fault in faults.items():
        others = f" {len(faults) - 1:,} more rows cannot be used either." if len(faults) > 1 else ""
        raise TaskError(f"{what} {number} ({examples[number - 1].prompt[:30]!r}...): {fault}{others}")
    _tell_end_of_text(pairs, tokenizer, what)
    _tell_what_is_read(examples, pairs, tokenizer, what)
    return encoded


def ended(ids: list[int], end: int) -> list[int]:
    """The tokens with the end-of-text token at their end, once."""
    while ids[-1:] == [end]:
        ids = ids[:-1]
    return [*ids, end]


def _fault(row: Encoded, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str | None:
    """What is wrong with a row's tokens, and what to do, in words; None if nothing is."""
    if not row.prompt_length:
        return "the prompt has no tokens, so that nothing comes before the completion; begin it with a word."
    if tokenizer.eos_token_id in row.ids[row.prompt_length : -1]:
        return (
            f"the completion holds the end-of-text token {tokenizer.eos_token!r} before its end, where every answer "
            "would stop. Remove it and what follows it."
        )
    if len(row.ids) > max_length:
        return f"{len(row.ids)} tokens, but max_length is {max_length}. Shorten the row or raise max_length."
    return None


def _tell_end_of_text(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, what: str) -> None:
    """Say how many rows bring the end-of-text token along."""
    end = tokenizer.eos_token_id
    if given := sum(after[-1:] == [end] for _, after in pairs):
        say(f"{what}s: {given} of {len(pairs)} completions end in {tokenizer.eos_token!r}; it is not added once more.")
    # In a prompt of a chat it may close the turns before; at its end the model would answer after the end.
    inside = [before for before, _ in pairs if end in before[1:]]
    if odd := sum(before[-1] == end or not tokenizer.chat_template for before in inside):
        say(
            f"{what}s: {odd} of {len(pairs)} prompts hold the end-of-text token {tokenizer.eos_token!r}, which the "
            "model reads as the end of a text before the answer. Remove it unless this is meant."
        )


def _tell_what_is_read(
    examples: Sequence[Example], pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, what: str
) -> None:
    """Say, with an example, if tokens decode to another text than their row holds: a space more, a lower-cased name."""
    from transformers import PreTrainedTokenizerBase  # lazily: reading and checking data needs no transformers

    if not isinstance(tokenizer, PreTrainedTokenizerBase):  # a stand-in, which need not decode
        return
    start = len(start_ids(tokenizer))
    unknown = {tokenizer.unk_token_id} - {None, tokenizer.eos_token_id, tokenizer.bos_token_id}
    if odd := [number for number, (before, after) in enumerate(pairs, 1) if unknown & {*before, *after}]:
        say(
            f"{what}s: {len(odd)} of {len(pairs)} hold characters that this tokenizer does not know and reads "
            f"as {tokenizer.unk_token!r}, first row {odd[0]}."
        )
    apart = max(1, len(examples) // COMPARED_ROWS)
    for example, (before, after) in list(zip(examples, pairs, strict=True))[::apart]:
        text = example.prompt + example.completion
        read = plain(tokenizer, [*before[start:], *after])
        if text not in (read, plain(tokenizer, [*before, *after])):
            say(f"{what}s: this tokenizer does not keep texts as written: {text[-60:]!r} is read as {read[-60:]!r}.")
            return


def batches(encoded_count: int, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """`steps` lists of `batch_size` row indices: the rows in a new random order each epoch, cut without remainder.

    It depends on these four numbers alone, so every method sees the same rows in the same order.
    """
    return list(each_batch(encoded_count, batch_size, steps, seed))


def each_batch(encoded_count: int, batch_size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """The same, one by one: the plan of a very long run would fill the memory."""
    if encoded_count < 1 or batch_size < 1:
        raise ValueError(f"At least one row and one row a batch are needed, not {encoded_count} and {batch_size}.")
    generator = random.Random(seed)
    order: list[int] = []
    for _ in range(steps):
        while len(order) < batch_size:
            order += generator.sample(range(encoded_count), encoded_count)
        yield order[:batch_size]
        del order[:batch_size]


def collate(encoded_rows: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """Tensors of int64 for one batch.

    `input_ids` (batch, length), padded on the right, so that under causal attention no token sees the padding; `real`,
    the flat places of the tokens that are no padding, row by row; and, one entry per completion token (end-of-text
    included): `rows`, `columns`, the position whose hidden state predicts the token, and `targets`, the token. The loss
    is then `cross_entropy(head(hidden[rows, columns]), targets)`; index tensors, unlike a boolean mask, have a known
    length, so the step also runs on the meta device.
    """
    import torch  # lazily: reading and checking data needs no torch

    length = max(len(row.ids) for row in encoded_rows)
    where = [(i, t) for i, row in enumerate(encoded_rows) for t in range(row.prompt_length, len(row.ids))]
    return {
        "input_ids": torch.tensor([[*row.ids, *[pad_id] * (length - len(row.ids))] for row in encoded_rows]),
        "real": torch.tensor([i * length + t for i, row in enumerate(encoded_rows) for t in range(len(row.ids))]),
        "rows": torch.tensor([i for i, _ in where]),
        "columns": torch.tensor([t - 1 for _, t in where]),
        "targets": torch.tensor([encoded_rows[i].ids[t] for i, t in where]),
    }
