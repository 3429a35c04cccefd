"""One row of a task, and the names of the tasks that come with the course."""

from __future__ import annotations

from dataclasses import dataclass

SHIPPED = ("orders", "tickets", "facts", "protocol")  # each is a folder of data/tasks
BUILT_IN = (*SHIPPED, "docs")


@dataclass(frozen=True)
class Example:
    """One pair: the model reads `prompt` and learns to write `completion`. Both are joined as they are."""

    prompt: str
    completion: str
