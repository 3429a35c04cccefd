"""Tables of runs: what was trained twice with the same settings counts once."""

from support.records import run
from workbench.results import latest_of_each
from workbench.results.noise import FIRST_STUDY_ROWS, rows_of
from workbench.scoring.scores import pack_rows


def test_of_runs_with_the_same_settings_the_latest_is_kept():
    old, new = (run("lora", created=f"2026-01-0{day}T00:00:00+00:00", exact=day / 10) for day in (1, 2))
    other = run("lora", config={"seed": 1, "test_limit": None}, created="2026-01-03T00:00:00+00:00")
    for runs in ([old, new, other], [other, new, old]):
        assert latest_of_each(runs) == [new, other]


def test_a_stored_run_says_on_how_many_rows_it_was_scored():
    assert rows_of({"right": pack_rows([True, False, True])}) == 3
    assert rows_of({"right": None}) == FIRST_STUDY_ROWS
