"""Which columns hold what the model reads and what it writes, and the texts that are made of a row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import TaskError
from workbench.tasks.reading.tables import Row, Table

CHATS = ("messages", "conversations")  # the names by which chats are recognised
LABELS = ("label", "labels", "class", "category", "intent")
PROMPTS = ("prompt", "question", "query", "instruction", "input", "text", "sentence", "message", "source")
ANSWERS = ("completion", "response", "answer", "output", "reply", "target", *LABELS)
COLUMN = re.compile(r"\{([^{}]+)\}")  # in a template
PLAIN = (str, int)  # values that are written into a template; bool is an int
NAMED_ROWS = 5  # row numbers in one message

# The prompts of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca), with and without an input.
ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n"
    "### Response:\n"
)
ALPACA_ALONE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Layout:
    """How rows become pairs. prompt and completion: texts in which "{column}" stands for a row's value.

    alone: the prompt where the column "input" is empty. chat: the column of a chat, which has no templates.
    kind: in words. label: the column of labels, if there is one.
    """

    kind: str
    prompt: str = ""
    completion: str = ""
    alone: str = ""
    chat: str = ""
    label: str = ""

    @property
    def as_it_is(self) -> bool:
        """Whether the texts of two columns are taken as they are."""
        return all(COLUMN.fullmatch(side) for side in (self.prompt, self.completion))

    @property
    def columns(self) -> list[str]:
        """The columns that are read."""
        return (
            [self.chat, "system"] if self.chat else list(dict.fromkeys(COLUMN.findall(self.prompt + self.completion)))
        )

    def pair(self, row: Row) -> tuple[str, str]:
        """Prompt and completion of a row without a fault."""
        prompt = self.alone if self.alone and _is_empty(row.get("input")) else self.prompt
        return _filled(prompt, row), _filled(self.completion, row)


def find_layout(table: Table, prompt: str | None, completion: str | None) -> Layout:
    """The layout that was named, a column or a template for each side, else the one that the columns' names tell.

    Raises TaskError, which lists the columns, where nothing is named and nothing recognised.
    """
    columns = table.columns
    if prompt is not None and completion is None and _is_chat(table, prompt):
        return Layout(f'chats in "{prompt}"', chat=prompt)
    if prompt is not None or completion is not None:
        read, written = (_template(side, columns) for side in (prompt or "prompt", completion or "completion"))
        _check_names(table, (read, written))
        return Layout("the columns that were named", read, written, label=_label_of(written))
    if {"prompt", "completion"} <= {*columns}:
        return Layout("prompt and completion", "{prompt}", "{completion}")
    if {"instruction", "output"} <= {*columns}:
        whole = ALPACA if "input" in columns else ALPACA_ALONE
        return Layout("Alpaca: instruction, input, output", whole, "{output}", ALPACA_ALONE)
    if chats := [name for name in CHATS if name in columns]:
        return Layout(f'chats in "{chats[0]}"', chat=chats[0])
    reads, writes = ([name for name in columns if name.lower() in known] for known in (PROMPTS, ANSWERS))
    if len(reads) != 1 or len(writes) != 1:
        raise TaskError(_unrecognised(table, columns))
    read, written = reads[0], writes[0]
    made = f"{_heading(read)}: {{{read}}}\n{_heading(written)}:"
    return Layout(f'"{read}" and "{written}"', made, f" {{{written}}}", label=_label_of(f"{{{written}}}"))


def _check_names(table: Table, templates: Iterable[str]) -> None:
    """Raise TaskError for a column that a template of several names and that no row has: it would be read as empty."""
    for names in map(COLUMN.findall, templates):
        if len(names) > 1 and (unknown := [name for name in names if name not in table.columns]):
            raise TaskError(
                f'{table.where}: no column "{unknown[0]}" (columns: {", ".join(table.columns)}). Write the names in '
                "braces as the file has them."
            )


def _is_chat(table: Table, column: str) -> bool:
    values = (row.get(column) for _, row in table.rows)
    return isinstance(next((value for value in values if value is not None), None), list)


def _template(side: str, columns: Sequence[str]) -> str:
    return side if side not in columns and COLUMN.search(side) else f"{{{side}}}"


def _label_of(template: str) -> str:
    names = COLUMN.findall(template)
    return names[0] if len(names) == 1 and names[0].lower() in LABELS else ""


def _heading(column: str) -> str:
    return column.replace("_", " ").capitalize()


def _unrecognised(table: Table, columns: Sequence[str]) -> str:
    missing = "completion" if "prompt" in columns else "prompt"
    example = [*columns, "question", "answer"] if len(columns) < 2 else columns
    return (
        f'{table.where}, row {table.rows[0][0]}: no column "{missing}" (columns: {", ".join(columns) or "none"}). '
        f'Name yours, e.g. load_task(..., prompt="{example[0]}", completion="{example[1]}"); '
        "in the shell with --prompt-column and --completion-column."
    )


# --- faults


def check_rows(table: Table, layout: Layout) -> None:
    """Raise TaskError for the first fault of a column that is read, with the numbers of all rows that have it."""
    faults: dict[str, list[int]] = {}
    whole = {column for column in layout.columns if _all_whole(row.get(column) for _, row in table.rows)}
    for number, row in table.rows:
        if fault := _fault(row, layout, whole):
            faults.setdefault(fault, []).append(number)
    refuse(table.where, faults)


def refuse(where: str, faults: dict[str, list[int]]) -> None:
    """Raise TaskError for the first of these faults, if there is one. faults: sentence -> the rows that have it."""
    for fault, numbers in faults.items():
        others = numbers[1:]
        same = f" The same holds for {counted_rows(others)}." if others else ""
        raise TaskError(f"{where}, row {numbers[0]}: {fault}{same}")


def counted_rows(numbers: Sequence[int], what: str = "row") -> str:
    """How many rows, and which: "row 3", or "7 rows (3, 4, ...)"."""
    shown = ", ".join(map(str, numbers[:NAMED_ROWS])) + (", ..." if len(numbers) > NAMED_ROWS else "")
    return f"{what} {shown}" if len(numbers) == 1 else f"{len(numbers):,} {what}s ({shown})"


def _all_whole(values: Iterable[Any]) -> bool:
    """Whether a column holds whole numbers, or true and false, and nothing else."""
    kinds = {type(value) for value in values if value is not None}
    return kinds in ({int}, {bool})


def _fault(row: Row, layout: Layout, whole: set[str]) -> str | None:
    for template in (layout.prompt, layout.completion):
        names = COLUMN.findall(template)
        alone = len(names) == 1
        for name in names:
            if fault := _column_fault(row, name, alone, name in whole):
                return fault
        if all(_is_empty(row.get(name)) for name in names):
            return f"columns {', '.join(names)} are empty."
    return None


def _column_fault(row: Row, column: str, alone: bool, whole: bool) -> str | None:
    """What is wrong with a row's column, and what to do, in words; None if nothing is."""
    if column not in row and alone:
        remedy = 'Name yours, e.g. load_task(..., prompt="question", completion="answer") (or --prompt-column).'
        return f'no column "{column}" (columns: {", ".join(map(str, row)) or "none"}). {remedy}'
    value = row.get(column)
    if value is None and not alone:
        return None
    if not isinstance(value, str) and not (whole and isinstance(value, PLAIN)):
        return f'column "{column}" must be text, and holds {"nothing" if value is None else type(value).__name__}.'
    if alone and not str(value).strip():
        return f'column "{column}" is empty.'
    return half_character(str(value), f'column "{column}"')


