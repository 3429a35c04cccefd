"""Tasks: pairs of prompt and completion to train and to test on, from data/ or from a person's own file.

The path of the data: `load_task` -> `Task` of `Example`s -> `encode` -> `batches` picks rows -> `collate` -> tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.console import first_line, say
from workbench.errors import TaskError
from workbench.paths import DATA
from workbench.tasks import docs
from workbench.tasks.files import (
    BUILT_IN,
    SHIPPED,
    SUFFIXES,
    Contents,
    Example,
    read_file,
    read_folder,
    read_hub,
    shortened,
)

LABELLED = ("tickets", "docs")  # built-in tasks of classification
RECALLED = ("facts",)  # built-in tasks whose test rows are the training rows: they measure recall
TEST_FRACTION = 0.2  # of the prompts of data without test rows
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


def _hold_out(examples: list[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Splits at random by distinct prompt, so that a repeated prompt, however spaced, stays on one side."""
    if not 0 < fraction < 1:
        raise TaskError(f"test_fraction must lie between 0 and 1, not {fraction}.")
    prompts = list(dict.fromkeys(_alike(row.prompt) for row in examples))
    if len(prompts) < 2:
        raise TaskError("At least two different prompts are needed to split the file into train and test.")
    random.Random(seed).shuffle(prompts)
    held = set(prompts[: min(len(prompts) - 1, max(1, round(fraction * len(prompts))))])
    sides = {False: list[Example](), True: list[Example]()}
    for row in examples:
        sides[_alike(row.prompt) in held].append(row)
    return sides[False], sides[True]


def _alike(prompt: str) -> str:
    """The prompt without case, spaces, and Unicode's several ways to write a letter."""
    return "".join(unicodedata.normalize("NFC", prompt).casefold().split())


def _check_apart(train: Sequence[Example], test: Sequence[Example], where: str) -> None:
    """Raise TaskError for a prompt on both sides; say how many differ in case or spaces alone."""
    known = {row.prompt: number for number, row in enumerate(train, start=1)}
    for number, row in enumerate(test, start=1):
        if row.prompt in known:
            raise TaskError(
                f"{where}: test row {number} has the prompt of train row {known[row.prompt]}, "
                "so the test would measure memory. Remove one of them."
            )
    similar = {_alike(row.prompt): number for number, row in enumerate(train, start=1)}
    pairs = [(n, similar[form]) for n, row in enumerate(test, start=1) if (form := _alike(row.prompt)) in similar]
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
    prompt: str = "prompt",
    completion: str = "completion",
    test_fraction: float = TEST_FRACTION,
    seed: int = 0,
    labelled: bool = False,
    subset: str | None = None,
) -> Task:
    """Loads a built-in task ("orders", "tickets", "facts", "protocol", "docs"), a .jsonl or .csv file (UTF-8), a folder
    with train and, optionally, test files, or a dataset of the Hugging Face Hub (`subset`: its configuration).

    `prompt` and `completion` name the columns. Validation rows are the test where there are no test rows; without
    either, `test_fraction` of the prompts is held out, drawn with `seed`. A line on stderr names the columns, files and
    splits left unread. `labelled=True` makes the distinct completions the task's labels, for label accuracy.
    Raises TaskError (a ValueError) that names file, row and fault.
    """
    if not isinstance(name_or_path, str | Path) or not str(name_or_path).strip():
        raise TaskError(f"{name_or_path!r} must be a task's name or a path, e.g. 'orders' or 'mine.csv'.")
    name = str(name_or_path)
    path = DATA / "tasks" / name if name in SHIPPED else _expanded(name)
    try:
        found = _read(name, path, prompt, completion, subset)
    except OSError as error:
        why = "you may not read it" if isinstance(error, PermissionError) else error.strerror or first_line(error)
        raise TaskError(f"{shortened(name)} cannot be read: {why}. Check the path and its permissions.") from error
    _tell_unread(name, found, test_fraction)
    train, test = found.train, found.test
    if test is None:
        train, test = _hold_out(train, test_fraction, seed)
    if name not in RECALLED:
        _check_apart(train, test, name)
    distinct = tuple(sorted({row.completion.strip() for row in [*train, *test]}))
    labels = distinct if labelled or name in LABELLED else None
    shown = path.stem if path.exists() and name not in BUILT_IN else name
    source = docs.versions() if name == docs.NAME else str(name_or_path)
    return Task(shown, tuple(train), tuple(test), labels, source, _digest(train, test))


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:  # an unknown ~user, or an account without a home
        raise TaskError(f"{shortened(name)}: its ~ names no home folder here. Write the path in full.") from error


def _read(name: str, path: Path, prompt: str, completion: str, subset: str | None) -> Contents:
    local = path.is_dir() or path.is_file()
    if (local or name in BUILT_IN) and subset is not None:
        raise TaskError(f"subset={subset!r} is for Hub datasets, and {name} is none. Leave it out.")
    if name == docs.NAME:
        return docs.read_docs()
    if local:
        return read_folder(path, prompt, completion) if path.is_dir() else read_file(path, prompt, completion)
    if name in BUILT_IN or path.suffix.lower() in SUFFIXES or path.is_absolute():
        raise TaskError(f"{shortened(str(path))}: no such file or folder.")
    return read_hub(name, subset, prompt, completion)


def _tell_unread(name: str, found: Contents, test_fraction: float) -> None:
    """One line about what is not read, if anything, and about validation rows that serve as the test."""
    words = []
    if found.tested_on and not found.tested_on.startswith("test"):
        words.append(f'"{found.tested_on}" holds the test rows')
    if found.unread:
        words.append(f"left unread: {'; '.join(found.unread)}")
    if found.test is not None and test_fraction != TEST_FRACTION:
        words.append("test_fraction is not used, since there are test rows")
    if words:
        advice = " What the model should read belongs into the prompt." if "column" in "".join(found.unread) else ""
        say(f"{name}: {'; '.join(words)}.{advice}")


def information_bits(count: int) -> float:
    """Bits needed to store `count` independent, uniform codes of FACT_DIGITS digits: count * log2(10^FACT_DIGITS)."""
    return count * FACT_DIGITS * math.log2(10)
