"""Any two measures: which runs no other beats in both, from any source, and the table as CSV."""

import csv

import pytest
from hypothesis import given, strategies as st

from support.records import run
from workbench.errors import RunError
from workbench.results.pareto import MEASURES, front, gathered, with_both, write_csv

EXACT, MEMORY, LOSS = MEASURES["exact_match"], MEASURES["peak_memory_mb"], MEASURES["loss"]


def better(one, other, x, y) -> bool:
    """Whether one is at least as good in both measures and better in one."""
    signs = [-1 if measure.more else 1 for measure in (x, y)]
    gaps = [sign * (one[m.name] - other[m.name]) for sign, m in zip(signs, (x, y), strict=True)]
    return all(gap <= 0 for gap in gaps) and any(gap < 0 for gap in gaps)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40),
    st.sampled_from([(MEMORY, EXACT), (EXACT, MEMORY), (LOSS, MEMORY)]),
)
def test_the_front_is_what_no_other_run_beats(points, measures):
    x, y = measures
    rows = [{x.name: a, y.name: b, "label": f"{number}"} for number, (a, b) in enumerate(points)]
    found = front(rows, x, y)
    unbeaten = [row for row in rows if not any(better(other, row, x, y) for other in rows)]
    assert {(row[x.name], row[y.name]) for row in found} == {(row[x.name], row[y.name]) for row in unbeaten}
    assert len({(row[x.name], row[y.name]) for row in found}) == len(found)


def test_runs_of_all_sources_are_one_table():
    study = [{"name": "full", "status": "finished", "exact_match": 0.9, "peak_memory_mb": 3000.0}]
    published = [{"label": "LoRA, Llama-3.2-3B", "peak_memory_mb": 21000.0, "tokens_per_second": 900.0}]
    rows = gathered([run("lora"), run("full", status="diverged")], study, published)
    assert [(row["source"], row["label"]) for row in rows] == [
        ("yours", "lora"),
        ("study", "full"),
        ("published", "LoRA, Llama-3.2-3B"),
    ]
    assert len(with_both(rows, MEMORY, EXACT)) == 2


def test_the_table_as_csv_holds_every_row_and_no_lists(tmp_path):
    rows = gathered([run("lora"), run("full", memory=3e9)])
    file = write_csv([row | {"losses": [1.0]} for row in rows], tmp_path / "new" / "runs.csv")
    with file.open(encoding="utf-8") as opened:
        read = list(csv.DictReader(opened))
    assert [float(row["peak_memory_mb"]) for row in read] == [1000.0, 3000.0] and "losses" not in read[0]
    with pytest.raises(RunError, match="no rows to write"):
        write_csv([], tmp_path / "runs.csv")
    with pytest.raises(RunError, match="cannot be written"):
        write_csv(rows, file / "runs.csv")
