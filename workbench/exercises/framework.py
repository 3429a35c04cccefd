"""What an exercise is, and how an answer is judged: by running it beside the solution and the known mistakes."""

from __future__ import annotations

import copy
import html
import linecache
import math
import numbers
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """An answer that people do give, as source, and what to tell them."""

    source: str
    message: str


@dataclass(frozen=True)
class Exercise:
    """One task about one function.

    function: its name. stub: what the notebook's cell holds. cases: the arguments it is tried with, one tuple a call.
    The cases must tell the solution and every mistake apart. explanation is shown to those who got it right.
    """

    id: str
    title: str
    difficulty: str  # "easy", "medium" or "hard"
    minutes: int
    task: str
    function: str
    stub: str
    solution: str
    explanation: str
    hints: Sequence[str]
    cases: Sequence[tuple]
    wrong: Sequence[Mistake]

    def markdown(self) -> str:
        """The notebook's text cell for this exercise."""
        return f"## Exercise {self.id}: {self.title}\n*{self.difficulty}, about {self.minutes} minutes*\n\n{self.task}"

    def check(self, answer: Callable) -> Result:
        """Judge the learner's function; whatever it does wrong, including raising, becomes a Result."""
        if not callable(answer):
            return Result(
                False, f"check needs the function itself, without brackets: check({self.id!r}, {self.function})."
            )
        expected = self._values(self.solution)
        given = []
        for case in self.cases:
            value, fault = _try(answer, case)
            if fault:
                return Result(False, fault)
            if value is None or value is ...:
                if not given:
                    words = "returns nothing so far. Fill it in, then check again; use return, printing is not enough."
                    return Result(False, f"{self.function} {words}", started=False)
                call = f"{self.function}({', '.join(map(repr, case))})"
                return Result(False, f"{call} returns nothing; does every way through your function end in a return?")
            given.append(value)
        if _same(given, expected):
            return Result(True, self.explanation)
        for mistake in self.wrong:
            if _same(given, self._values(mistake.source)):
                return Result(False, mistake.message)
        case, got, want = next(
            row for row in zip(self.cases, given, expected, strict=True) if not _same([row[1]], [row[2]])
        )
        arguments = ", ".join(map(repr, case))
        hint = " (the values are right; return a plain list)" if _is_other_list(got, want) else ""
        return Result(False, f"{self.function}({arguments}) gives {_shown(got)}; it should give {_shown(want)}{hint}.")

    def _values(self, source: str) -> list:
        function = function_from(source, self.function)
        return [function(*copy.deepcopy(case)) for case in self.cases]


@dataclass(frozen=True, repr=False)
class Result:
    """The verdict on an answer."""

    passed: bool
    message: str
    started: bool = True

    def __bool__(self) -> bool:
        return self.passed

    @property
    def heading(self) -> str:
        return "Passed." if self.passed else "Not right." if self.started else "Not yet."

    def __repr__(self) -> str:
        return f"{self.heading} {self.message}"

    def _repr_html_(self) -> str:
        colour = "#009E73" if self.passed else "#D55E00"
        return (
            f'<div style="border-left: 6px solid {colour}; padding: 4px 12px">'
            f"<b>{self.heading}</b> {html.escape(self.message)}</div>"
        )


@dataclass(frozen=True, repr=False)
class Folded:
    """Texts to be opened one at a time in a notebook (nothing is given away by running the cell)."""

    titles: Sequence[str]
    texts: Sequence[str]
    code: bool = False

    def __repr__(self) -> str:
        return "\n\n".join(f"{title}\n{text}" for title, text in zip(self.titles, self.texts, strict=True))

    def _repr_html_(self) -> str:
        tag = "pre" if self.code else "p"
        return "".join(
            f'<details style="margin: 4px 0"><summary style="cursor: pointer">{html.escape(title)}</summary>'
            f"<{tag}>{html.escape(text)}</{tag}></details>"
            for title, text in zip(self.titles, self.texts, strict=True)
        )


def function_from(source: str, name: str) -> Callable:
    """The function called `name` that a piece of exercise source defines."""
    namespace: dict = {}
    exec(compile(source, f"<{name}>", "exec"), namespace)
    return namespace[name]


def _try(answer: Callable, case: tuple) -> tuple[object, str | None]:
    try:
        return answer(*copy.deepcopy(case)), None
    except Exception as error:  # a learner's function may raise anything; all of it is theirs to read
        return None, _describe(error, answer, case)


def _describe(error: Exception, answer: Callable, case: tuple) -> str:
    what = f"{type(error).__name__} ({error})" if str(error) else type(error).__name__
    code = getattr(answer, "__code__", None)
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code is code]
    if not lines:
        return f"Your function raised {what} when called with {', '.join(map(repr, case))}."
    text = linecache.getline(code.co_filename, lines[-1]).strip()
    return f"Your function raised {what} on its line {lines[-1] - code.co_firstlineno + 1}{text and f': {text}'}"


def _same(first: Sequence, second: Sequence) -> bool:
    return all(_equal(a, b) for a, b in zip(first, second, strict=True))


def _equal(a: object, b: object) -> bool:
    """Numbers (of any library, tensors of one element too) to six digits; everything else exactly."""
    if isinstance(b, numbers.Real) and not isinstance(a, str):
        try:
            return math.isclose(float(a), float(b), rel_tol=1e-6, abs_tol=1e-9)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            return False
    try:
        return type(a) is type(b) and bool(a == b)
    except (ValueError, RuntimeError):  # a list of arrays or tensors, of which == is no single truth
        return False


def _is_other_list(got: object, want: object) -> bool:
    """Whether `got` is a tuple, an array or the like with the values of the list `want`."""
    if not isinstance(want, list) or isinstance(got, list):
        return False
    try:
        values = list(got)
    except TypeError:
        return False
    return len(values) == len(want) and _same(values, want)


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else repr(value)
