"""Efficiencies: the halves of the published step times, and intervals by hand."""

import math

import pytest
from hypothesis import given, strategies as some

from workbench.cost.efficiency import COVERAGE, LONG, SHORT, StepTime, efficiency, halves, kind_of, step_times

TIMES = step_times()


def test_published_runs_stay_below_the_bound():
    assert len(TIMES) >= 20 and all(0 < time.share < 1 for time in TIMES)
    assert {(time.family, time.kind) for time in TIMES} == {("Ada", SHORT), ("Ada", LONG), ("Ampere", LONG)}


def test_the_halves_share_no_run_and_hold_all():
    fitted, held_out = halves(TIMES)
    assert sorted(time.label for time in fitted + held_out) == sorted(time.label for time in TIMES)
    assert 0 <= len(fitted) - len(held_out) <= len({(time.family, time.kind) for time in TIMES})


def test_most_runs_that_were_held_out_lie_in_the_interval():
    fitted, held_out = halves(TIMES)
    covered = [efficiency(time.family, time.kind, fitted).holds(time) for time in held_out]
    assert sum(covered) >= 0.75 * len(covered)


def test_an_interval_by_hand():
    times = [StepTime("Ada", SHORT, str(share), share) for share in (0.2, 0.3)]
    found = efficiency("Ada", SHORT, times)
    assert found.share == pytest.approx(math.sqrt(0.06)) and (found.family, found.runs) == ("Ada", 2)
    # standard deviation of the logarithms log(1.5) / sqrt(2); Student's t of one degree of freedom at 95 %: 6.314
    spread = math.log(1.5) / math.sqrt(2) * 6.314 * math.sqrt(1.5)
    assert found.low == pytest.approx(found.share * math.exp(-spread), rel=1e-3)
    assert found.high == 1.0 < found.share * math.exp(spread)


def test_a_family_with_too_few_runs_takes_those_of_all():
    times = [StepTime("Ada", LONG, "a", 0.2), StepTime("Ampere", LONG, "b", 0.3), StepTime("Ada", SHORT, "c", 0.9)]
    found = efficiency("Hopper", LONG, times)
    assert (found.family, found.runs) == ("any", 2) and found.share == pytest.approx(math.sqrt(0.06))


@given(some.lists(some.floats(0.05, 0.95), min_size=3, max_size=12))
def test_an_interval_holds_its_middle_and_no_more_than_the_whole_bound(shares):
    found = efficiency("Ada", LONG, [StepTime("Ada", LONG, "", share) for share in shares])
    assert found.low <= found.share * (1 + 1e-9) and found.share <= found.high * (1 + 1e-9) and found.high <= 1
    assert 0 < COVERAGE < 1


def test_a_step_is_short_or_long():
    assert [kind_of(tokens) for tokens in (1, 840, 2047, 2048, 16_384)] == [SHORT] * 3 + [LONG] * 2


def test_efficiencies_are_narrow_enough_to_plan_with():
    for family, kind in {(time.family, time.kind) for time in TIMES}:
        found = efficiency(family, kind)
        assert found.high < 3 * found.low, (family, kind)
