"""The exercises of the notebooks: `check` an answer, ask for a `hint`, see a `solution`."""

from __future__ import annotations

from importlib import import_module

from workbench import learner
from workbench.exercises.framework import Answer, Exercise
from workbench.exercises.results import Folded, Result

# The module of each lesson and its exercises, in the order of the course. A module's exercises are its global names.
_LESSONS = {
    "e00_start": ("00.size", "00.update"),
    "e01_pair": ("01.pair", "01.step"),
    "e02_layer": ("02.forward", "02.scaling"),
    "e02_inject": ("02.inject",),
    "e03_codes": ("03.absmax", "03.blocks"),
    "e04_bytes": ("04.bytes", "04.saved"),
    "e05_capacity": ("05.capacity", "05.together"),
    "e06_directions": ("06.directions",),
    "e06_fair": ("06.fair",),
    "e07_cut": ("07.cut",),
    "e07_intruders": ("07.intruders",),
    "e08_mixed": ("08.mixed",),
    "e08_undo": ("08.undo",),
    "e09_ndcg": ("09.ndcg",),
    "e09_paired": ("09.paired",),
    "e10_split": ("10.split",),
    "e10_halving": ("10.halving",),
}


def identifiers() -> list[str]:
    """The names of all exercises, in the order of the course."""
    return [id for ids in _LESSONS.values() for id in ids]


def find(id: str) -> Exercise:
    """The exercise called `id`. Raises ValueError if there is none."""
    for name, ids in _LESSONS.items():
        if id in ids:
            values = vars(import_module(f"workbench.exercises.{name}")).values()
            return next(value for value in values if isinstance(value, Exercise) and value.id == id)
    raise ValueError(f"there is no exercise {id!r}; there are {', '.join(identifiers())}.")


def check(id: str, answer: object) -> Result:
    """Judge the function or class `answer`. A wrong or unfinished answer gets a message; it never raises.

    What is solved is kept in the folder of runs.
    """
    result = find(id).check(answer)
    if result:
        learner.note(learner.SOLVED, id)
    return result


def passed_or_solution(id: str, answer: Answer) -> Answer:
    """`answer` if it passes, else our solution, so that a lesson can go on with what the learner wrote; says which."""
    exercise = find(id)
    if exercise.check(answer):
        print(f"From here on the lesson uses your {exercise.function}.")
        return answer
    print(f"From here on the lesson uses our {exercise.function}, until yours passes the check.")
    return exercise.answer_from(exercise.solution)


def hint(id: str) -> Folded:
    """The hints, folded; they open one at a time."""
    hints = find(id).hints
    return Folded([f"Hint {number} of {len(hints)}" for number in range(1, len(hints) + 1)], hints)


def solution(id: str) -> Folded:
    """One solution, folded."""
    return Folded(["Solution"], [find(id).solution_source()], code=True)
