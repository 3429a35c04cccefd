"""The exercises of the notebooks: `check` an answer, ask for a `hint`, see a `solution`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from workbench.exercises.framework import Exercise, Folded, Result

_MODULES = {
    "00.size": "e00_size",
    "01.rank": "e01_rank",
    "02.scaling": "e02_scaling",
    "03.absmax": "e03_absmax",
    "04.bytes": "e04_bytes",
    "05.capacity": "e05_capacity",
    "06.fair": "e06_fair",
}


def identifiers() -> list[str]:
    """Every exercise there is, in the order of the course."""
    return list(_MODULES)


def find(id: str) -> Exercise:
    """The exercise called `id`; ValueError when there is none."""
    if id not in _MODULES:
        raise ValueError(f"there is no exercise {id!r}; there are {', '.join(_MODULES)}.")
    return import_module(f"workbench.exercises.{_MODULES[id]}").EXERCISE


def check(id: str, answer: Callable) -> Result:
    """Judge the function `answer`. A wrong or unfinished answer gives a message, never an error."""
    return find(id).check(answer)


def hint(id: str) -> Folded:
    """The hints, folded away: open them one at a time."""
    hints = find(id).hints
    return Folded([f"Hint {number} of {len(hints)}" for number in range(1, len(hints) + 1)], hints)


def solution(id: str) -> Folded:
    """One solution, folded away."""
    return Folded(["Solution"], [find(id).solution], code=True)
