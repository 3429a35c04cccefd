"""The course as a map: which exercises are solved and which lessons were run. Lesson 00 shows it."""

from __future__ import annotations

from pathlib import Path

import nbformat

from workbench import exercises, learner
from workbench.course.runner import find_notebooks


def course_map(folder: Path | None = None) -> str:
    """A Markdown table: a row for each lesson, with its question, its exercises, and what is done. folder: of runs."""
    solved, run = set(learner.noted(learner.SOLVED, folder)), set(learner.noted(learner.LESSON, folder))
    lines = ["| lesson | run | exercises solved | |", "|---|---|---|---|"]
    for number, title in lessons().items():
        own = [id for id in exercises.identifiers() if id.startswith(f"{number}.")]
        marks = " ".join("●" if id in solved else "○" for id in own)
        done = ", ".join(id.removeprefix(f"{number}.") for id in own if id in solved)
        lines.append(f"| {title} | {'●' if number in run else '○'} | {marks} | {done} |")
    count = len(exercises.identifiers())
    told = f"{len(solved & {*exercises.identifiers()})} of {count} exercises solved, {len(run)} lessons run to the end."
    return "\n".join([*lines, "", told])


def lessons() -> dict[str, str]:
    """Number -> title of each lesson, as its notebook begins."""
    found = {}
    for path in find_notebooks():
        first = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
        found[path.name[:2]] = first.removeprefix("# ")
    return found
