"""Options that several commands have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # what add_subparsers() returns
DEFAULT = "default: %(default)s"  # argparse fills it in


def targets_of(options: argparse.Namespace) -> str | list[str]:
    """--targets as `lora` takes it."""
    return "all-linear" if options.targets in (None, "all-linear") else options.targets.split(",")


def path_of(text: str) -> Path:
    """A type for argparse: a path, with the home folder for a leading "~", which no shell expands after "--out="."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # ~nobody
        raise argparse.ArgumentTypeError(f"{text} names no folder: {error}") from error


def list_of(kind: type) -> Callable[[str], list[Any]]:
    """A type for argparse: a list of numbers or names with commas between them."""

    def parse(text: str) -> list[Any]:
        return [kind(part.strip()) for part in text.split(",")]

    words = {int: "whole numbers", str: "names"}
    parse.__name__ = f"list of {words.get(kind, 'numbers')}"  # argparse shows it in its message
    return parse


def full_modules_of(options: argparse.Namespace) -> tuple[str, ...]:
    """--full-modules as `hybrid` takes it."""
    return tuple(module for module in (options.full_modules or "").split(",") if module)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """How a person's own data is read; `task_options` passes them on."""
    template = 'a column, or a text with "{column}" in it'
    parser.add_argument("--prompt-column", help=f"{template} (default: found by its name)")
    parser.add_argument("--completion-column", help="the same, of the completion")
    parser.add_argument("--label-names", type=list_of(str), metavar="A,B,C", help="of labels that are numbers from 0")
    parser.add_argument("--chat", choices=("plain", "model"), help="write chats plainly, or by the model's template")
    parser.add_argument("--subset", help="configuration of a Hub data set (default: its only one)")
    parser.add_argument("--labelled", action="store_true", help="a task of labels: score label accuracy too")
    parser.add_argument("--test-fraction", type=float, help="of the rows, where there are no test rows (default: 0.2)")


def task_options(options: argparse.Namespace) -> dict[str, Any]:
    """The same as `load_task` takes them; the model's tokenizer is loaded where its template is asked for."""
    names = ("prompt_column", "completion_column", "label_names", "chat", "subset", "test_fraction")
    asked = given(options, names) | {"labelled": options.labelled}
    if asked.get("chat") == "model":
        from workbench.models.base import load_tokenizer

        asked["chat"] = load_tokenizer(options.model, getattr(options, "revision", None))
    return {name.removesuffix("_column"): value for name, value in asked.items()}


def given(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The options that were typed, by name."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def refuse_unused(names: Iterable[str], method: str) -> None:
    """Raise MethodError for options that were typed and that the method, "full" or "auto", does not use."""
    from workbench.errors import MethodError

    why = {"full": "full fine-tuning has no adapters", "auto": "auto chooses by itself"}[method]
    if unused := ", ".join(f"--{name.replace('_', '-')}" for name in names):
        raise MethodError(f"{unused}: {why}; leave it out, or choose another method.")
