"""No rule has its verdict built in: possible evidence supports the claim of each, and other evidence refutes it."""

from collections import defaultdict
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from support.any_evidence import evidence
from workbench.claims.ledger import NOT_SUPPORTED, SUPPORTED, UNTESTED, VERDICTS
from workbench.claims.rules import rules

DRAWS = 400  # worlds at most; the search ends as soon as every rule has said both


@pytest.fixture(scope="module")
def said():
    """Rule -> the verdicts that it gave in random worlds."""
    found = defaultdict[tuple[str, tuple[str, ...]], set[str]](set)
    for seed in range(DRAWS):
        world = evidence(Random(seed))
        for rule in rules():
            if not {SUPPORTED, NOT_SUPPORTED} <= found[rule.claim, rule.needs]:
                found[rule.claim, rule.needs].add(rule.verdict(world).verdict)
        if all({SUPPORTED, NOT_SUPPORTED} <= found[rule.claim, rule.needs] for rule in rules()):
            break
    return found


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: f"{rule.claim} by {' and '.join(rule.needs)}")
@pytest.mark.parametrize("verdict", [SUPPORTED, NOT_SUPPORTED])
def test_every_rule_can_say_both(said, rule, verdict):
    assert verdict in said[rule.claim, rule.needs]


@settings(max_examples=10)
@given(st.integers(1000, 10**9))
def test_every_verdict_is_one_of_four_words_with_a_sentence(seed):
    world = evidence(Random(seed))
    for rule in rules():
        found = rule.verdict(world)
        assert found.verdict in (*VERDICTS, UNTESTED) and len(found.evidence) > 10
        assert found.rule or found.verdict == UNTESTED
