"""A file, or a split of a data set, as numbered rows. pandas reads CSV and TSV, datasets the rest; JSON is Python's."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.console import first_line
from workbench.errors import TaskError
from workbench.tasks.reading.texts import read_text, unpacked

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

Row = dict[str, Any]
DELIMITERS = (",", ";", "\t", "|")  # the one that divides the header into the most columns is taken
SPREADSHEET = re.compile(r"sep=(.)\r?\n")  # which Excel writes in front of the header
ESCAPED: dict[str, Any] = {"escapechar": "\\", "doublequote": False}  # quotes within texts as \" instead of ""


@dataclass(frozen=True)
class Table:
    """Rows with their numbers, from 1 and without the header of a CSV file.

    where: the file or split, for messages. notes: in words, how it was read, where that is not plain.
    """

    where: str
    rows: list[tuple[int, Row]]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """All columns that any row has, in the order in which they appear."""
        return list(dict.fromkeys(str(name) for _, row in self.rows for name in row))


def kind_of(path: Path) -> str:
    """The suffix that says how a file is read, in lower case; that of `mine.csv.gz` is `.csv`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])


def read_table(path: Path) -> Table:
    """The rows of a file. Raises TaskError that names the file, the row where one is at fault, and what to do."""
    kind = kind_of(path)
    if kind not in READERS:
        raise TaskError(f"{path}: {kind or 'no'} file type. Give a {', '.join(READERS)} file.")
    rows, notes = READERS[kind](path)
    if not rows:
        raise TaskError(f"{path}: no rows.")
    return Table(str(path), rows, tuple(note for note in notes if note))


# --- JSON


def _json(path: Path) -> tuple[list[tuple[int, Row]], list[str]]:
    text, note = read_text(path)
    if not text.lstrip().startswith("["):
        return list(_lines(path, text)), [note]
    rows = _loaded(path, text, "Write a list of objects, or one object a line.")
    for number, row in enumerate(rows, start=1):
        _check_object(path, number, row)
    return list(enumerate(rows, start=1)), [note]


def _lines(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_once)
        except json.JSONDecodeError as error:
            _refuse_one_object(path, text)
            message = f"{path}, row {number}: bad JSON ({error.msg} at character {error.pos + 1})."
            raise TaskError(f"{message} Each line must be one object.") from error
        except (ValueError, RecursionError) as error:  # a name twice, a number of thousands of digits, a deep nesting
            raise TaskError(f"{path}, row {number}: JSON that cannot be read ({first_line(error)}).") from error
        _check_object(path, number, row)
        yield number, row


