"""What an exercise is, and how an answer is judged: by comparing its results with the solution and known mistakes.

Imports no torch, so that a first `check` answers at once.
"""

from __future__ import annotations

import copy
import html
import linecache
import math
import numbers
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from types import CodeType
from typing import Any, Literal

LONGEST_SHOWN = 300  # characters of a wrong value


@dataclass(frozen=True)
class Mistake:
    """A common wrong answer, as source, and the message for it."""

    source: str
    message: str


@dataclass(frozen=True)
class Exercise:
    """One task about one function.

    function: its name. stub: the notebook's cell. cases: the arguments of each call, a tuple a call; the solution and
    every mistake must differ in at least one. explanation: shown with the right answer. wrong: the known mistakes.
    """

    id: str
    title: str
    difficulty: Literal["easy", "medium", "hard"]
    minutes: int
    task: str
    function: str
    stub: str
    solution: str
    explanation: str
    hints: Sequence[str]
    cases: Sequence[tuple[Any, ...]]
    wrong: Sequence[Mistake]

    def markdown(self) -> str:
        """The notebook's text cell for this exercise."""
        return f"## Exercise {self.id}: {self.title}\n*{self.difficulty}, about {self.minutes} minutes*\n\n{self.task}"

    def check(self, answer: object) -> Result:
        """Judge the learner's function. Whatever goes wrong in it, exceptions included, becomes a Result."""
        if not callable(answer):
            return Result(
                False, f"check needs the function itself, without brackets: check({self.id!r}, {self.function})."
            )
        expected = self._values(self.solution)
        given: list[Any] = []
        for case in self.cases:
            value, fault = _try(answer, case)
            if fault:
                return Result(False, fault)
            if value is None or value is ...:
                if not given:
                    words = "returns nothing so far. Fill it in, then check again; use return, printing is not enough."
                    return Result(False, f"{self.function} {words}", started=False)
                call = f"{self.function}({', '.join(map(repr, case))})"
                return Result(False, f"{call} returns nothing; does every path through your function end in a return?")
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

    def _values(self, source: str) -> list[Any]:
        """What the function in `source` returns for each case."""
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
        """The verdict in a word or two."""
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
    """Texts that open one at a time in a notebook, so that running the cell shows none of them."""

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


def function_from(source: str, name: str) -> Callable[..., Any]:
    """The function called `name` that a piece of exercise source defines."""
    namespace: dict[str, Any] = {}
    exec(compile(source, f"<{name}>", "exec"), namespace)
    return namespace[name]


def _tried(action: Callable[..., Any], *arguments: Any) -> tuple[Any, BaseException | None]:
    """What an action of the learner's code gives, or what it raises: anything, exit() included, but for a stop."""
    try:
        return action(*arguments), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return None, error


def _try(answer: Callable[..., Any], case: tuple[Any, ...]) -> tuple[Any, str | None]:
    """The answer's value for a case, or what it raised in words."""
    value, error = _tried(answer, *copy.deepcopy(case))
    return (value, None) if error is None else (None, _describe(error, answer, case))


def _describe(error: BaseException, answer: Callable[..., Any], case: tuple[Any, ...]) -> str:
    message, _ = _tried(str, error)
    what = f"{type(error).__name__} ({message})" if message else type(error).__name__
    code: CodeType | None = _tried(getattr, answer, "__code__", None)[0]
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code is code]
    if code is None or not lines:
        return f"Your function raised {what} when called with {', '.join(map(repr, case))}."
    text = linecache.getline(code.co_filename, lines[-1]).strip()
    return f"Your function raised {what} on its line {lines[-1] - code.co_firstlineno + 1}{text and f': {text}'}"


def _same(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return all(_equal(a, b) for a, b in zip(first, second, strict=True))


def _equal(a: Any, b: Any) -> bool:
    """Compare numbers (of any library, also tensors of one element) to six digits, everything else exactly."""
    if isinstance(b, numbers.Real) and not isinstance(a, str):
        number, error = _tried(float, a)
        return error is None and math.isclose(number, float(b), rel_tol=1e-6, abs_tol=1e-9)
    if type(a) is not type(b):
        return False
    same, error = _tried(lambda: bool(a == b))  # a list of arrays or tensors has no single truth value
    return error is None and same


def _is_other_list(got: Any, want: Any) -> bool:
    """Whether `got` is not a list but a tuple, an array or similar, with the values of the list `want`."""
    if not isinstance(want, list) or isinstance(got, list):
        return False
    values, error = _tried(lambda: list(islice(got, len(want) + 1)))
    return error is None and len(values) == len(want) and _same(values, want)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text, error = _tried(repr, value)
    if error is not None:
        return f"a {type(value).__name__} that cannot be shown (its repr raises {type(error).__name__})"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
