"""Tasks: pairs of prompt and completion, from data/ or from a person's own file, checked, tokenized and batched.

The path of the data: `load_task` -> `Task` of `Example`s -> `encode` -> `batches` picks rows -> `collate` -> tensors.
The loss is taken on completion tokens and on the end-of-text token that follows them, never on the prompt.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import WorkbenchError
from workbench.machine import first_line
from workbench.paths import DATA

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


BUILT_IN = ("orders", "tickets", "facts", "protocol")
SUFFIXES = (".jsonl", ".csv")


class TaskError(WorkbenchError, ValueError):
    """Data that cannot be used: the message names file, row (from 1, a CSV header not counted) and fault."""


@dataclass(frozen=True)
class Example:
    """One pair: the model reads `prompt` and learns to write `completion`. Both are joined as they are."""

    prompt: str
    completion: str


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


@dataclass(frozen=True)
class Encoded:
    """Token ids: prompt, completion, end-of-text. The loss is on `ids[prompt_length:]`."""

    ids: tuple[int, ...]
    prompt_length: int

    @property
    def completion_tokens(self) -> int:
        """How many tokens the loss is on, end-of-text included."""
        return len(self.ids) - self.prompt_length


# --- reading ----------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise TaskError(f"{path}, line {row}: not UTF-8 text. Save the file with UTF-8 encoding.") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(io.StringIO(_read_text(path)), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            message = f"{path}, row {number}: bad JSON ({error.msg} at character {error.pos + 1})."
            raise TaskError(f"{message} Each line must be one object.") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in thousands
            raise TaskError(f"{path}, row {number}: JSON that cannot be read ({first_line(error)}).") from error
        if not isinstance(row, dict):
            raise TaskError(f"{path}, row {number}: a {type(row).__name__}, but each line must be one JSON object.")
        yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict]]:
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        if repeated := [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]:
            raise TaskError(f'{path}: the header names column "{repeated[0]}" twice. Rename one of them.')
        for number, row in enumerate(reader, start=1):
            if None in row:
                raise TaskError(f"{path}, row {number}: more fields than the header has. Quote texts with commas.")
            yield number, row
    except csv.Error as error:
        raise TaskError(f"{path}, line {reader.reader.line_num}: bad CSV ({error}).") from error


def _fault(row: dict, column: str) -> str | None:
    """What is wrong with a row's column, and what to do, in words; None if nothing is."""
    if column not in row:
        remedy = 'Name yours, e.g. load_task(..., prompt="question", completion="answer").'
        return f'no column "{column}" (columns: {", ".join(map(str, row)) or "none"}). {remedy}'
    if not isinstance(text := row[column], str):
        return f'column "{column}" must be text, and holds {"nothing" if text is None else type(text).__name__}.'
    if not text.strip():
        return f'column "{column}" is empty.'
    if half := re.search(r"[\ud800-\udfff]", text):
        return f'column "{column}" holds half a character ({half[0]!a}), as of an emoji cut in two; remove it.'
    return None


def _examples(rows: Iterable[tuple[int, dict]], where: str, prompt: str, completion: str) -> list[Example]:
    """Checks each row and maps the columns; `where` names the file in messages."""
    examples = []
    for number, row in rows:
        if fault := _fault(row, prompt) or _fault(row, completion):
            raise TaskError(f"{where}, row {number}: {fault}")
        examples.append(Example(row[prompt], row[completion]))
    if not examples:
        raise TaskError(f"{where}: no rows.")
    return examples


def _read_file(path: Path, prompt: str, completion: str) -> list[Example]:
    if path.suffix not in SUFFIXES:
        raise TaskError(f"{path}: {path.suffix or 'no'} file type. Give a {' or '.join(SUFFIXES)} file.")
    rows = _jsonl_rows(path) if path.suffix == ".jsonl" else _csv_rows(path)
    return _examples(rows, str(path), prompt, completion)


def _split_file(folder: Path, split: str) -> Path | None:
    found = [folder / f"{split}{suffix}" for suffix in SUFFIXES if (folder / f"{split}{suffix}").is_file()]
    if len(found) > 1:
        raise TaskError(f"{folder}: both {found[0].name} and {found[1].name}. Keep one of them.")
    return found[0] if found else None


def _read_folder(folder: Path, prompt: str, completion: str) -> tuple[list[Example], list[Example] | None]:
    train, test = _split_file(folder, "train"), _split_file(folder, "test")
    if train is None:
        raise TaskError(f"{folder}: no train.jsonl or train.csv in this folder.")
    return _read_file(train, prompt, completion), _read_file(test, prompt, completion) if test else None


def _read_hub(
    name: str, subset: str | None, prompt: str, completion: str
) -> tuple[list[Example], list[Example] | None]:
    import datasets  # lazily: slow to import and needed only here

    try:
        splits = datasets.load_dataset(name, subset)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        # offline, not found, gated, or files that cannot be read, of which only the cause says what is wrong
        unreadable = isinstance(error, datasets.exceptions.DatasetGenerationError)
        told = first_line((unreadable and error.__cause__) or error).rstrip(".")
        raise TaskError(
            f'No built-in task, file or folder is called "{name}", and it could not be read as a Hub dataset: '
            f"{told}. Check the spelling (built in: {', '.join(BUILT_IN)}) and the network."
        ) from error
    if "train" not in splits:
        raise TaskError(f'Hub dataset "{name}": no split "train" (splits: {", ".join(splits)}).')
    wanted = [split for split in ("train", "test") if split in splits]
    parts = [_examples(enumerate(splits[each], 1), f"{name} ({each})", prompt, completion) for each in wanted]
    return parts[0], parts[1] if len(parts) == 2 else None


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
        train, test = _read_folder(path, prompt, completion)
    elif path.is_file():
        train, test = _read_file(path, prompt, completion), None
    elif name in BUILT_IN or path.suffix in SUFFIXES or path.is_absolute():
        raise TaskError(f"{path}: no such file or folder.")
    else:
        train, test = _read_hub(name, subset, prompt, completion)
    if test is None:
        train, test = _hold_out(train, test_fraction, seed)
    if name != "facts":  # there recall of the trained keys is what is measured
        _check_apart(train, test, name)
    named = labelled or name == "tickets"
    labels = tuple(sorted({row.completion.strip() for row in [*train, *test]})) if named else None
    shown = path.stem if path.exists() else name
    return Task(shown, tuple(train), tuple(test), labels, str(name_or_path), _digest(train, test))


# --- tokens -----------------------------------------------------------------------------------------------------


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
