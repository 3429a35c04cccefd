"""The exercises of the notebooks: `check` an answer, ask for a `hint`, see a `solution`."""

from __future__ import annotations

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
    """The names of all exercises, in the order of the course."""
    return list(_MODULES)


def find(id: str) -> Exercise:
    """The exercise called `id`. Raises ValueError if there is none."""
    if id not in _MODULES:
        raise ValueError(f"there is no exercise {id!r}; there are {', '.join(_MODULES)}.")
    return import_module(f"workbench.exercises.{_MODULES[id]}").EXERCISE


def check(id: str, answer: object) -> Result:
    """Judge the function `answer`. A wrong or unfinished answer gets a message; it never raises."""
    return find(id).check(answer)


def hint(id: str) -> Folded:
    """The hints, folded; they open one at a time."""
    hints = find(id).hints
    return Folded([f"Hint {number} of {len(hints)}" for number in range(1, len(hints) + 1)], hints)


def solution(id: str) -> Folded:
    """One solution, folded."""
    return Folded(["Solution"], [find(id).solution], code=True)
