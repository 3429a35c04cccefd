"""Read prompts and completions from JSONL and CSV files, folders and the Hub, with every row checked."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.console import first_line
from workbench.errors import TaskError

BUILT_IN = ("orders", "tickets", "facts", "protocol")
SUFFIXES = (".jsonl", ".csv")


@dataclass(frozen=True)
class Example:
    """One pair: the model reads `prompt` and learns to write `completion`. Both are joined as they are."""

    prompt: str
    completion: str


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


def read_file(path: Path, prompt: str, completion: str) -> list[Example]:
    if path.suffix not in SUFFIXES:
        raise TaskError(f"{path}: {path.suffix or 'no'} file type. Give a {' or '.join(SUFFIXES)} file.")
    rows = _jsonl_rows(path) if path.suffix == ".jsonl" else _csv_rows(path)
    return _examples(rows, str(path), prompt, completion)


def _split_file(folder: Path, split: str) -> Path | None:
    found = [folder / f"{split}{suffix}" for suffix in SUFFIXES if (folder / f"{split}{suffix}").is_file()]
    if len(found) > 1:
        raise TaskError(f"{folder}: both {found[0].name} and {found[1].name}. Keep one of them.")
    return found[0] if found else None


def read_folder(folder: Path, prompt: str, completion: str) -> tuple[list[Example], list[Example] | None]:
    train, test = _split_file(folder, "train"), _split_file(folder, "test")
    if train is None:
        raise TaskError(f"{folder}: no train.jsonl or train.csv in this folder.")
    return read_file(train, prompt, completion), read_file(test, prompt, completion) if test else None


def read_hub(name: str, subset: str | None, prompt: str, completion: str) -> tuple[list[Example], list[Example] | None]:
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
