"""What an exercise is, and how an answer is judged: by comparing its results with the solution and known mistakes.

Imports no torch, so that a first `check` answers at once; tensors and modules are compared where a lesson has them.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workbench.exercises.results import Result
from workbench.exercises.values import described, difference, equal, raised, shown, tried

Answer = Callable[..., Any]  # a function or a class
Case = tuple[Any, ...] | Callable[[], tuple[Any, ...]]


@dataclass(frozen=True)
class Mistake:
    """A common wrong answer, as a function (or class) or as its source, and the message for it."""

    answer: Answer | str
    message: str


@dataclass(frozen=True)
class Exercise:
    """One task about one function or class.

    function: its name. stub: the notebook's cell. solution: a function, or its source. cases: the arguments of each
    call, as a tuple or as a function that builds the tuple (tensors from a seed, a small module); the solution and
    every mistake must differ in at least one. wrong: the known mistakes, the likeliest first. apply: what is done with
    an answer and the arguments of a case, where that is not just the call. show: a case's arguments in words.
    explanation: shown with the right answer.
    """

    id: str
    title: str
    difficulty: Literal["easy", "medium", "hard"]
    minutes: int
    task: str
    function: str
    stub: str
    solution: Answer | str
    explanation: str
    hints: Sequence[str]
    cases: Sequence[Case]
    wrong: Sequence[Mistake]
    apply: Callable[..., Any] | None = None
    show: Callable[..., str] | None = None

    def markdown(self) -> str:
        """The notebook's text cell for this exercise."""
        return f"## Exercise {self.id}: {self.title}\n*{self.difficulty}, about {self.minutes} minutes*\n\n{self.task}"

    def solution_source(self) -> str:
        """The solution as text."""
        return self.solution if isinstance(self.solution, str) else inspect.getsource(self.solution)

    def answer_from(self, answer: Answer | str) -> Answer:
        """A function or class, given itself or as source. Source may use the names of the solution's module."""
        if not isinstance(answer, str):
            return answer
        names: dict[str, Any] = {"__name__": f"exercise {self.id}"}
        if not isinstance(self.solution, str):
            names = vars(sys.modules[self.solution.__module__]) | names
        exec(compile(answer, f"<{self.function}>", "exec"), names)
        return names[self.function]

    def check(self, answer: object) -> Result:
        """Judge the learner's function. Whatever goes wrong in it, exceptions included, becomes a Result."""
        solution = self.answer_from(self.solution)
        if not callable(answer) or (isinstance(solution, type) and not isinstance(answer, type)):
            kind = "class" if isinstance(solution, type) else "function"
            return Result(
                False, f"check needs the {kind} itself, without brackets: check({self.id!r}, {self.function})."
            )
        outcomes = [self._outcome(answer, case) for case in self.cases]
        if outcomes[0].empty and all(outcome.fault for outcome in outcomes):
            words = "returns nothing so far. Fill it in, then check again; use return, printing is not enough."
            return Result(False, f"{self.function} {words}", started=False)
        expected = self._values(solution)
        if all(outcome.is_(value) for outcome, value in zip(outcomes, expected, strict=True)):
            return Result(True, self.explanation)
        for mistake in self.wrong:
            if _is_mistake(outcomes, self._values(self.answer_from(mistake.answer)), expected):
                return Result(False, mistake.message)
        return Result(False, self._smallest(outcomes, expected))

    def _outcome(self, answer: Answer, case: Case) -> Outcome:
        arguments = _built(case)
        value, error = tried(self.apply, answer, *arguments) if self.apply else tried(answer, *arguments)
        if error is not None:
            return Outcome(fault=raised(error, answer) or f"{described(error, answer)} with {self._in_words(case)}")
        if value is None or value is ...:
            words = f"With {self._in_words(case)}: {self.function} returns nothing; does every path through it end in a"
            return Outcome(fault=f"{words} return?", empty=True)
        return Outcome(value)

    def _values(self, answer: Answer) -> list[Any]:
        """What a known answer gives for each case; the exception where it raises one."""
        run = self.apply or (lambda function, *arguments: function(*arguments))
        results = [tried(run, answer, *_built(case)) for case in self.cases]
        return [value if error is None else error for value, error in results]

    def _smallest(self, outcomes: Sequence[Outcome], expected: Sequence[Any]) -> str:
        """The failing case that is shortest to show: wrong values first, then what raises or returns nothing."""
        rows = zip(self.cases, outcomes, expected, strict=True)
        failed = [row for row in rows if not row[1].is_(row[2])]
        case, outcome, want = min(failed, key=lambda row: (row[1].fault is not None, len(self._in_words(row[0]))))
        if outcome.fault:
            others = len(failed) < len(outcomes) and "The other values are right. "
            return f"{others or ''}{outcome.fault}"
        return f"With {self._in_words(case)}: {self.function} gives {difference(outcome.value, want)}"

    def _in_words(self, case: Case) -> str:
        """The arguments of a case by name, as `alpha = 16, rank = 8`."""
        arguments = _built(case)
        if self.show:
            return self.show(*arguments)
        known = self.apply or self.answer_from(self.solution)
        names = list(inspect.signature(known).parameters)[1 if self.apply else 0 :]
        return ", ".join(f"{name} = {shown(value)}" for name, value in zip(names, arguments, strict=False))


@dataclass(frozen=True)
class Outcome:
    """What a learner's answer did with one case: a value, or the words for why there is none."""

    value: Any = None
    fault: str | None = None
    empty: bool = False

    def is_(self, expected: object) -> bool:
        """Whether this is the expected value."""
        return self.fault is None and equal(self.value, expected)


def _is_mistake(outcomes: Sequence[Outcome], wrong: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether the values given are those of a known mistake. Cases that gave the learner no value do not count."""
    rows = [row for row in zip(outcomes, wrong, right, strict=True) if row[0].fault is None]
    return all(got.is_(bad) for got, bad, _ in rows) and not all(got.is_(good) for got, _, good in rows)


def _built(case: Case) -> tuple[Any, ...]:
    """A case's arguments, fresh each time, so that the learner's code may change them."""
    return case() if callable(case) else copy.deepcopy(case)
