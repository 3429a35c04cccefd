"""Options that several commands have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # what add_subparsers() returns
DEFAULT = "default: %(default)s"  # argparse fills it in


def targets_of(options: argparse.Namespace) -> str | list[str]:
    """--targets as `lora` takes it."""
    return "all-linear" if options.targets in (None, "all-linear") else options.targets.split(",")


def list_of(kind: type) -> Callable[[str], list[Any]]:
    """A type for argparse: a list of numbers with commas between them."""

    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    parse.__name__ = f"list of {'whole numbers' if kind is int else 'numbers'}"  # argparse shows it in its message
    return parse


def full_modules_of(options: argparse.Namespace) -> tuple[str, ...]:
    """--full-modules as `hybrid` takes it."""
    return tuple(module for module in (options.full_modules or "").split(",") if module)


def given(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The options that were typed, by name."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def refuse_unused(names: Iterable[str], method: str) -> None:
    """Raise MethodError for options that were typed and that the method, "full" or "auto", does not use."""
    from workbench.errors import MethodError

    why = {"full": "full fine-tuning has no adapters", "auto": "auto chooses by itself"}[method]
    if unused := ", ".join(f"--{name.replace('_', '-')}" for name in names):
        raise MethodError(f"{unused}: {why}; leave it out, or choose another method.")
