"""Runs as an HTML table, for panels and saved notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence

from workbench.training.runs import Run, table

# Of the table. The fixed digits keep it narrow: -0.0003421 would make it too wide for a small window.
COLUMNS = {
    "method": "{}",
    "rank": "{}",
    "alpha": "{:g}",
    "learning_rate": "{:g}",
    "seed": "{}",
    "loss": "{:.3f}",
    "exact_match": "{:.2f}",
    "forgetting": "{:+.3f}",
    "status": "{}",
}


def latest_of_each(runs: Sequence[Run]) -> list[Run]:
    """The runs without repetitions: of those with the same data, method and settings, the latest."""
    latest = {
        repr((run.task["sha256"], run.method, run.config)): run for run in sorted(runs, key=lambda run: run.began)
    }
    return list(latest.values())


def runs_table(runs: Sequence[Run]) -> str:
    """The runs as an HTML table, in order of creation."""
    cell = "style='padding: 2px 2px 2px 0; text-align: right; white-space: normal'"
    rows = [
        "".join(f"<td {cell}>{_text(row[name], form)}</td>" for name, form in COLUMNS.items())
        for row in table(sorted(runs, key=lambda run: run.began))
    ]
    names = (name.replace("_", " ").replace("forget", "forget&shy;") for name in COLUMNS)  # allows a line break
    heads = "".join(f"<th scope='col' {cell}>{name}</th>" for name in names)
    note = "loss and forgetting in nats a token, exact match as a share of the test rows"
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    count = f"{len(rows)} {'run' if len(rows) == 1 else 'runs'}"
    look = "style='width: 100%; max-width: 1050px; line-height: 1.3; font-size: 85%'"
    return f"<table {look}><caption>{count}; {note}</caption><tr>{heads}</tr>{body}</table>"


def _text(value: object, form: str) -> str:
    return "-" if value is None else html.escape(form.format(value))
