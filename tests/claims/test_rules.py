"""The registry: which claims have rules, and which rules are asked."""

import pytest

from support.records import run
from workbench.claims import JUDGED, UNTESTED, claims, verdicts
from workbench.claims.rules import Evidence, NotTested, Rule, rules

LESSONS = ("03", "04", "05", "08")  # which judge every claim of theirs; lesson 06 judges JUDGED


def test_every_claim_that_a_lesson_judges_has_a_rule_and_every_rule_a_claim():
    judged = {one.claim for one in rules()}
    testable = {id for id, claim in claims().items() if set(LESSONS) & set(claim.notebooks)}
    assert testable | set(JUDGED) <= judged <= set(claims())


def test_a_rule_needs_evidence_that_can_be_given_and_no_two_rules_need_the_same():
    pairs = [(one.claim, one.needs) for one in rules()]
    assert all(needs and set(needs) <= set(Evidence.__annotations__) for _, needs in pairs)
    assert len(set(pairs)) == len(pairs)


def test_all_rules_of_a_claim_that_have_their_evidence_are_asked():
    evidence = {"runs": [run("lora"), run("full", memory=6e9)]}
    (by_runs,) = verdicts("memory-ratio", **evidence)
    assert by_runs.evidence == "full needs 6.0 times the peak memory of LoRA."
    grid = {"grid": [], "published": {"memory_ratio": 1.7}}
    assert verdicts("memory-ratio", grid=[]) == []
    assert len(verdicts("memory-ratio", **evidence, **grid)) == 2


def test_verdicts_are_in_the_order_of_the_ledger():
    found = [one.claim for one in verdicts("parity", "speed", "memory-ratio", runs=[])]
    assert found == ["memory-ratio", "speed", "parity"]


def test_what_the_evidence_lacks_is_said():
    def judge(runs):
        raise NotTested("There are no runs.")

    found = Rule("speed", ("runs",), judge).verdict({"runs": []})
    assert (found.claim, found.verdict, found.evidence, found.rule) == ("speed", UNTESTED, "There are no runs.", "")


def test_an_unknown_claim_or_kind_of_evidence_is_an_error():
    with pytest.raises(ValueError, match="is called memory; use one of update, "):
        verdicts("memory", runs=[])
    with pytest.raises(ValueError, match="is called rows; use one of runs, grid, "):
        verdicts(rows=[])
