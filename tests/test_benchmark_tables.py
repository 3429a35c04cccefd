"""The table of speed is one that `benchmarks/roofline.py` prints; the README and a lesson quote what was measured."""

import re
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from workbench.paths import CHECKOUT

BENCHMARKS = CHECKOUT / "benchmarks"


@pytest.fixture
def roofline(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("roofline")
    for name in ("roofline", "contenders"):
        sys.modules.pop(name, None)


def rows(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading."""
    section = page.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in section.splitlines() if line[:1] == "|"]


def measured() -> tuple[list[str], list[list[list[str]]]]:
    """The head of the first table of speed, and its rows by contender, those that belong together in a list."""
    head, _, *table = rows(BENCHMARKS / "README.md", "Speed")
    first = list(takewhile(lambda row: row != head, table))
    return head, [first[start : start + 3] for start in range(0, len(first), 3)]


def test_the_table_is_what_the_benchmark_prints(roofline):
    head, groups = measured()
    assert head == roofline.COLUMNS.split(" | ") and len(groups) == 4
    for group in groups:
        assert [row[3] for row in group] == list(roofline.CONTENDERS)
        seconds, ratios, losses = ([float(row[place]) for row in group] for place in (4, 7, 9))
        assert ratios == pytest.approx([seconds[-1] / each for each in seconds], abs=0.01)
        rounding = {"float32": 1e-3, "bfloat16": 2e-2}[group[0][2]]
        assert max(losses) - min(losses) < rounding, "all three train the same thing"


def test_the_readme_quotes_that_table():
    _, _, *quoted = rows(CHECKOUT / "README.md", "What it costs")
    _, groups = measured()
    assert quoted == [[*own[:3], own[4], trl[4], own[7], own[8], trl[8]] for own, _, trl in groups]


def test_the_readme_quotes_no_other_speed():
    section = (CHECKOUT / "README.md").read_text(encoding="utf-8").split("## What it costs", 1)[1].split("\n## ", 1)[0]
    assert not re.search(r"times as (fast|quick)|faster", section)
