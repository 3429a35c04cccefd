"""The times that people plan with agree: in the lessons, in the syllabus, and in the plans for leaders."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def test_a_lesson_takes_as_long_as_the_syllabus_says():
    table = (NOTEBOOKS / "README.md").read_text(encoding="utf-8").split("## Time\n")[1].split("\n## ")[0]
    syllabus = {row[1]: int(row[2]) for row in re.finditer(r"(?m)^\| (\d\d_\w+) \|.*\| (\d+) min \|$", table)}
    lessons = {}
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        title = nbformat.read(path, as_version=4).cells[0].source
        lessons[path.stem] = int(re.search(r"\*\*Time:\*\* about (\d+) minutes", title)[1])
    assert syllabus == lessons


@pytest.mark.parametrize(("plan", "minutes"), [("90 minutes", 90), ("Half a day (3.5 hours)", 210), ("A day", 200)])
def test_the_minutes_of_a_plan_follow_each_other(plan, minutes):
    text = (NOTEBOOKS / "LEADING.md").read_text(encoding="utf-8")
    section = re.search(rf"(?ms)^## {re.escape(plan)}.*?$(.*?)^## ", text)[1]
    parts = [(int(row[1]), int(row[2])) for row in re.finditer(r"(?m)^\| (\d+)-(\d+) \|", section)]
    assert [0, *(end for _, end in parts)] == [*(start for start, _ in parts), minutes]
