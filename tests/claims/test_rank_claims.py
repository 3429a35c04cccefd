"""Verdicts on rank, alpha and rate follow the rows wherever they point."""

import pytest

from workbench import load_task
from workbench.claims import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, claims, verdicts as all_verdicts
from workbench.claims.ranks import one_step_off, rate_factor, recall_by, regrets, seed_range, steps_off
from workbench.panels.bets import verdict_table
from workbench.results import reference
from workbench.tasks.tasks import SWEEP_FACTS


def row(rank, exact, rate=1e-3, seed=0, alpha=32.0, **changes) -> dict:
    return {
        "rank": rank,
        "alpha": alpha,
        "learning_rate": rate,
        "seed": seed,
        "exact_match": exact,
        "loss": exact and 1 - exact,
        "status": "finished",
        "targets": "all-linear",
        "layers": None,
        "rslora": False,
    } | changes


def grid(**changes) -> dict[str, list[dict]]:
    """Rank 1 recalls 0.80 and rank 8 0.82 (seeds 0.80 to 0.84, so a span of 0.04), full 0.81 at a tenth of the rate."""
    parts = {
        "ranks": [row(1, 0.80), row(1, 0.3, 4e-3), row(8, 0.80), row(8, 0.82, seed=1), row(8, 0.84, seed=2)],
        "few": [row(1, 0.1), row(8, 0.5)],
        "alphas": [row(8, 0.8, alpha=8.0), row(8, 0.81, alpha=32.0)],
        "full": [row(None, 0.81, 1e-4), row(None, 0.2, 1e-3)],
        "study": study((0.80, 0.81), (0.79, 0.83)),
    }
    return parts | changes


def study(*tasks, rival: int = 16) -> list[dict]:
    """Two seeds a task: what was chosen, rank 8, and the best setting found, of another rank."""
    names = ("auto", "lora")
    return [
        row(
            8 if name == "auto" else rival,
            exact,
            rate=rate,
            seed=seed,
            name=name,
            method="lora r=8",
            task=f"task {number}",
        )
        for number, pair in enumerate(zip(tasks[::2], tasks[1::2], strict=True))
        for name, rate, seeds in zip(names, (1e-3, 2e-3), pair, strict=True)
        for seed, exact in enumerate(seeds)
    ]


def verdicts(**changes) -> dict[str, str]:
    return {verdict.claim: verdict.verdict for verdict in all_verdicts(**grid(**changes))}


def test_the_yardstick_is_the_widest_range_of_seeds():
    assert seed_range(grid()["ranks"]) == pytest.approx(0.04)
    shaky = [row(1, 0.6), row(1, 0.9, seed=1), row(8, 1.0), row(8, 0.99, seed=1)]
    assert seed_range(shaky) == pytest.approx(0.3)
    assert verdicts(ranks=shaky)["rank-alpha"] == NOT_SUPPORTED
    assert recall_by(grid()["ranks"]) == pytest.approx({1: 0.80, 8: 0.82})


def test_one_step_off_is_from_the_mean_at_the_best_rate_to_both_neighbours():
    rows = [row(1, 0.9, 2e-3), row(1, 0.5, 1e-3), row(1, 0.7, 4e-3), row(1, 0.1, 8e-3), row(1, 0.0, 2e-3, seed=1)]
    rows += [row(8, 0.8, 2e-3), row(8, 0.7, 1e-3)]
    assert one_step_off(rows) == pytest.approx((0.45 - 0.6 + 0.1) / 2)
    assert steps_off(rows) == pytest.approx(((0.45 - 0.5 + 0.1) / 2, 0.45 - 0.7)), "below, and above where tried"
    assert steps_off([row(1, 0.5)]) == (0.0, 0.0)
    assert rate_factor(rows) == pytest.approx(2) and rate_factor(rows[:1]) == 1


