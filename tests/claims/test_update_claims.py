"""The rule on real updates: what a cut keeps of the score decides."""

import pytest

from workbench.analysis import Cuts
from workbench.claims import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, claims, verdicts

BY_RANK = {0: 0.1, 1: 0.3, 8: 0.7, 64: 0.74}


def found(cuts):
    (own,) = verdicts("update", cuts=cuts)
    return own


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, SUPPORTED),
        ({8: 0.6}, DEPENDS),
        ({8: 0.6, 64: 0.6}, NOT_SUPPORTED),
        ({1: 0.8, 8: 0.6, 64: 0.6}, SUPPORTED),
    ],
)
def test_the_verdict_follows_what_is_left(changes, expected):
    own = found(Cuts(base=0.0, whole=0.75, by_rank=BY_RANK | changes, rows=64))
    assert own.verdict == expected and "at rank 64 (13% without any" in own.evidence


def test_nothing_learned_tests_nothing():
    for whole in (0.0, 0.05):
        own = found(Cuts(base=0.0, whole=whole, by_rank={8: whole}, rows=64))
        assert own.verdict == UNTESTED and "train longer" in own.evidence


def test_the_ledger_sends_it_to_lesson_07():
    assert all("07" in claims()[id].notebooks for id in ("update", "forgetting", "hybrid", "ceiling"))