def _refuse_one_object(path: Path, text: str) -> None:
    """Raise TaskError if the lines together are one object, in which the rows are a list, or none."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return
    lists = [f'"{name}"' for name, value in whole.items() if isinstance(value, list)] if isinstance(whole, dict) else []
    remedy = f"Save the list under {lists[0]} as a file of its own." if lists else "Write one object a line."
    raise TaskError(f"{path}: one JSON object over several lines, not a list of rows. {remedy}")


def _loaded(path: Path, text: str, remedy: str) -> list[Any]:
    try:
        rows: list[Any] = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        message = f"{path}, line {error.lineno}: bad JSON ({error.msg} at character {error.colno})."
        raise TaskError(f"{message} {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path}: JSON that cannot be read ({first_line(error)}).") from error
    return rows


def _once(pairs: list[tuple[str, Any]]) -> Row:
    """An object of JSON. Raises ValueError for a name that stands in it twice, of which Python would take the last."""
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f'"{twice}" stands twice in one object; keep one of them')
    return row


def _check_object(path: Path, number: int, row: object) -> None:
    if not isinstance(row, dict):
        raise TaskError(f"{path}, row {number}: a {type(row).__name__}, but each row must be one JSON object.")


# --- CSV and TSV


def _csv(path: Path) -> tuple[list[tuple[int, Row]], list[str]]:
    text, note = read_text(path)
    named = SPREADSHEET.match(text)
    text = text[named.end() :] if named else text
    delimiter = named[1] if named else _delimiter(text)
    frame = _frame(path, text, delimiter)
    header = [str(name).strip() or f"column {place}" for place, name in enumerate(frame.iloc[0].fillna(""), start=1)]
    if repeated := [name for name, count in Counter(header).items() if count > 1]:
        raise TaskError(f'{path}: the header names column "{repeated[0]}" twice. Rename one of them.')
    values = frame.iloc[1:].astype(object).where(frame.iloc[1:].notna(), None).values.tolist()
    plain = delimiter == {".csv": ",", ".tsv": "\t"}[kind_of(path)]
    return [
        (number, dict(zip(header, row, strict=True))) for number, row in enumerate(values, start=1) if not _blank(row)
    ], [note, "" if plain else f"columns divided by {_spoken(delimiter)}"]


def _blank(row: list[str | None]) -> bool:
    """Whether it was an empty line, which has one empty field at most, and not a row whose fields are all empty."""
    return not any(row) and row[1:] == [None] * len(row[1:])


def _delimiter(text: str) -> str:
    def columns(delimiter: str) -> int:
        return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quotechar=_quote(text)), []))

    try:
        return max(DELIMITERS, key=columns)  # the first of equal ones
    except csv.Error:  # such as a header without an end; reading it says so
        return DELIMITERS[0]


def _quote(text: str) -> str:
    """Single quotes where the header begins with one."""
    return "'" if text.startswith("'") else '"'


def _spoken(delimiter: str) -> str:
    return {"\t": "tabs", ";": "semicolons", "|": "bars"}.get(delimiter, f"{delimiter!r}")


def _frame(path: Path, text: str, delimiter: str) -> pd.DataFrame:
    """The header and all rows as texts, missing fields as NaN."""
    import pandas as pd

    header = text.partition("\n")[0]
    options: dict[str, Any] = {"sep": delimiter, "quotechar": _quote(text), "skip_blank_lines": False}
    options |= {"header": None, "dtype": str, "keep_default_na": False, "engine": "python"}  # which is the strict one
    options["skipinitialspace"] = f"{delimiter} {_quote(text)}" in header
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    try:
        return pd.read_csv(io.StringIO(text), **options)
    except pd.errors.EmptyDataError as error:
        raise TaskError(f"{path}: no rows.") from error
    except pd.errors.ParserError as error:
        if '\\"' in text:
            try:
                return pd.read_csv(io.StringIO(text), **options, **ESCAPED)
            except pd.errors.ParserError:
                pass
        raise TaskError(_csv_fault(path, text, delimiter, str(error))) from error


def _csv_fault(path: Path, text: str, delimiter: str, message: str) -> str:
    if surplus := re.search(r"Expected \d+ fields in line (\d+)", message):
        remedy = f"Quote texts with {'commas' if delimiter == ',' else _spoken(delimiter)}."
        return f"{path}, row {int(surplus[1]) - 1}: more fields than the header has. {remedy}"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quotechar=_quote(text), strict=True)
    try:
        for _ in reader:
            pass
    except csv.Error as error:  # the same fault, with its line
        return f"{path}, line {reader.line_num}: bad CSV ({error}). Look for a quote that is not closed."
    return f"{path}: bad CSV ({message})."


# --- what datasets reads


def _parquet(path: Path) -> tuple[list[tuple[int, Row]], list[str]]:
    import pyarrow as pa
    from datasets import Dataset
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(unpacked(path)))
    except (pa.ArrowException, OSError) as error:
        raise TaskError(f"{path}: no readable parquet file ({first_line(error)}). Write it again.") from error
    try:
        return rows_of(Dataset(table)), []
    # Kinds of columns that datasets does not know, dates that Python has not, pictures and sounds without a decoder.
    except (pa.ArrowException, OSError, ValueError, OverflowError, ImportError) as error:
        remedy = "Keep the columns with the texts, and write it again."
        raise TaskError(f"{path}: a column cannot be read ({first_line(error)}). {remedy}") from error


def rows_of(data: Dataset | Iterable[Row]) -> list[tuple[int, Row]]:
    """The rows of a split, with the names of classes where it holds their numbers."""
    from datasets import ClassLabel

    features = getattr(data, "features", None) or {}
    names = {column: kind.names for column, kind in features.items() if isinstance(kind, ClassLabel)}

    def named(column: str, value: Any) -> Any:
        if column not in names or not isinstance(value, int):
            return value
        return names[column][value] if 0 <= value < len(names[column]) else None  # -1 stands for no label

    return [(number, {key: named(key, value) for key, value in row.items()}) for number, row in enumerate(data, 1)]


READERS: dict[str, Callable[[Path], tuple[list[tuple[int, Row]], list[str]]]] = {
    ".jsonl": _json,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
