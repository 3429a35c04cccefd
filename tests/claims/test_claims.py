"""The ledger, the bets, and verdicts that follow the numbers wherever they point."""

import re
from dataclasses import replace

import numpy as np
import pytest

from support.records import run
from workbench import claims
from workbench.claims import DEPENDS, JUDGED, NOT_SUPPORTED, SUPPORTED, UNTESTED
from workbench.paths import DATA
from workbench.scoring.scores import pack_rows


def verdicts(*runs) -> dict[str, str]:
    return {verdict.claim: verdict.verdict for verdict in claims.verdicts(*JUDGED, runs=runs)}


def test_the_ledger_names_every_claim_once():
    ledger = claims.claims()
    assert len(ledger) == 29 and set(JUDGED) <= set(ledger)
    assert all(claim.text.endswith(".") and claim.notebooks and claim.source for claim in ledger.values())


@pytest.mark.parametrize(
    ("claim", "changes", "expected"),
    [
        ("memory-ratio", {"memory": 6e9}, SUPPORTED),
        ("memory-ratio", {"memory": 3e9}, DEPENDS),
        ("memory-ratio", {"memory": 1.5e9}, NOT_SUPPORTED),
        ("speed", {"seconds": 1.5}, SUPPORTED),
        ("speed", {"seconds": 1.0}, DEPENDS),
        ("speed", {"seconds": 0.8}, NOT_SUPPORTED),
        ("parity", {"exact": 0.82}, DEPENDS),
        ("parity", {"exact": 0.95}, NOT_SUPPORTED),
        ("parity", {"exact": 0.60}, SUPPORTED),
        ("forgetting", {"forgot": 0.7}, SUPPORTED),
        ("forgetting", {"forgot": 0.11}, DEPENDS),
        ("forgetting", {"forgot": 0.09}, NOT_SUPPORTED),
        ("parity", {"exact": 0.80}, DEPENDS),  # level, but 400 rows do not see 5 points
        ("artifact", {"artifact_bytes": 3_000_000_000}, SUPPORTED),
        ("artifact", {}, DEPENDS),
    ],
)
def test_a_verdict_follows_fulls_numbers(claim, changes, expected):
    assert verdicts(run("lora"), run("full", **changes))[claim] == expected


@pytest.mark.parametrize(
    ("exact", "memory", "expected"),
    [(0.95, 1.2e9, SUPPORTED), (0.81, 1.2e9, DEPENDS), (0.95, 4e9, NOT_SUPPORTED), (0.6, 1.2e9, NOT_SUPPORTED)],
)
def test_hybrid_must_gain_over_lora_and_stay_below_full(exact, memory, expected):
    runs = run("lora"), run("hybrid", exact=exact, memory=memory), run("full", exact=0.85, memory=3e9)
    assert verdicts(*runs)["hybrid"] == expected


def test_missing_and_unfinished_runs_leave_claims_untested():
    assert set(verdicts(run("lora")).values()) == {UNTESTED}
    broken = run("full", status="out_of_memory", metrics={}, forgetting={}, history=[])
    assert set(verdicts(run("lora"), broken).values()) == {UNTESTED}
    assert verdicts(run("lora"), run("full"))["hybrid"] == UNTESTED
    assert verdicts(run("lora", artifact_bytes=None), run("full"))["artifact"] == UNTESTED


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({"peak_memory_bytes": None, "together": {"configurations": 8}}, {"memory-ratio", "speed"}),
        ({"metrics": {}, "forgetting": {}}, {"parity", "forgetting", "hybrid"}),
        ({"artifact_bytes": None}, {"artifact"}),
    ],
)
def test_what_a_run_did_not_measure_is_untested(changes, lacking):
    found = verdicts(run("lora", **changes), run("hybrid"), run("full"))
    assert {claim for claim, verdict in found.items() if verdict == UNTESTED} == lacking


