"""Find the rows of train and test: in a file, a folder, a data set that `datasets` saved, or one of the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.console import first_line
from workbench.errors import TaskError
from workbench.tasks.example import BUILT_IN
from workbench.tasks.reading.tables import READERS, Table, kind_of, read_table, rows_of

SUFFIXES = (*READERS, ".gz")
TEST_SPLITS = ("test", "validation", "valid", "val", "dev", "evaluation", "eval")  # the first that there is, is used
SPLIT_WORD = re.compile("|".join(("training", "train", *TEST_SPLITS)))
PART = re.compile(r"-(\d+)-of-(\d+)$")  # of the name of a file that is one of several of a split
HUB_DIGITS = 5  # of the number of a part, which the Hub counts from 00000
MOST_PARTS = 10_000  # that are looked for
DESCRIPTIONS = (".md", ".rst")  # files beside the data that are none
SAVED = ("dataset_dict.json", "state.json")  # which `save_to_disk` of datasets leaves in its folder
LISTED = 6  # names in one message


@dataclass(frozen=True)
class Found:
    """The rows of a file, a folder or a data set, and the files or splits, in words, that are left unread.

    test: None without test rows of its own. tested_on: the file or split that they came from.
    """

    train: Table
    test: Table | None
    unread: list[str]
    tested_on: str = ""


def read_file(path: Path) -> Found:
    """One file, to be split. Its siblings of a train, test or validation set are left unread."""
    return Found(read_table(path), None, _unread("file", _siblings(path)))


def _siblings(path: Path) -> list[str]:
    """Files beside it whose names differ in the split or the part alone: test.jsonl or train-2-of-3.jsonl."""
    pattern = _pattern(path)
    if pattern == _stem(path):
        return []
    try:
        beside = [file for file in path.parent.iterdir() if file.is_file() and not file.samefile(path)]
    except OSError:  # a folder that may not be listed
        return []
    return [file.name for file in beside if _pattern(file) == pattern]


def _pattern(path: Path) -> str:
    """The name without what says the format, the split and the part."""
    return SPLIT_WORD.sub("*", PART.sub("-*", _stem(path)))


def _stem(path: Path) -> str:
    """The name without what says the format, in lower case."""
    name = path.name.lower().removesuffix(".gz")
    return name.removesuffix(Path(name).suffix)


def read_folder(folder: Path) -> Found:
    """The rows of a folder.

    What `datasets` saved is read as it is. Else files called train hold the training rows, and those called test, or
    validation, the test rows; without such names all files that can be read together are one data set, to be split.
    """
    if any((folder / name).is_file() for name in SAVED):
        return _saved(folder)
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    data = [file for file in files if file.is_file() and kind_of(file) in READERS]
    splits = {split: _of_split(folder, data, split) for split in ("train", *TEST_SPLITS)}
    if not data:
        below = dict.fromkeys(file.parent.name for file in sorted(folder.glob("*/*")) if kind_of(file) in READERS)
        remedy = f" Its folders {listed(list(below))} hold some: give one of them, or a file." if below else ""
        kinds = f"{', '.join(READERS)}, also with .gz"
        raise TaskError(f"{folder}: no file in this folder that can be read ({kinds}).{remedy}")
    if not splits["train"] and any(splits.values()):
        raise TaskError(f"{folder}: no file called train, such as train.jsonl or train.csv, in this folder.")
    train = splits["train"] or data
    tested = next((splits[split] for split in TEST_SPLITS if splits[split]), [])
    names = [file.name for file in files if file not in (*train, *tested)]
    unread = _unread("file", [name for name in names if Path(name).suffix.lower() not in DESCRIPTIONS])
    unread += _unread("missing part", [*_missing(train), *_missing(tested)])
    return Found(_together(train), _together(tested) if tested else None, unread, tested[0].name if tested else "")


def _of_split(folder: Path, data: Sequence[Path], split: str) -> list[Path]:
    """The file of a split, or its parts."""
    found = [file for file in data if PART.sub("", _stem(file)) == split]
    if len(found) > 1 and not all(PART.search(_stem(file)) for file in found):
        raise TaskError(f"{folder}: both {found[-1].name} and {found[0].name}. Keep one of them.")
    return found


def _missing(files: Sequence[Path]) -> list[str]:
    """The parts of a split that are not there, as the names of those that are tell."""
    parts = [part for file in files if (part := PART.search(_stem(file)))]
    if not parts:
        return []
    first, there = parts[0], {int(part[1]) for part in parts}
    start = 0 if 0 in there or len(first[1]) == HUB_DIGITS else 1
    wanted = range(start, start + min(int(first[2]), MOST_PARTS))
    name = first.string[: first.start()]
    return [f"{name}-{number:0{len(first[1])}}-of-{first[2]}" for number in wanted if number not in there]


def _together(files: Sequence[Path]) -> Table:
    """The rows of several files as one table, numbered on. Raises TaskError if they have no column in common."""
    tables = [read_table(file) for file in files]
    if len(tables) == 1:
        return tables[0]
    for table in tables[1:]:
        if not {*table.columns} & {*tables[0].columns}:
            columns = " and ".join(", ".join(each.columns) for each in (tables[0], table))
            raise TaskError(f"{tables[0].where} and {table.where} have other columns: {columns}. Give one file.")
    rows = [row for table in tables for _, row in table.rows]
    notes = tuple(dict.fromkeys(note for table in tables for note in table.notes))
    where = f"{files[0].parent} ({len(files)} files)"
    return Table(where, list(enumerate(rows, start=1)), (f"{len(files)} files read as one", *notes))


def _saved(folder: Path) -> Found:
    """What `save_to_disk` of datasets wrote: one split or several."""
    import datasets  # lazily: slow to import, and needed for few kinds of data

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever the library meets in damaged files
        raise TaskError(f"{folder}: this saved data set cannot be read ({first_line(error).rstrip('.')}).") from error
    if isinstance(data, datasets.Dataset):
        return Found(_table(str(folder), data), None, [])
    return _splits(str(folder), "Saved data set", data)


def read_hub(name: str, subset: str | None) -> Found:
    """A data set of the Hub. Raises TaskError whatever goes wrong in the library that reads it."""
    import datasets  # lazily, as above
    from datasets import packaged_modules

    if (
        name in packaged_modules._PACKAGED_DATASETS_MODULES
    ):  # the library would read all files of this kind below the current folder
        raise TaskError(
            f'No built-in task, file, folder or Hub dataset is called "{name}". Give the path of your file.'
        )
    try:
        return _splits(name, "Hub dataset", datasets.load_dataset(name, subset))
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


def _splits(name: str, kind: str, splits: Mapping[str, Iterable[dict[str, Any]]]) -> Found:
    if "train" not in splits:
        raise TaskError(f'{kind} "{name}": no split "train" (splits: {", ".join(splits)}).')
    used = ["train", *[split for split in TEST_SPLITS if split in splits][:1]]
    tables = [_table(f"{name} ({split})", splits[split]) for split in used]
    unread = _unread("split", [split for split in splits if split not in used])
    return Found(tables[0], tables[1] if tables[1:] else None, unread, "".join(used[1:]))


def _table(where: str, data: Iterable[dict[str, Any]]) -> Table:
    rows = rows_of(data)
    if not rows:
        raise TaskError(f"{where}: no rows.")
    return Table(where, rows)


def _unread(kind: str, others: Sequence[str]) -> list[str]:
    """What is left unread, in words: columns, files or splits."""
    return [f"{kind} {listed(others)}"] if others else []


def listed(names: Sequence[str]) -> str:
    """Names in quotes, not more than fit into a message."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(f'"{name}"' for name in names[:LISTED]) + more


def shortened(text: str, length: int = 120) -> str:
    """A name or a message of any length, for a message."""
    return text if len(text) <= length else f"{text[: length - 20]}... ({len(text):,} characters)"
