"""Stored JSON: read, and checked by shape, so that one odd value is told where it stands and not where it is used.

A shape is a type: str, int, float, bool, None, list[...], dict[...], a union of these, or a TypedDict.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

from workbench.errors import DamagedError

LARGEST = 2**63  # a count of bytes, tokens or rows is below it


def read_json(file: Path, shape: Any) -> Any:
    """The value in a JSON file. Raises OSError if it cannot be read, DamagedError if it is not JSON of this shape."""
    return _parsed(file.read_bytes(), shape, str(file))


def read_json_lines(file: Path, shape: Any, remedy: str) -> list[Any]:
    """The values of a file with one on each line. Raises OSError as above, DamagedError with the line and the remedy.

    A line that is not whole is what a program leaves that was stopped while it wrote.
    """
    lines = file.read_bytes().splitlines()
    try:
        return [
            _parsed(line, shape, f"Line {number} of {file}") for number, line in enumerate(lines, 1) if line.strip()
        ]
    except DamagedError as error:
        raise DamagedError(f"{error}; {remedy}.") from error


def check_shape(value: object, shape: Any, where: str = "the whole", complete: bool = True) -> None:
    """Raise ValueError, naming the place, for a value that is not of this shape. Numbers must be finite.

    A key that the shape does not have is let pass: a newer version may have written it. complete: a TypedDict must have
    all its required keys.
    """
    kind = get_origin(shape) or shape
    if kind in (Union, UnionType):
        _check_any(value, get_args(shape), where, complete)
    elif is_typeddict(shape):
        _check_keys(value, shape, where, complete)
    elif kind is Literal:
        if value not in get_args(shape):
            raise ValueError(f"{where} is {_short(value)}, none of {', '.join(map(str, get_args(shape)))}")
    elif kind in (list, dict):
        _check_items(value, shape, where, complete)
    elif kind is not Any and not _is_plain(value, kind):
        raise ValueError(f"{where} is {_short(value)}, not {_name(kind)}")


def _parsed(content: bytes, shape: Any, what: str) -> Any:
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse)
        check_shape(value, shape)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{what} is damaged ({str(error)[:200]})") from error
    return value


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _check_any(value: object, shapes: tuple[Any, ...], where: str, complete: bool) -> None:
    faults = []
    for shape in shapes:
        try:
            return check_shape(value, shape, where, complete)
        except ValueError as error:
            faults.append(error)
    # A fault inside of a list or a mapping says more than that a list is no number.
    raise next((fault for fault in faults if not str(fault).startswith(f"{where} is ")), None) or ValueError(
        f"{where} is {_short(value)}, not {' or '.join(_name(get_origin(shape) or shape) for shape in shapes)}"
    )


def _check_keys(value: object, shape: Any, where: str, complete: bool) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {_short(value)}, not a mapping")
    inside = "" if where == "the whole" else f"{where}."
    for name, kind in _hints(shape).items():
        if name in value:
            bare = get_args(kind)[0] if get_origin(kind) in (NotRequired, Required) else kind
            check_shape(value[name], bare, f"{inside}{name}", complete)
        elif complete and name in shape.__required_keys__:
            raise ValueError(f"{inside}{name} is missing")


def _check_items(value: object, shape: Any, where: str, complete: bool) -> None:
    kind, inner = get_origin(shape) or shape, get_args(shape)
    if not isinstance(value, kind):
        raise ValueError(f"{where} is {_short(value)}, not {_name(kind)}")
    items = value.items() if isinstance(value, dict) else enumerate(value, start=1)
    for name, item in items if inner else ():
        place = f"{where}.{name}" if isinstance(value, dict) else f"{where}, entry {name}"
        check_shape(item, inner[-1], place, complete)


def _is_plain(value: object, kind: type | None) -> bool:
    if kind in (None, NoneType):
        return value is None
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if isinstance(value, int) and abs(value) >= LARGEST:
        return False
    if kind is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, kind or object)


@cache
def _hints(shape: Any) -> Mapping[str, Any]:
    return get_type_hints(shape, include_extras=True)


def _name(kind: Any) -> str:
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}
    return names.get(kind, "null" if kind in (None, NoneType) else "a mapping")


def _short(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 60 else f"{words[:56]} ..."