def test_parity_takes_a_sample_that_could_have_seen_a_difference():
    """Of 10,000 rows noise is 1.1 points: 3 behind it could still be 5; of 100 of them it is 11."""
    rows = {"task": {"name": "t", "source": "t", "sha256": "0", "train_rows": 2, "test_rows": 10_000}}
    assert verdicts(run("lora", **rows), run("full", **rows))["parity"] == SUPPORTED
    assert verdicts(run("lora", **rows), run("full", exact=0.845, **rows))["parity"] == NOT_SUPPORTED
    few = rows | {"config": {"seed": 0, "test_limit": 100}}
    assert verdicts(run("lora", **few), run("full", exact=0.845, **few))["parity"] == DEPENDS


@pytest.mark.parametrize(("exact", "expected"), [(0.86, NOT_SUPPORTED), (0.8, SUPPORTED), (0.82, DEPENDS)])
def test_runs_that_store_their_rows_are_judged_row_by_row(exact, expected):
    """Of 1,000 rows a pair sees a difference of six points; two samples that are not paired would not be sure."""
    easy = np.random.default_rng(0).random(1000)

    def stored(name, exact):
        right = easy < exact if exact != 0.82 else np.random.default_rng(1).permutation(easy) < exact
        versions = {"precision": {"compute": "float32"}, "hardware": {"processor": "x"}}
        return run(name, float(right.mean()), right={"exact_match": pack_rows(right)}, **versions)

    assert verdicts(stored("lora", 0.8), stored("full", exact))["parity"] == expected
    runs = stored("lora", 0.8), stored("hybrid", 0.86), replace(stored("full", 0.86), peak_memory_bytes=3 * 10**9)
    assert verdicts(*runs)["hybrid"] == SUPPORTED


def test_a_hybrid_is_judged_row_by_row_where_two_samples_would_not_be_sure():
    """Three points of 1,000 rows, all of them rows that LoRA gets wrong: two samples would need over four."""
    easy = np.random.default_rng(0).random(1000)

    def stored(name, exact, memory=1e9):
        right = {"exact_match": pack_rows(easy < exact)}
        told = {"precision": {"compute": "float32"}, "hardware": {"processor": "x"}}
        return run(name, float((easy < exact).mean()), memory, right=right, **told)

    runs = stored("lora", 0.8), stored("hybrid", 0.835), stored("full", 0.835, 3e9)
    (found,) = claims.verdicts("hybrid", runs=runs)
    assert found.verdict == SUPPORTED and "(better)" in found.evidence


def test_the_syllabus_names_the_claims_that_the_ledger_gives_to_a_lesson():
    """Lesson 06 judges what its runs can; of the other claims of training the stored study speaks."""
    syllabus = (DATA.parent / "notebooks" / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| \[(\d\d)_.*\| ([^|]+) \|$", syllabus, re.MULTILINE))
    for lesson, named in told.items():
        own = {id for id, claim in claims.claims().items() if lesson in claim.notebooks}
        expected = {"00": {"-"}, "06": set(JUDGED)}.get(lesson, own)
        assert set(named.split(", ")) == expected, lesson
        assert lesson != "06" or set(JUDGED) <= own


def test_nothing_learnt_is_no_parity():
    assert verdicts(run("lora", exact=0.0), run("full", exact=0.0))["parity"] == UNTESTED


def test_bets_are_kept_and_a_damaged_file_is_no_bet(store):
    assert claims.load_bets(store) == {}
    claims.save_bets({"speed": DEPENDS}, store)
    assert claims.load_bets(store) == {"speed": DEPENDS}
    with pytest.raises(ValueError, match="is not a bet"):
        claims.save_bets({"speed": "maybe"}, store)
    (store.path / "learner" / "bets.json").write_text('{"speed": "perhaps", "parity": "depends", "hybrid": "depends"}')
    assert claims.load_bets(store) == {"hybrid": DEPENDS}, "parity was a bet once"
    (store.path / "learner" / "bets.json").write_text("[]")
    assert claims.load_bets(store) == {}
    (store.path / "learner" / "bets.json").write_text("{")
    assert claims.load_bets(store) == {} and store.all() == []
