"""Verdicts on rank, alpha and rate follow the rows wherever they point."""

import pytest

from workbench import load_task, reference
from workbench.claims import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, claims
from workbench.panels.bets import verdict_table
from workbench.rank_claims import best_by, best_rates, judge_ranks, seed_range


def row(rank, exact, rate=1e-3, seed=0, alpha=32.0, **changes) -> dict:
    return {
        "rank": rank,
        "alpha": alpha,
        "learning_rate": rate,
        "seed": seed,
        "exact_match": exact,
        "loss": exact and 1 - exact,
        "status": "finished",
    } | changes


def grid(**changes) -> dict[str, list[dict]]:
    """Rank 1 recalls 0.80 and rank 8 0.82 (seeds 0.80 to 0.84, so a span of 0.04), full 0.81 at a tenth of the rate."""
    parts = {
        "ranks": [row(1, 0.80), row(1, 0.3, 4e-3), row(8, 0.80), row(8, 0.82, seed=1), row(8, 0.84, seed=2)],
        "few": [row(1, 0.1), row(8, 0.5)],
        "alphas": [row(8, 0.8, alpha=8.0), row(8, 0.81, alpha=32.0)],
        "full": [row(None, 0.81, 1e-4), row(None, 0.2, 1e-3)],
        "auto": [row(8, 0.81)],
    }
    return parts | changes


def verdicts(**changes) -> dict[str, str]:
    return {verdict.claim: verdict.verdict for verdict in judge_ranks(**grid(**changes))}


def test_the_yardstick_is_the_range_of_the_best_settings_seeds():
    assert seed_range(grid()["ranks"]) == pytest.approx(0.04)
    assert best_by(grid()["ranks"], "rank") == pytest.approx({1: 0.80, 8: 0.82})
    assert best_rates([*grid()["ranks"], *grid()["full"]]) == {None: 1e-4, 1: 1e-3, 8: 1e-3}


@pytest.mark.parametrize(
    ("claim", "changes", "expected"),
    [
        ("update", {}, DEPENDS),
        ("update", {"ranks": [row(1, 0.4), row(8, 0.80), row(8, 0.82, seed=1)]}, SUPPORTED),
        ("update", {"few": [row(1, 0.5), row(8, 0.52)]}, NOT_SUPPORTED),
        ("rank-alpha", {}, DEPENDS),  # only the rate matters
        ("rank-alpha", {"ranks": grid()["ranks"][:1] + grid()["ranks"][2:]}, NOT_SUPPORTED),
        (
            "rank-alpha",
            {
                "ranks": [row(1, 0.2), *grid()["ranks"][2:]],
                "alphas": [row(8, 0.2, alpha=8.0), row(8, 0.8, alpha=32.0)],
            },
            SUPPORTED,
        ),
        ("no-regret", {}, SUPPORTED),
        ("no-regret", {"full": [row(None, 0.81, 1e-3)]}, DEPENDS),
        ("no-regret", {"full": [row(None, 0.95, 1e-4)]}, NOT_SUPPORTED),
        ("ceiling", {}, NOT_SUPPORTED),
        ("ceiling", {"full": [row(None, 0.84, 1e-4)]}, DEPENDS),
        ("ceiling", {"full": [row(None, 0.95, 1e-4)]}, SUPPORTED),
        ("auto", {}, SUPPORTED),
        ("auto", {"auto": [row(8, 0.79)]}, NOT_SUPPORTED),
    ],
)
def test_a_verdict_follows_the_rows(claim, changes, expected):
    assert verdicts(**changes)[claim] == expected


@pytest.mark.parametrize("part", ["ranks", "few", "alphas", "full", "auto"])
def test_without_a_part_nothing_is_claimed(part):
    for rows in ([], [row(1, None, status="diverged")]):
        assert set(verdicts(**{part: rows}).values()) == {UNTESTED}


def test_the_table_says_every_claim_with_its_rule():
    found = judge_ranks(**grid())
    table = verdict_table(found, "the grid says").splitlines()
    assert len(table) == 2 + len(found) and "the grid says" in table[0]
    for verdict, line in zip(found, table[2:], strict=True):
        assert "05" in claims()[verdict.claim].notebooks
        assert all(part in line for part in (verdict.claim, verdict.verdict, verdict.evidence, verdict.rule))


def test_the_stored_grid_is_of_the_data_that_ship():
    rows, facts = reference.sweep_rows(), load_task("facts").head(reference.SWEEP_FACTS)
    assert {row["task_sha256"] for row in rows} == {facts.sha256}
    assert {row["steps"] for row in rows} == {reference.SWEEP_CONFIG.steps}
    assert {row["group"] for row in reference.sweep_rows("rate", "seeds")} == {"rate", "seeds"}
    assert {row["seed"] for row in rows if row["group"] == "seeds"} == {1, 2}
