"""Tasks: pairs of prompt and completion to train and to test on, from data/ or from a person's own file.

The path of the data: `load_task` -> `Task` of `Example`s -> `encode` -> `batches` picks rows -> `collate` -> tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.console import say
from workbench.errors import TaskError
from workbench.paths import DATA
from workbench.tasks import docs
from workbench.tasks.example import BUILT_IN, SHIPPED, Example
from workbench.tasks.reading.contents import Contents, Mapping, read_contents
from workbench.tasks.reading.files import shortened
from workbench.tasks.splitting import hold_out, normal_form

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABELLED = ("tickets", "docs")  # built-in tasks of classification
RECALLED = ("facts",)  # built-in tasks whose test rows are the training rows: they measure recall
TEST_FRACTION = 0.2  # of the rows of data without test rows
FACT_DIGITS = 4  # of a code in the task `facts`
LIVE_ROWS = 240  # test rows that lessons score: the first ones, a fair sample of all, which the stored study scores too
SWEEP_FACTS = 96  # of the 192 facts, which lesson 05 and the stored sweeps learn, so that a sweep takes minutes


@dataclass(frozen=True)
class Task:
    """Examples to train on and to test on. `labels` lists the possible completions of a classification task."""

    name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...] | None
    source: str  # the path or Hub id that was read; for `docs`, the versions of the packages
    sha256: str  # of all examples in order, so that a record says exactly which data it used

    def head(self, rows: int) -> Task:
        """The same task with only the first rows of train and of test. Raises TaskError for less than one."""
        if rows < 1:
            raise TaskError(f"head({rows}) leaves no rows; keep at least 1.")
        train, test = self.train[:rows], self.test[:rows]
        return replace(self, train=train, test=test, sha256=_digest(train, test))

    @property
    def test_sha256(self) -> str:
        """Of the test rows in order, whatever the training rows are."""
        return _digest(self.test)

    def preview(self, n: int = 2) -> str:
        """The first `n` test examples as text, prompt and completion marked apart."""
        return "\n\n".join(f"{row.prompt}⟶{row.completion}" for row in self.test[:n])


def _check_apart(train: Sequence[Example], test: Sequence[Example], where: str) -> None:
    """Raise TaskError for a prompt on both sides; say how many differ in case or spaces alone."""
    known = {row.prompt: number for number, row in enumerate(train, start=1)}
    if both := [(number, known[row.prompt]) for number, row in enumerate(test, start=1) if row.prompt in known]:
        more = f" The same holds for {len(both) - 1:,} more of the {len(test):,} test rows." if both[1:] else ""
        raise TaskError(
            f"{where}: test row {both[0][0]} has the prompt of train row {both[0][1]}, "
            f"so the test would measure memory. Remove one of them.{more}"
        )
    similar = {normal_form(row.prompt): number for number, row in enumerate(train, start=1)}
    pairs = [(n, similar[form]) for n, row in enumerate(test, start=1) if (form := normal_form(row.prompt)) in similar]
    if pairs:
        say(
            f"{where}: {len(pairs)} of {len(test)} test prompts differ from a train prompt in case or spaces alone, "
            f"first test row {pairs[0][0]} from train row {pairs[0][1]}; the test may measure memory."
        )


def _digest(*splits: Sequence[Example]) -> str:
    content = json.dumps([[[row.prompt, row.completion] for row in split] for split in splits], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


def load_task(
    name_or_path: str | Path,
    prompt: str | None = None,
    completion: str | None = None,
    test_fraction: float = TEST_FRACTION,
    seed: int = 0,
    labelled: bool = False,
    subset: str | None = None,
    chat: str | PreTrainedTokenizerBase | None = None,
    label_names: Sequence[str] | None = None,
) -> Task:
    """Loads a built-in task ("orders", "tickets", "facts", "protocol", "docs"), a file (.jsonl, .json, .csv, .tsv,
    .parquet, also with .gz), a folder of them, a folder that `datasets` saved, or a dataset of the Hugging Face Hub
    (`subset`: its configuration).

    The columns are found by their names: prompt and completion; instruction, input and output (Alpaca); chats in
    `messages` or `conversations`, each answer a row of its own; a text and its label. `prompt` and `completion` name
    others: a column, or a text with "{column}" in it. `chat`: how chats become text, "plain" or a tokenizer with a chat
    template. `label_names`: for labels that are numbers from 0. `labelled=True` makes the distinct completions the
    task's labels, for label accuracy, as a column called label does by itself.
    Validation rows are the test where there are no test rows; without either, `test_fraction` of the rows is held out,
    drawn with `seed`, near-duplicates and the answers of one chat together. A line on stderr says how the file was read
    and names the columns, files and splits left unread.
    Raises TaskError (a ValueError) that names file, row and fault.
    """
    mapping = Mapping(prompt, completion, label_names, chat)
    name, contents = find_contents(name_or_path, mapping, subset)
    _tell_reading(name, contents, test_fraction)
    return as_task(name, contents, test_fraction, seed, labelled)


def find_contents(name_or_path: str | Path, mapping: Mapping, subset: str | None = None) -> tuple[str, Contents]:
    """The name as text, and what was found there. Raises TaskError as `load_task` does."""
    if not isinstance(name_or_path, str | Path) or not str(name_or_path).strip():
        raise TaskError(f"{name_or_path!r} must be a task's name or a path, e.g. 'orders' or 'mine.csv'.")
    name = str(name_or_path)
    if name in BUILT_IN and subset is not None:
        raise TaskError(f"subset={subset!r} is for Hub datasets, and {name} is none. Leave it out.")
    if name == docs.NAME:
        return name, docs.read_docs()
    path = DATA / "tasks" / name if name in SHIPPED else _expanded(name)
    return name, read_contents(name, path, mapping, subset)


def as_task(name: str, contents: Contents, test_fraction: float, seed: int, labelled: bool) -> Task:
    """The task, its test rows held out of the training rows where it has none."""
    train, test = contents.train, contents.test
    if test is None:
        places = hold_out([row.prompt for row in train], contents.train_rows, test_fraction, seed)
        train, test = ([contents.train[place] for place in side] for side in places)
    if name not in RECALLED:
        _check_apart(train, test, name)
    labels = _labels(name, contents, [*train, *test], labelled)
    of_disk = name not in BUILT_IN and _expanded(name).exists()
    shown = Path(_expanded(name).name.removesuffix(".gz")).stem if of_disk else name
    source = docs.versions() if name == docs.NAME else name
    return Task(shown, tuple(train), tuple(test), labels, source, _digest(train, test))


def _labels(name: str, contents: Contents, rows: Sequence[Example], labelled: bool) -> tuple[str, ...] | None:
    """The distinct completions of a task of labels. Raises TaskError if there is only one."""
    if not (labelled or name in LABELLED or (contents.layout and contents.layout.label)):
        return None
    labels = tuple(sorted({row.completion.strip() for row in rows}))
    if len(labels) < 2:
        raise TaskError(
            f"{name}: all {len(rows):,} rows have the label {labels[0]!r}, so there is nothing to tell apart. "
            "Give rows of two labels at least."
        )
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(normal_form(label), []).append(label)
    if same := next((own for own in alike.values() if own[1:]), None):
        say(f"{name}: the labels {same[0]!r} and {same[1]!r} differ in case or spaces alone, and count as two.")
    return labels


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # an unknown ~user, or an account without a home
        raise TaskError(f"{shortened(name)}: its ~ names no home folder here. Write the path in full.") from error


def _tell_reading(name: str, contents: Contents, test_fraction: float) -> None:
    """One line about how it was read, if not plainly, what was not read, and which rows serve as the test."""
    words = list(contents.notes)
    if contents.layout and not contents.layout.as_it_is:
        words.insert(0, f"read as {contents.layout.kind}")
    if contents.tested_on and not contents.tested_on.startswith("test"):
        words.append(f'"{contents.tested_on}" holds the test rows')
    if contents.unread:
        words.append(f"left unread: {'; '.join(contents.unread)}")
    if contents.test is not None and test_fraction != TEST_FRACTION:
        words.append("test_fraction is not used, since there are test rows")
    if words:
        columns = "column" in "".join(contents.unread)
        advice = " What the model should read belongs into the prompt." if columns else ""
        say(f"{name}: {'; '.join(words)}.{advice}")


def information_bits(count: int) -> float:
    """Bits needed to store `count` independent, uniform codes of FACT_DIGITS digits: count * log2(10^FACT_DIGITS)."""
    return count * FACT_DIGITS * math.log2(10)
