"""Read prompts and completions from JSONL and CSV files, folders and the Hub, with every row checked."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.console import first_line
from workbench.errors import TaskError

SHIPPED = ("orders", "tickets", "facts", "protocol")  # each is a folder of data/tasks
BUILT_IN = (*SHIPPED, "docs")
SUFFIXES = (".jsonl", ".csv")
TEST_SPLITS = ("test", "validation", "valid", "val", "dev", "evaluation", "eval")  # the first that there is, is used
SPLIT_WORD = re.compile("|".join(("training", "train", *TEST_SPLITS)))
DESCRIPTIONS = (".md", ".rst")  # files beside the data that are none
LISTED = 6  # names in one message


@dataclass(frozen=True)
class Example:
    """One pair: the model reads `prompt` and learns to write `completion`. Both are joined as they are."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Contents:
    """What a file, a folder or a Hub dataset holds, and in words what was left unread there.

    test: None without test rows of its own. tested_on: the file or split that they came from.
    """

    train: list[Example]
    test: list[Example] | None
    unread: list[str]
    tested_on: str = ""


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


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def _examples(
    rows: Iterable[tuple[int, dict]], where: str, prompt: str, completion: str
) -> tuple[list[Example], list[str]]:
    """Checks each row and maps the columns; also the columns left over that hold anything. `where` names the file."""
    examples: list[Example] = []
    others: dict[str, None] = {}
    for number, row in rows:
        if fault := _fault(row, prompt) or _fault(row, completion):
            raise TaskError(f"{where}, row {number}: {fault}")
        examples.append(Example(row[prompt], row[completion]))
        others |= {str(name): None for name, value in row.items() if not _is_empty(value)}
    if not examples:
        raise TaskError(f"{where}: no rows.")
    return examples, [name for name in others if name not in (prompt, completion)]


def _read_rows(path: Path, prompt: str, completion: str) -> tuple[list[Example], list[str]]:
    if path.suffix.lower() not in SUFFIXES:
        raise TaskError(f"{path}: {path.suffix or 'no'} file type. Give a {' or '.join(SUFFIXES)} file.")
    rows = _jsonl_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path)
    return _examples(rows, str(path), prompt, completion)


def read_file(path: Path, prompt: str, completion: str) -> Contents:
    """One file, to be split. Its siblings of a train, test or validation set are left unread."""
    examples, columns = _read_rows(path, prompt, completion)
    return Contents(examples, None, _unread(columns, "file", _siblings(path)))


def _siblings(path: Path) -> list[str]:
    """Files beside it whose names differ in the split alone: test.jsonl of train.jsonl, my-val.csv of my-train.csv."""
    pattern = SPLIT_WORD.sub("*", path.stem.lower())
    if "*" not in pattern:
        return []
    try:
        beside = [file for file in path.parent.iterdir() if file.is_file() and not file.samefile(path)]
    except OSError:  # a folder that may not be listed
        return []
    return [file.name for file in beside if SPLIT_WORD.sub("*", file.stem.lower()) == pattern]


def _split_file(folder: Path, split: str) -> Path | None:
    named = [file for file in folder.iterdir() if file.stem.lower() == split and file.suffix.lower() in SUFFIXES]
    found = sorted((file for file in named if file.is_file()), reverse=True)
    if len(found) > 1:
        raise TaskError(f"{folder}: both {found[0].name} and {found[1].name}. Keep one of them.")
    return found[0] if found else None


def read_folder(folder: Path, prompt: str, completion: str) -> Contents:
    """The files of train and test rows in a folder; validation rows are those of the test where there is no other."""
    train = _split_file(folder, "train")
    if train is None:
        raise TaskError(f"{folder}: no train.jsonl or train.csv in this folder.")
    tested = next((file for split in TEST_SPLITS if (file := _split_file(folder, split))), None)
    examples, columns = _read_rows(train, prompt, completion)
    test, of_test = _read_rows(tested, prompt, completion) if tested else (None, [])
    used = [file.name for file in (train, tested) if file]
    others = [file for file in sorted(folder.iterdir()) if file.name not in used and not file.name.startswith(".")]
    names = [file.name for file in others if file.suffix.lower() not in DESCRIPTIONS]
    unread = _unread(list(dict.fromkeys([*columns, *of_test])), "file", names)
    return Contents(examples, test, unread, tested.name if tested else "")


def read_hub(name: str, subset: str | None, prompt: str, completion: str) -> Contents:
    """A data set of the Hub. Raises TaskError whatever goes wrong in the library that reads it."""
    import datasets  # lazily: slow to import and needed only here
    from datasets import packaged_modules

    if (
        name in packaged_modules._PACKAGED_DATASETS_MODULES
    ):  # the library would read all files of this kind below the current folder
        raise TaskError(
            f'No built-in task, file, folder or Hub dataset is called "{name}". Give the path of your file.'
        )
    try:
        splits = datasets.load_dataset(name, subset)
        return _hub_contents(name, splits, prompt, completion)
    except TaskError:
        raise
    except Exception as error:
        # offline, not found, gated, or files that cannot be read, of which only the cause says what is wrong
        unreadable = isinstance(error, datasets.exceptions.DatasetGenerationError)
        told = shortened(first_line((unreadable and error.__cause__) or error).rstrip("."), 300)
        raise TaskError(
            f'No built-in task, file or folder is called "{shortened(name)}", and it could not be read as a Hub '
            f"dataset: {told}. Check the spelling (built in: {', '.join(BUILT_IN)}) and the network."
        ) from error


def _hub_contents(name: str, splits: Mapping[str, Iterable[dict]], prompt: str, completion: str) -> Contents:
    if "train" not in splits:
        raise TaskError(f'Hub dataset "{name}": no split "train" (splits: {", ".join(splits)}).')
    used = ["train", *[split for split in TEST_SPLITS if split in splits][:1]]
    parts = [_examples(enumerate(splits[each], 1), f"{name} ({each})", prompt, completion) for each in used]
    columns = list(dict.fromkeys(column for _, columns in parts for column in columns))
    unread = _unread(columns, "split", [split for split in splits if split not in used])
    return Contents(parts[0][0], parts[1][0] if parts[1:] else None, unread, "".join(used[1:]))


def _unread(columns: Sequence[str], kind: str, others: Sequence[str]) -> list[str]:
    """What is left unread, in words: columns, and files or splits."""
    return [f"{word} {_listed(names)}" for word, names in (("column", columns), (kind, others)) if names]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(f'"{name}"' for name in names[:LISTED]) + more


def shortened(text: str, length: int = 120) -> str:
    """A name or a message of any length, for a message."""
    return text if len(text) <= length else f"{text[: length - 20]}... ({len(text):,} characters)"
