"""What a person should know about their data before anything trains: each finding is a sentence with row numbers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from workbench.tasks.example import Example
from workbench.tasks.joining import pair_ids
from workbench.tasks.reading.contents import Contents
from workbench.tasks.reading.layouts import counted_rows
from workbench.tasks.splitting import near_duplicates
from workbench.tasks.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FAR, LONG = 20, 1000  # a row is far too long with 20 times the characters of the middle one, and at least 1,000
SMALL_GAP = 0.05  # a difference of scores that a person would care about: 5 points
DISAGREE = 0.2  # the share of rows that only one of two methods gets right, assumed
CERTAIN, SEEN = 1.96, 0.84  # quantiles of the normal distribution: two-sided 5 %, and seen in 8 of 10 tries


def rows_needed(gap: float = SMALL_GAP, disagree: float = DISAGREE) -> int:
    """Test rows with which two methods that differ by `gap` are told apart, row by row, in 8 of 10 tries.

    The sample size of McNemar's test (Connor, 1987). gap, disagree: shares; the methods disagree on at least `gap` of
    the rows.
    """
    apart = max(gap, disagree)
    return math.ceil(((CERTAIN * math.sqrt(apart) + SEEN * math.sqrt(apart - gap**2)) / gap) ** 2)


def visible_gap(rows: int, disagree: float = DISAGREE) -> float:
    """The smallest difference, a share, that so many test rows show in 8 of 10 tries: `rows_needed` the other way."""
    if rows <= CERTAIN**2:
        return 1.0
    root = math.sqrt(rows + SEEN**2 - CERTAIN**2)
    gap = math.sqrt(disagree) * (CERTAIN * math.sqrt(rows) + SEEN * root) / (rows + SEEN**2)
    if gap <= disagree:
        return gap
    return 1 - ((math.sqrt(rows) * root - CERTAIN * SEEN) / (rows + SEEN**2)) ** 2  # they differ wherever they disagree


def findings(
    contents: Contents, task: Task, tokenizer: PreTrainedTokenizerBase | None = None, max_length: int = 512
) -> list[str]:
    """Sentences on rows that are repeated, contradict one another, teach nothing, or are too long or too few.

    Faults with which no row can be read are exceptions of `load_task`; these here can be meant. tokenizer: also rows
    that do not fit into `max_length` tokens, and completions with end-of-text inside.
    """
    sides = [("row" if contents.test is None else "train row", contents.train, contents.train_rows)]
    if contents.test is not None:
        sides.append(("test row", contents.test, contents.test_rows))
    found: list[str] = []
    for what, examples, numbers in sides:
        numbers = numbers or list(range(1, len(examples) + 1))
        checked = _of_rows(examples) + (_of_tokens(examples, tokenizer, max_length) if tokenizer else [])
        for sentence, places in checked:
            found.append(f"{sentence}: {counted_rows([numbers[place] for place in places], what)}.")
    found += _one_answer(task)
    found += _across(contents)
    return [*found, *_too_few(task)]


def _of_rows(examples: Sequence[Example]) -> list[tuple[str, list[int]]]:
    by_pair, by_prompt = defaultdict[Example, list[int]](list), defaultdict[str, list[int]](list)
    for place, row in enumerate(examples):
        by_pair[row].append(place)
        by_prompt[row.prompt].append(place)
    apart = [places for places in by_prompt.values() if len({examples[place].completion for place in places}) > 1]
    joined = [p for p, row in enumerate(examples) if not (row.prompt[-1].isspace() or row.completion[0].isspace())]
    middle = median(len(row.prompt + row.completion) for row in examples)
    far = max(FAR * middle, LONG)
    checked = [
        ("Prompt and completion are the same", [p for p, r in enumerate(examples) if _same(r)]),
        (f"Nothing divides prompt and completion{_joint(joined, examples)}", joined),
        ("Repeats an earlier row word for word", [place for places in by_pair.values() for place in places[1:]]),
        ("The same prompt has other completions", [place for places in apart for place in places]),
        (
            f"More than {far:,.0f} characters, {FAR} times those of the middle row or more",
            [place for place, row in enumerate(examples) if len(row.prompt + row.completion) > far],
        ),
    ]
    return [(sentence, sorted(places)) for sentence, places in checked if places]


def _joint(places: Sequence[int], examples: Sequence[Example]) -> str:
    """What the first such row reads like, and what to do."""
    if not places:
        return ""
    row = examples[places[0]]
    return f" ({row.prompt[-15:] + row.completion[:15]!r}; begin the completion with a space)"


def _same(row: Example) -> bool:
    return row.prompt.strip() == row.completion.strip()


def _of_tokens(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[tuple[str, list[int]]]:
    pairs = pair_ids([row.prompt for row in examples], [row.completion for row in examples], tokenizer)
    end, sizes = tokenizer.eos_token_id, [len(before) + len(after) + 1 for before, after in pairs]  # and end-of-text
    long = [place for place, size in enumerate(sizes) if size > max_length]
    cut = [place for place in long if len(pairs[place][0]) >= max_length]
    inside = [place for place, (_, after) in enumerate(pairs) if end in after[:-1]]
    checked = [
        (f"Longer than max_length={max_length} tokens (the longest has {max(sizes, default=0):,})", long),
        (f"The prompt alone fills max_length={max_length}, so the completion would be cut away", cut),
        (f"The completion holds end-of-text {tokenizer.eos_token!r} before its end, where answers would stop", inside),
    ]
    return [(sentence, places) for sentence, places in checked if places]


def _one_answer(task: Task) -> list[str]:
    completions = {row.completion.strip() for row in (*task.train, *task.test)}
    if len(completions) > 1:
        return []
    return [f"All completions are {completions.pop()[:40]!r}: a model can learn them without reading the prompt."]


def _across(contents: Contents) -> list[str]:
    """Near-duplicates of training rows among the test rows that came with the data."""
    if contents.test is None:
        return []
    count = len(contents.train)
    pairs = near_duplicates([row.prompt for row in (*contents.train, *contents.test)])
    across = [pair for pair in pairs if min(pair) < count <= max(pair)]
    if not across:
        return []
    held = {max(pair) for pair in across}
    first = min(across, key=max)
    return [
        f"{len(held):,} of {len(contents.test):,} test rows are nearly the same as a train row, first test row "
        f"{max(first) - count + 1} and train row {min(first) + 1}: the test may measure memory."
    ]


def _too_few(task: Task) -> list[str]:
    needed, have = rows_needed(), len(task.test)
    if have >= needed:
        return []
    return [
        f"{have:,} test rows show a difference of {100 * visible_gap(have):.0f} points between two methods in 8 of 10 "
        f"tries; for {100 * SMALL_GAP:.0f} points about {needed:,} test rows are needed (if the two disagree on "
        f"{DISAGREE:.0%} of the rows)."
    ]
