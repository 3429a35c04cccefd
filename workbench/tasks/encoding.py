"""From examples to tensors: tokenize, choose the rows of each step, and collate them into a batch."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import TaskError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase
from workbench.tasks.files import Example


@dataclass(frozen=True)
class Encoded:
    """Token ids: prompt, completion, end-of-text. The loss is on `ids[prompt_length:]`."""

    ids: tuple[int, ...]
    prompt_length: int

    @property
    def completion_tokens(self) -> int:
        """How many tokens the loss is on, end-of-text included."""
        return len(self.ids) - self.prompt_length


def start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-text token, if the tokenizer adds one by itself."""
    added = tokenizer("", add_special_tokens=True)["input_ids"]
    return added[:1] if added and added[0] == tokenizer.bos_token_id else []


def encode(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, what: str = "Row"
) -> list[Encoded]:
    """Prompt and completion are tokenized apart, so that their boundary is one; end-of-text is appended.

    The beginning-of-text token appears only if the tokenizer adds it by itself. Raises TaskError for a row of more
    than `max_length` tokens: a cut-off completion would teach the model to stop in the middle. `what` names it there.
    """
    prompts = tokenizer([row.prompt for row in examples], add_special_tokens=False)["input_ids"]
    completions = tokenizer([row.completion for row in examples], add_special_tokens=False)["input_ids"]
    start = start_ids(tokenizer)
    encoded = []
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True), start=1):
        ids = (*start, *prompt, *completion, tokenizer.eos_token_id)
        if len(ids) > max_length:
            raise TaskError(
                f"{what} {number} ({examples[number - 1].prompt[:30]!r}...): {len(ids)} tokens, "
                f"but max_length is {max_length}. Shorten the row or raise max_length."
            )
        encoded.append(Encoded(ids, len(start) + len(prompt)))
    return encoded


def batches(encoded_count: int, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """`steps` lists of `batch_size` row indices: the rows in a new random order each epoch, cut without remainder.

    It depends on these four numbers alone, so every method sees the same rows in the same order.
    """
    if encoded_count < 1 or batch_size < 1:
        raise ValueError(f"At least one row and one row a batch are needed, not {encoded_count} and {batch_size}.")
    generator = random.Random(seed)
    epochs = math.ceil(steps * batch_size / encoded_count)
    order = [index for _ in range(epochs) for index in generator.sample(range(encoded_count), encoded_count)]
    return [order[start : start + batch_size] for start in range(0, steps * batch_size, batch_size)]


def collate(encoded_rows: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    """Tensors of int64 for one batch.

    `input_ids` (batch, length), padded on the right, so that under causal attention no token sees the padding; and,
    one entry per completion token (end-of-text included): `rows`, `columns`, the position whose hidden state predicts
    the token, and `targets`, the token. The loss is then `cross_entropy(head(hidden[rows, columns]), targets)`;
    index tensors, unlike a boolean mask, have a known length, so the step also runs on the meta device.
    """
    import torch  # lazily: reading and checking data needs no torch

    length = max(len(row.ids) for row in encoded_rows)
    where = [(i, t) for i, row in enumerate(encoded_rows) for t in range(row.prompt_length, len(row.ids))]
    return {
        "input_ids": torch.tensor([[*row.ids, *[pad_id] * (length - len(row.ids))] for row in encoded_rows]),
        "rows": torch.tensor([i for i, _ in where]),
        "columns": torch.tensor([t - 1 for _, t in where]),
        "targets": torch.tensor([encoded_rows[i].ids[t] for i, t in where]),
    }
