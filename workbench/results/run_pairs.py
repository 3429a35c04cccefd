"""Runs of this computer compared row by row, as `results.paired` compares rows of the study."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.results.paired import Comparison, compare_rows
from workbench.scoring.scores import unpack_rows
from workbench.training.runs import Run, comparable_row


def compare_runs(first: Run, others: Mapping[str, Run]) -> dict[str, Comparison]:
    """Name -> each other run minus `first`, row by row; without runs that have less than two such rows stored."""
    if not has_rows(first):
        return {}
    base = [comparable_row(first)]
    return {name: compare_rows([comparable_row(run)], base) for name, run in others.items() if has_rows(run)}


def has_rows(run: Run) -> bool:
    """Whether the run stores which rows it got right, and more than one, since one tells nothing apart."""
    right = run.right.get("exact_match")
    return right is not None and len(unpack_rows(right)) > 1
