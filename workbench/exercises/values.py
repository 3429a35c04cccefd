"""Comparing and showing what a learner's code gives, whatever it is: numbers, lists, tensors, or objects that raise."""

from __future__ import annotations

import inspect
import linecache
import math
import numbers
import sys
import traceback
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, TypeGuard

LONGEST_SHOWN = 300  # characters of a value
LARGEST_SHOWN = 12  # elements of a tensor
RELATIVE = 1e-5  # to the largest element: what rounding in float32 makes of another order of the same products


def tried(action: Callable[..., Any], *arguments: Any) -> tuple[Any, BaseException | None]:
    """What an action of the learner's code gives, or what it raises: anything, exit() included, but for a stop."""
    try:
        return action(*arguments), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return None, error


def equal(a: Any, b: Any) -> bool:
    """Compare numbers (of any library, also tensors of one element) to six digits, tensors with a tolerance of float32.

    Lists, tuples and dicts are compared element by element, everything else exactly. b: the expected value.
    """
    if _is_tensor(b):
        return _is_tensor(a) and a.shape == b.shape and a.dtype == b.dtype and _close(a, b)
    if isinstance(b, numbers.Real) and not isinstance(a, str):
        number, error = tried(float, a)
        return error is None and math.isclose(number, float(b), rel_tol=1e-6, abs_tol=1e-9)
    if type(a) is not type(b):
        return False
    if isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in b)
    same, error = tried(lambda: bool(a == b))  # what the learner made may compare as it likes
    return error is None and same


def difference(got: Any, want: Any) -> str:
    """What was given and what should be, up to the end of the sentence: `3; it should give 4.`"""
    if _is_tensor(got) and _is_tensor(want):
        if got.shape != want.shape:
            return f"a tensor of shape {tuple(got.shape)}; its shape should be {tuple(want.shape)}."
        if got.dtype != want.dtype and _close(got, want):
            return f"the right values in {got.dtype}; they should be in {want.dtype}."
    hint = " (the values are right; return a plain list)" if _is_other_list(got, want) else ""
    return f"{shown(got)}; it should give {shown(want)}{hint}."


def shown(value: object) -> str:
    """A value in a line: short lists and tensors whole, large tensors by their shape."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if _is_tensor(value) and value.numel() > LARGEST_SHOWN:
        return f"a tensor of shape {tuple(value.shape)} that begins {shown(value.flatten()[:4])}"
    text, error = tried(repr, value.detach() if _is_tensor(value) else value)
    if error is not None:
        return f"a {type(value).__name__} that cannot be shown (its repr raises {type(error).__name__})"
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def described(error: BaseException, answer: object) -> str:
    """That the learner's function or class raised this."""
    message, _ = tried(str, error)
    what = f"{type(error).__name__} ({message})" if message else type(error).__name__
    return f"Your {'class' if inspect.isclass(answer) else 'function'} raised {what}"


def raised(error: BaseException, answer: object) -> str | None:
    """The exception with the line of the learner's code, None if none of its lines was reached."""
    codes = _codes(answer)
    lines = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code in codes]
    if not lines:
        return None
    code, line = lines[-1]
    text = linecache.getline(code.co_filename, line).strip()
    where = f" of {code.co_name}" if inspect.isclass(answer) else ""
    return f"{described(error, answer)} on its line {line - code.co_firstlineno + 1}{where}{text and f': {text}'}"


def _codes(answer: object) -> list[Any]:
    """The code of a function, or of the methods of a class."""
    members = list(vars(answer).values()) if inspect.isclass(answer) else [answer]
    codes = [tried(getattr, member, "__code__", None)[0] for member in members]
    return [code for code in codes if code is not None]


def _is_tensor(value: object) -> TypeGuard[Any]:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _close(a: Any, b: Any) -> bool:
    """Whether two tensors of one shape hold the same values, up to rounding."""
    first, second = a.detach().double(), b.detach().double()
    largest = second.nan_to_num(0.0, 0.0, 0.0).abs().max().item() if second.numel() else 0.0
    return bool(first.allclose(second, rtol=1e-6, atol=RELATIVE * largest, equal_nan=True))


def _is_other_list(got: Any, want: Any) -> bool:
    """Whether `got` is not a list but a tuple, an array or similar, with the values of the list `want`."""
    if not isinstance(want, list) or isinstance(got, list):
        return False
    values, error = tried(lambda: list(islice(got, len(want) + 1)))
    return error is None and equal(values, want)
