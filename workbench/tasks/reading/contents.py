"""The pairs of prompt and completion that a file, a folder or a data set holds, checked row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.console import first_line
from workbench.errors import TaskError
from workbench.tasks.example import BUILT_IN, Example
from workbench.tasks.reading.chats import PLAIN, chat_pairs, check_template
from workbench.tasks.reading.files import SUFFIXES, Found, listed, read_file, read_folder, read_hub, shortened
from workbench.tasks.reading.layouts import Layout, check_rows, find_layout, with_label_names
from workbench.tasks.reading.tables import Row, Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN_ROWS = 3  # of a file, as they are, for a person to look at


@dataclass(frozen=True)
class Mapping:
    """How a person wants the columns to be read; what is None is found by the columns' names.

    prompt, completion: a column, or a text with "{column}" in it. label_names: for labels that are numbers from 0.
    chat: how chats are written as text, "plain" or a tokenizer whose chat template is used; None is "plain".
    """

    prompt: str | None = None
    completion: str | None = None
    label_names: Sequence[str] | None = None
    chat: str | PreTrainedTokenizerBase | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "completion"):
            if not isinstance(value := getattr(self, name), str | None):
                raise TaskError(f"{name}={value!r} must be the name of a column, or a text with {{column}} in it.")
        if (names := self.label_names) is None:
            return
        if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
            raise TaskError(f"label_names={names!r} must be a list of names, e.g. label_names=['no', 'yes'].")


@dataclass(frozen=True)
class Contents:
    """What a file, a folder or a Hub dataset holds, and in words what was left unread there.

    test: None without test rows of its own. tested_on: the file or split that they came from. train_rows, test_rows:
    the number of each example's row in its file. columns, first_rows: of the training rows, as they were read.
    """

    train: list[Example]
    test: list[Example] | None
    unread: list[str]
    tested_on: str = ""
    layout: Layout | None = None
    notes: tuple[str, ...] = ()
    train_rows: list[int] = field(default_factory=list)
    test_rows: list[int] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    first_rows: list[Row] = field(default_factory=list)


def read_contents(name: str, path: Path, mapping: Mapping, subset: str | None) -> Contents:
    """The pairs at a path, or of a Hub dataset of this name. Raises TaskError that names file, row and fault."""
    try:
        found = _find(name, path, subset)
    except OSError as error:
        why = "you may not read it" if isinstance(error, PermissionError) else error.strerror or first_line(error)
        raise TaskError(f"{shortened(name)} cannot be read: {why}. Check the path and its permissions.") from error
    return _mapped(found, mapping)


def _find(name: str, path: Path, subset: str | None) -> Found:
    if path.is_dir() or path.is_file():
        if subset is not None:
            raise TaskError(f"subset={subset!r} is for Hub datasets, and {name} is none. Leave it out.")
        return read_folder(path) if path.is_dir() else read_file(path)
    if name in BUILT_IN or path.suffix.lower() in SUFFIXES or path.is_absolute():
        raise TaskError(f"{shortened(str(path))}: no such file or folder.")
    return read_hub(name, subset)


def _mapped(found: Found, mapping: Mapping) -> Contents:
    layout = find_layout(found.train, mapping.prompt, mapping.completion)
    if mapping.chat is not None and not layout.chat:
        raise TaskError(f"chat= is for chats, and {found.train.where} holds {layout.kind}. Leave it out.")
    train = _pairs(found.train, layout, mapping)
    test = _pairs(found.test, layout, mapping) if found.test else None
    tables = [found.train, *([found.test] if found.test else [])]
    columns = dict.fromkeys(name for table in tables for name in _filled_columns(table) if name not in layout.columns)
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    return Contents(
        train=train.examples,
        test=test.examples if test else None,
        unread=[*([f"column {listed(list(columns))}"] if columns else []), *found.unread],
        tested_on=found.tested_on,
        layout=layout,
        notes=(*notes, *train.notes),
        train_rows=train.rows,
        test_rows=test.rows if test else [],
        columns=found.train.columns,
        first_rows=[row for _, row in found.train.rows[:SHOWN_ROWS]],
    )


@dataclass(frozen=True)
class _Pairs:
    examples: list[Example]
    rows: list[int]
    notes: Sequence[str] = ()


def _pairs(table: Table, layout: Layout, mapping: Mapping) -> _Pairs:
    if layout.chat:
        chat = PLAIN if mapping.chat is None else mapping.chat
        check_template(chat)
        found, notes = chat_pairs(table, layout.chat, chat)
        return _Pairs([Example(*pair) for _, *pair in found], [number for number, *_ in found], notes)
    if mapping.label_names is not None:
        table = with_label_names(table, layout, mapping.label_names)
    check_rows(table, layout)
    return _Pairs([Example(*layout.pair(row)) for _, row in table.rows], [number for number, _ in table.rows])


def _filled_columns(table: Table) -> list[str]:
    """The columns that hold anything."""
    return list(
        dict.fromkeys(
            str(name)
            for _, row in table.rows
            for name, value in row.items()
            if not (value is None or (isinstance(value, str | list | dict) and not value))
        )
    )
