"""The rules on the reference study, on simulated rows whose truth is known."""

import pytest

from support.study_rows import run, runs
from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED
from workbench.claims.rules import verdicts
from workbench.claims.study import at_equal_score, best_setting, compared, comparisons, rate_ratio


def verdict(claim, *rows):
    (found,) = verdicts(claim, paired=[row for own in rows for row in own])
    return found


@pytest.mark.parametrize(
    ("claim", "tasks", "expected"),
    [
        ("parity", {"tickets": 0.8, "protocol": 0.8}, SUPPORTED),
        ("parity", {"tickets": 0.8, "protocol": 0.95}, DEPENDS),
        ("parity", {"tickets": 0.95, "protocol": 0.95}, NOT_SUPPORTED),
        ("parity", {"tickets": 0.6}, SUPPORTED),
        ("scoped", {"tickets": 0.8, "protocol": 0.95}, SUPPORTED),
        ("scoped", {"tickets": 0.95, "docs": 0.8}, DEPENDS),
        ("scoped", {"protocol": 0.8}, UNTESTED),
        ("behaviour", {"protocol": 0.8}, NOT_SUPPORTED),
        ("behaviour", {"protocol": 0.95}, SUPPORTED),
        ("behaviour", {"tickets": 0.95}, UNTESTED),
    ],
)
def test_full_against_a_lora_that_scores_80_percent(claim, tasks, expected):
    rows = [runs(task, "lora", 0.8) + runs(task, "full", score) for task, score in tasks.items()]
    assert verdict(claim, *rows).verdict == expected


def test_a_better_setting_of_lora_makes_full_needless():
    rows = [*runs("protocol", "lora", 0.8), *runs("protocol", "full", 0.95), *runs("protocol", "alpha=128", 0.95)]
    assert best_setting(rows, "protocol") == "alpha=128"
    found = verdict("behaviour", rows)
    assert found.verdict == DEPENDS and "alpha=128" in found.evidence
    parity = verdict("parity", rows)
    assert parity.verdict == DEPENDS and "alpha=128" in parity.evidence


@pytest.mark.parametrize(("scores", "expected"), [((0.9, 0.9), NOT_SUPPORTED), ((0.9, 0.97), SUPPORTED)])
def test_a_ceiling_is_what_is_left_in_the_longest_runs(scores, expected):
    rows = [*runs("protocol", "lora", 0.7), *runs("protocol", "full", 0.9)]
    rows += [*runs("protocol", "lora, 200 steps", scores[0]), *runs("protocol", "full, 200 steps", scores[1])]
    assert verdict("ceiling", rows).verdict == expected
    assert verdict("ceiling", rows[:8]).verdict == UNTESTED, "one length tells no ceiling from slowness"


@pytest.mark.parametrize(("score", "expected"), [(0.95, SUPPORTED), (0.8, NOT_SUPPORTED)])
def test_a_hybrid_must_be_better_than_lora(score, expected):
    rows = [*runs("tickets", "lora", 0.8), *runs("tickets", "full", 0.96), *runs("tickets", "hybrid", score)]
    assert verdict("hybrid", rows).verdict == expected


def test_qlora_is_compared_with_lora_and_ranks_with_rank_8():
    rows = [*runs("tickets", "lora", 0.8), *runs("tickets", "qlora", 0.8), *runs("tickets", "lora r=64", 0.8)]
    assert verdict("qlora", rows).verdict == SUPPORTED
    assert verdict("rank-alpha", rows).verdict == NOT_SUPPORTED
    assert verdict("rank-alpha", rows, runs("tickets", "alpha=8", 0.6)).verdict == DEPENDS


