"""Tasks: pairs of prompt and completion to train and to test on, from data/ or from a person's own file.

The path of the data: `load_task` -> `Task` of `Example`s -> `encode` -> `batches` picks rows -> `collate` -> tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.errors import TaskError
from workbench.paths import DATA
from workbench.tasks.files import BUILT_IN, SUFFIXES, Example, read_file, read_folder, read_hub

LABELLED = ("tickets",)  # built-in tasks of classification
RECALLED = ("facts",)  # built-in tasks whose test rows are the training rows: they measure recall
FACT_DIGITS = 4  # of a code in the task `facts`
SWEEP_FACTS = 96  # of the 192 facts, which lesson 05 and the stored sweeps learn, so that a sweep takes minutes


@dataclass(frozen=True)
class Task:
    """Examples to train on and to test on. `labels` lists the possible completions of a classification task."""

    name: str
    train: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...] | None
    source: str  # the path or Hub id that was read
    sha256: str  # of all examples in order, so that a record says exactly which data it used

    def head(self, rows: int) -> Task:
        """The same task with only the first rows of train and of test. Raises TaskError for less than one."""
        if rows < 1:
            raise TaskError(f"head({rows}) leaves no rows; keep at least 1.")
        train, test = self.train[:rows], self.test[:rows]
        return replace(self, train=train, test=test, sha256=_digest(train, test))

    def preview(self, n: int = 2) -> str:
        """The first `n` test examples as text, prompt and completion marked apart."""
        return "\n\n".join(f"{row.prompt}⟶{row.completion}" for row in self.test[:n])


def _hold_out(examples: list[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Splits at random by distinct prompt, so that a repeated prompt stays on one side."""
    if not 0 < fraction < 1:
        raise TaskError(f"test_fraction must lie between 0 and 1, not {fraction}.")
    prompts = list(dict.fromkeys(row.prompt for row in examples))
    if len(prompts) < 2:
        raise TaskError("At least two different prompts are needed to split the file into train and test.")
    random.Random(seed).shuffle(prompts)
    held = set(prompts[: min(len(prompts) - 1, max(1, round(fraction * len(prompts))))])
    return [row for row in examples if row.prompt not in held], [row for row in examples if row.prompt in held]


def _check_apart(train: Sequence[Example], test: Sequence[Example], where: str) -> None:
    known = {row.prompt: number for number, row in enumerate(train, start=1)}
    for number, row in enumerate(test, start=1):
        if row.prompt in known:
            raise TaskError(
                f"{where}: test row {number} has the prompt of train row {known[row.prompt]}, "
                "so the test would measure memory. Remove one of them."
            )


def _digest(*splits: Sequence[Example]) -> str:
    content = json.dumps([[[row.prompt, row.completion] for row in split] for split in splits], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


def load_task(
    name_or_path: str | Path,
    prompt: str = "prompt",
    completion: str = "completion",
    test_fraction: float = 0.2,
    seed: int = 0,
    labelled: bool = False,
    subset: str | None = None,
) -> Task:
    """Loads a built-in task ("orders", "tickets", "facts", "protocol"), a .jsonl or .csv file (UTF-8), a folder with
    train and, optionally, test files, or a dataset of the Hugging Face Hub (`subset`: its configuration).

    `prompt` and `completion` name the columns. Without a test file, `test_fraction` of the prompts is held out, drawn
    with `seed`. `labelled=True` makes the distinct completions the task's labels, for label accuracy.
    Raises TaskError (a ValueError) that names file, row and fault.
    """
    if not isinstance(name_or_path, str | Path):
        raise TaskError(f"{name_or_path!r} must be a task's name or a path, e.g. 'orders' or 'mine.csv'.")
    name = str(name_or_path)
    path = DATA / "tasks" / name if name in BUILT_IN else Path(name_or_path).expanduser()
    if path.is_dir():
        train, test = read_folder(path, prompt, completion)
    elif path.is_file():
        train, test = read_file(path, prompt, completion), None
    elif name in BUILT_IN or path.suffix in SUFFIXES or path.is_absolute():
        raise TaskError(f"{path}: no such file or folder.")
    else:
        train, test = read_hub(name, subset, prompt, completion)
    if test is None:
        train, test = _hold_out(train, test_fraction, seed)
    if name not in RECALLED:
        _check_apart(train, test, name)
    distinct = tuple(sorted({row.completion.strip() for row in [*train, *test]}))
    labels = distinct if labelled or name in LABELLED else None
    shown = path.stem if path.exists() else name
    return Task(shown, tuple(train), tuple(test), labels, str(name_or_path), _digest(train, test))


# --- tokens -----------------------------------------------------------------------------------------------------


def information_bits(count: int) -> float:
    """Bits needed to store `count` independent, uniform codes of FACT_DIGITS digits: count * log2(10^FACT_DIGITS)."""
    return count * FACT_DIGITS * math.log2(10)
