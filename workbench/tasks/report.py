"""A person's data as the workbench reads it: columns, three rows, the split, and what to look at before training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.tasks.checks import findings
from workbench.tasks.reading.contents import SHOWN_ROWS, Mapping
from workbench.tasks.reading.tables import Row
from workbench.tasks.tasks import TEST_FRACTION, as_task, find_contents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WIDE = 300  # characters of a text that are shown


@dataclass(frozen=True)
class DataReport:
    """What was read. rows: the first ones, as they are in the file; pairs: what becomes of them."""

    name: str
    layout: str
    notes: tuple[str, ...]
    columns: list[str]
    unread: list[str]
    rows: list[Row]
    pairs: list[tuple[str, str]]
    train: int
    test: int
    held_out: bool
    labels: tuple[str, ...] | None
    findings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return asdict(self)

    def text(self) -> str:
        """The report for a person."""
        drawn = "held out by a seeded draw, near-duplicates together" if self.held_out else "its own"
        lines = [f"{self.name}: read as {self.layout}"]
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  columns: {', '.join(self.columns)}"] if self.columns else []
        lines += [f"  left unread: {each}" for each in self.unread]
        lines += [f"  {self.train:,} rows to train on, {self.test:,} to test on ({drawn})"]
        lines += [f"  labels: {', '.join(self.labels)}"] if self.labels else []
        for number, row in enumerate(self.rows, start=1):
            lines.append(f"\nrow {number}")
            lines += [f"  {name}: {_short(value)}" for name, value in row.items()]
        for number, (prompt, completion) in enumerate(self.pairs, start=1):
            lines += [f"\nprompt {number}: {_short(prompt)}", f"completion {number}: {_short(completion)}"]
        lines += ["", *(f"Look at: {each}" for each in self.findings or ["nothing; no check found a fault."])]
        return "\n".join(lines)


def data_report(
    name_or_path: str | Path,
    prompt: str | None = None,
    completion: str | None = None,
    test_fraction: float = TEST_FRACTION,
    seed: int = 0,
    labelled: bool = False,
    subset: str | None = None,
    chat: str | PreTrainedTokenizerBase | None = None,
    label_names: Sequence[str] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int = 512,
) -> DataReport:
    """Reads data as `load_task` does, with the same arguments, and reports it.

    tokenizer: the rows are also checked against `max_length` tokens. Raises TaskError as `load_task` does.
    """
    mapping = Mapping(prompt, completion, label_names, chat)
    name, contents = find_contents(name_or_path, mapping, subset)
    task = as_task(name, contents, test_fraction, seed, labelled)
    return DataReport(
        name=task.name,
        layout=contents.layout.kind if contents.layout else "prompt and completion",
        notes=contents.notes,
        columns=contents.columns,
        unread=contents.unread,
        rows=contents.first_rows,
        pairs=[(row.prompt, row.completion) for row in contents.train[:SHOWN_ROWS]],
        train=len(task.train),
        test=len(task.test),
        held_out=contents.test is None,
        labels=task.labels,
        findings=findings(contents, task, tokenizer, max_length),
    )


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return repr(text if len(text) <= WIDE else f"{text[: WIDE - 3]}...")