def half_character(text: str, what: str) -> str | None:
    """A fault that no tokenizer can read, in words."""
    half = re.search(r"[\ud800-\udfff]", text)
    return f"{what} holds half a character ({half[0]!a}), as of an emoji cut in two; remove it." if half else None


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _filled(template: str, row: Row) -> str:
    return COLUMN.sub(lambda name: _written(row.get(name[1])), template)


def _written(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# --- labels


def with_label_names(table: Table, layout: Layout, names: Sequence[str]) -> Table:
    """The table with names in place of the numbers 0, 1, ... of the column of the completion.

    Raises TaskError for a completion of several columns and for a value that is no number of a name.
    """
    columns = COLUMN.findall(layout.completion)
    if len(columns) != 1:
        raise TaskError("label_names needs a completion that is one column.")
    column, faults, rows = columns[0], dict[str, list[int]](), []
    for number, row in table.rows:
        value = str(row.get(column)).strip()
        if value.isdecimal() and int(value) < len(names):
            rows.append((number, {**row, column: names[int(value)]}))
        else:
            fault = f'column "{column}" holds {value[:40]!r}, but the {len(names)} label_names have the numbers 0 to '
            faults.setdefault(f"{fault}{len(names) - 1}.", []).append(number)
    refuse(table.where, faults)
    return Table(table.where, rows, table.notes)
