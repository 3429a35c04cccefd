"""What is said on stderr while something runs, and how an exception is put into a sentence."""

import os
import sys
from contextlib import suppress


def progress_wanted() -> bool:
    """False where WORKBENCH_PROGRESS=0 asks for silence (tests, CI)."""
    return os.environ.get("WORKBENCH_PROGRESS", "1") != "0"


def say(words: str) -> None:
    """Print a line of progress on stderr, unless silence is asked for."""
    if progress_wanted():
        tell(words)


def on_terminal() -> bool:
    """Whether stderr is a terminal, where a line can be written over."""
    return sys.stderr is not None and sys.stderr.isatty()


def tell(words: str) -> None:
    """Print a line on stderr. A closed pipe or a full disk is ignored, so that it does not end a training."""
    with suppress(OSError, ValueError, AttributeError):  # the last two: stderr is closed, or there is none
        print(words, file=sys.stderr, flush=True)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, for a sentence of ours; its type if it has no message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]  # after a colon the next line says what it is
