"""Prompt and completion as one text: token ids that decode to their plain concatenation, and where the prompt ends.

A completion tokenized by itself is a text of its own to many tokenizers: they put a space in front of it
(SentencePiece's mark, `add_prefix_space`) or take a word's ending for a word (WordPiece).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXTS = ("\n", "a", ".", "0", "_", "é")  # after one of these a completion is tokenized as what goes on with a text
CONTEXT_TOKENS = 4  # the most that one of them takes: a mark, and each byte of a letter


def start_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-text token, if the tokenizer adds one by itself."""
    added = tokenizer("", add_special_tokens=True)["input_ids"]
    return added[:1] if added and added[0] == tokenizer.bos_token_id else []


def token_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The tokens of each text by itself, the same ones at each call, without those that the tokenizer adds."""
    return [list(ids) for ids in _steady(tokenizer)(list(texts), add_special_tokens=False)["input_ids"]]


def prompt_ids(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A prompt's tokens after the beginning-of-text token, as `pair_ids` gives them."""
    return _begun(start_ids(tokenizer), token_ids([prompt], tokenizer)[0])


def pair_ids(
    prompts: Sequence[str], completions: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[int], list[int]]]:
    """For each pair the tokens of the prompt, after the beginning-of-text token, and those of the completion.

    The prompt's are the same whatever follows. The completion's are those of a continuation, without end-of-text:
    those of the completion by itself where the two then read as the concatenated text does.
    """
    tokenizer, start = _steady(tokenizer), start_ids(tokenizer)
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    parts = [token_ids(each, tokenizer) for each in (prompts, completions, texts)]
    return [
        (_begun(start, before), _continued(tokenizer, completion, before, alone, whole))
        for completion, before, alone, whole in zip(completions, *parts, strict=True)
    ]


def plain(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """What the tokens say, special ones included and nothing tidied."""
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _begun(start: list[int], ids: list[int]) -> list[int]:
    """The tokens after those of the start, which are not repeated where the text has them already."""
    return ids if ids[: len(start)] == start else [*start, *ids]


def _continued(
    tokenizer: PreTrainedTokenizerBase, completion: str, before: list[int], alone: list[int], whole: list[int]
) -> list[int]:
    """The tokens of `completion` after the tokens `before`, such that both decode to what the `whole` decodes to.

    `alone` where they do that, or where nothing does: `encode` then says what is read.
    """
    if before + alone == whole:  # nearly always
        return alone
    wanted = plain(tokenizer, whole)
    if plain(tokenizer, before + alone) == wanted:
        return alone
    if whole[: len(before)] == before and len(whole) > len(before):
        return whole[len(before) :]
    for context in CONTEXTS:
        (ids,) = token_ids([context + completion], tokenizer)
        for end in range(1, CONTEXT_TOKENS + 1):
            if ids[end:] and plain(tokenizer, before + ids[end:]) == wanted:
                return ids[end:]
    return alone


def _steady(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, or a copy that drops no merges at random: scores would differ from one time to the next."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if not getattr(model, "dropout", None):
        return tokenizer
    steady = copy.deepcopy(tokenizer)
    steady.backend_tokenizer.model.dropout = None
    return steady