def test_forgetting_is_judged_at_fulls_best_rate_and_compared_at_the_score_that_both_reach():
    """Full more than doubles the perplexity at its best rate, and not at a lower one that scores nearly as much."""
    rows = [*runs("tickets", "lora", 0.9, forgot=0.5), *runs("tickets", "lora", 0.4, rate=5e-4, forgot=0.0)]
    rows += [*runs("tickets", "full", 0.92, forgot=2.0), *runs("tickets", "full", 0.88, rate=5e-5, forgot=0.2)]
    score, lora, full = at_equal_score(rows, "tickets")
    assert score == pytest.approx(0.81, abs=0.02) and (lora.forgetting, full.forgetting) == (0.5, 0.2)
    found = verdict("forgetting", rows)
    assert found.verdict == SUPPORTED and "`tickets`: 7.4 after full, 1.6 after LoRA" in found.evidence
    assert "`tickets` (88% and 90% right): 1.2 after full" in found.evidence
    gentle = [row for row in rows if row["forgetting"] != 2.0]
    assert verdict("forgetting", gentle).verdict == NOT_SUPPORTED, "even if LoRA forgets more"
    assert verdict("forgetting", rows, runs("docs", "lora", 0.9), runs("docs", "full", 0.9)).verdict == DEPENDS


def test_the_compared_seeds_choose_neither_rate_nor_setting():
    """Another rate, and another setting, were lucky on them."""
    rows = [*runs("tickets", "lora", 0.8), *runs("tickets", "full", 0.8)]
    lucky = [run("tickets", "lora", 0.7, 0, 1e-3), *(run("tickets", "lora", 0.9, seed, 1e-3) for seed in (1, 2, 3))]
    assert {row["learning_rate"] for row in compared([*rows, *lucky], "tickets", "lora")} == {2e-3}
    wide = [run("tickets", "lora r=64", 0.7, 0), *(run("tickets", "lora r=64", 0.9, seed) for seed in (1, 2, 3))]
    assert best_setting([*rows, *wide], "tickets") == "lora"


def test_a_task_that_both_solve_shows_no_ceiling():
    rows = [*runs("protocol", "lora", 0.7), *runs("protocol", "full", 0.9)]
    rows += [*runs("protocol", "lora, 200 steps", 1.1), *runs("protocol", "full, 200 steps", 1.1)]
    found = verdict("ceiling", rows)
    assert found.verdict == UNTESTED and "Both all but solve `protocol` after 200 steps (LoRA 100.0%" in found.evidence
    further = [*runs("docs", "lora", 0.7), *runs("docs", "full", 0.9)]
    further += [*runs("docs", "lora, 200 steps", 0.8), *runs("docs", "full, 200 steps", 0.9)]
    found = verdict("ceiling", rows, further)
    assert found.verdict == SUPPORTED and "solve `protocol`" in found.evidence and "`docs` after" in found.evidence


@pytest.mark.parametrize(
    ("tasks", "expected"), [(("tickets", "docs"), UNTESTED), (("tickets", "docs", "facts"), SUPPORTED)]
)
def test_how_often_full_is_needed_takes_three_tasks(tasks, expected):
    rows = [[*runs(task, "lora", 0.8), *runs(task, "full", 0.8)] for task in tasks]
    found = verdict("fallback", *rows)
    assert found.verdict == expected and (expected == SUPPORTED or "a claim on most cases needs 3" in found.evidence)


def test_the_ratio_of_rates_spans_those_that_are_as_good():
    first = [run("tickets", "full", score, 0, rate) for rate, score in ((5e-5, 0.5), (1e-4, 0.9), (2e-4, 0.6))]
    first += [run("tickets", "lora", score, 0, rate) for rate, score in ((5e-4, 0.5), (1e-3, 0.9), (2e-3, 0.899))]
    assert rate_ratio(first, "tickets") == pytest.approx((10, 10, 20))


def test_rows_that_do_not_say_which_were_right_are_not_compared():
    old = [{**row, "right": None} for row in [*runs("tickets", "lora", 0.8), *runs("tickets", "full", 0.8)]]
    assert comparisons(old, "full", "lora") == {} and verdict("parity", old).verdict == UNTESTED


def test_the_seed_that_chose_the_rate_is_not_compared():
    rows = [*runs("tickets", "lora", 0.8), *runs("tickets", "full", 0.8)]
    assert comparisons(rows, "full", "lora")["tickets"].seeds == (3, 3)