@pytest.mark.parametrize(
    ("claim", "changes", "expected"),
    [
        ("update", {}, DEPENDS),
        ("update", {"ranks": [row(1, 0.4), row(8, 0.80), row(8, 0.82, seed=1)]}, SUPPORTED),
        ("update", {"few": [row(1, 0.5), row(8, 0.52)]}, NOT_SUPPORTED),
        ("rank-alpha", {}, NOT_SUPPORTED),  # only the rate matters
        ("rank-alpha", {"ranks": [row(1, 0.2), *grid()["ranks"][2:]]}, DEPENDS),
        (
            "rank-alpha",
            {
                "ranks": [row(1, 0.2), *grid()["ranks"][2:]],
                "alphas": [row(8, 0.2, alpha=8.0), row(8, 0.8, alpha=32.0)],
            },
            SUPPORTED,
        ),
        (
            "rank-alpha",  # alphas, each at the best of two rates so far apart that neither need be any good
            {
                "ranks": grid()["ranks"][:1] + grid()["ranks"][2:],
                "alphas": [row(8, 0.2, rate, alpha=8.0) for rate in (1e-3, 4e-3)] + [row(8, 0.8, alpha=32.0)],
            },
            UNTESTED,
        ),
        ("no-regret", {}, SUPPORTED),
        ("no-regret", {"full": [row(None, 0.81, 1e-3)]}, DEPENDS),
        ("no-regret", {"full": [row(None, 0.81, 1e-4), row(None, 0.81, 4e-4)]}, DEPENDS),  # 2.5 to 10 times
        ("no-regret", {"full": [row(None, 0.95, 1e-4)]}, NOT_SUPPORTED),
        ("ceiling", {}, NOT_SUPPORTED),
        ("ceiling", {"full": [row(None, 0.84, 1e-4)]}, DEPENDS),
        ("ceiling", {"full": [row(None, 0.95, 1e-4)]}, SUPPORTED),
        ("ceiling", {"ranks": [row(1, 0.99), row(8, 0.985)], "full": [row(None, 1.0, 1e-4)]}, UNTESTED),
        ("auto", {}, SUPPORTED),
        ("auto", {"study": study((0.80,), (0.80,))}, UNTESTED),
        ("auto", {"study": study((0.80, 0.78), (0.79, 0.83))}, SUPPORTED),  # below its mean, not below its worst seed
        ("auto", {"study": study((0.78, 0.77), (0.79, 0.83))}, NOT_SUPPORTED),
        ("auto", {"study": study((0.78, 0.77), (0.79, 0.83), rival=8)}, UNTESTED),  # only the rate is off
        ("auto", {"study": study((0.78, 0.77), (0.79, 0.83), (0.9, 0.9), (0.9, 0.91))}, DEPENDS),
    ],
)
def test_a_verdict_follows_the_rows(claim, changes, expected):
    assert verdicts(**changes)[claim] == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("ranks", {"update", "rank-alpha", "no-regret", "ceiling"}),
        ("few", {"update"}),
        ("alphas", {"rank-alpha"}),
        ("full", {"no-regret", "ceiling"}),
        ("study", {"auto"}),
    ],
)
def test_without_a_part_only_the_claims_that_need_it_are_untested(part, expected):
    for rows in ([], [row(1, None, status="diverged", name="auto", method="lora r=1", task="facts")]):
        found = verdicts(**{part: rows})
        assert {claim for claim, verdict in found.items() if verdict == UNTESTED} == expected


def test_what_the_choice_missed_is_told_apart_by_rate_and_by_rank():
    rows = study((0.80, 0.82), (0.85, 0.87))
    rows += [row(8, 1.0, seed=seed, name="qlora", method="qlora r=8", task="task 0") for seed in (0, 1)]
    rows += [row(8, 1.0, seed=seed, name="mlp", method="lora r=8", task="task 0", targets="mlp") for seed in (0, 1)]
    rows.append(row(64, 1.0, name="lora r=64", method="lora r=64", task="task 0"))  # luck, as far as one seed can tell
    (found,) = regrets(rows)
    first = "task 0: chosen 81% (80% to 82%), its rate the best tried; the best of 1 other ranks and alphas "
    assert str(found) == first + "86% (85% to 87%) (rank 16, alpha 32, rate 0.002)" and not found.inside
    rate_alone = study((0.80, 0.82), (0.85, 0.87), rival=8)
    (found,) = regrets(rate_alone)
    words = "task 0: chosen 81% (80% to 82%); at rate 0.002, the best tried for its rank and alpha, 86% (85% to 87%); "
    assert str(found) == words + "no other rank or alpha has several seeds"
    twins = [one | {"name": "twin"} for one in rate_alone]
    assert regrets([*rate_alone, *twins]) == [found]
    (found,) = regrets([one | {"rslora": one["name"] == "lora"} for one in rate_alone])
    assert str(found) == first + "86% (85% to 87%) (rank 8, alpha 32, rsLoRA, rate 0.002)"


def test_one_seed_a_setting_is_no_yardstick():
    lone = [row(1, 0.80), row(8, 0.801)]
    assert verdicts(ranks=lone, alphas=lone)["rank-alpha"] == UNTESTED


def test_the_table_says_every_claim_with_its_rule():
    found = all_verdicts(**grid())
    table = verdict_table(found, "the grid says").splitlines()
    assert len(table) == 2 + len(found) and "the grid says" in table[0]
    for verdict, line in zip(found, table[2:], strict=True):
        assert "05" in claims()[verdict.claim].notebooks
        assert all(part in line for part in (verdict.claim, verdict.verdict, verdict.evidence, verdict.rule))


def test_the_stored_grid_is_of_the_data_that_ship():
    rows, facts = reference.stored_sweeps(), load_task("facts").head(SWEEP_FACTS)
    assert {row["task_sha256"] for row in rows} == {facts.sha256}
    assert {row["steps"] for row in rows} == {reference.SWEEP_CONFIG.steps}
    assert {row["group"] for row in reference.stored_sweeps("rate", "seeds")} == {"rate", "seeds"}
    assert {row["seed"] for row in rows if row["group"] == "seeds"} == {1, 2}
