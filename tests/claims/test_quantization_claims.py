"""Verdicts of lesson 03 follow the peaks wherever they point."""

import pytest

from support.records import run
from workbench.claims import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, Verdict, claims, verdicts as all_verdicts


def judged(*runs) -> dict[str, Verdict]:
    return {found.claim: found for found in all_verdicts("memory-ratio", "qlora", runs=runs)}


def verdicts(*runs) -> dict[str, str]:
    return {claim: found.verdict for claim, found in judged(*runs).items()}


@pytest.mark.parametrize(
    ("memory", "expected"), [(5e8, SUPPORTED), (8.9e8, SUPPORTED), (9.5e8, DEPENDS), (1e9, NOT_SUPPORTED)]
)
def test_qlora_must_save_a_tenth_of_loras_peak(memory, expected):
    assert verdicts(run("lora", memory=1e9), run("qlora", memory=memory))["qlora"] == expected


@pytest.mark.parametrize(("memory", "expected"), [(6e9, SUPPORTED), (3e9, DEPENDS), (1.5e9, NOT_SUPPORTED)])
def test_the_memory_ratio_needs_no_scores_of_the_full_run(memory, expected):
    full = run("full", memory=memory, metrics={}, forgetting={}, artifact_bytes=None)
    assert verdicts(run("lora", memory=1e9), run("qlora", memory=5e8), full)["memory-ratio"] == expected


def test_what_was_not_run_is_not_judged():
    assert verdicts() == {"qlora": UNTESTED, "memory-ratio": UNTESTED}
    assert verdicts(run("lora"), run("full", memory=3e9)) == {"qlora": UNTESTED, "memory-ratio": DEPENDS}
    assert verdicts(run("lora"), run("qlora", status="interrupted"))["qlora"] == UNTESTED


def test_the_evidence_holds_the_numbers_and_calls_noise_noise():
    first = judged(run("lora", exact=0.8, seconds=1.0), run("qlora", 0.79, 6e8, seconds=1.5))["qlora"]
    assert "600 MB, LoRA's 1,000 MB (40% saved)" in first.evidence and "1.50 times as long" in first.evidence
    assert "79% against 80%, a difference within the noise" in first.evidence
    far = judged(run("lora", exact=0.9), run("qlora", 0.5, 6e8))["qlora"]
    assert "beyond the noise" in far.evidence
    unscored = judged(run("lora", metrics={}), run("qlora", metrics={}))["qlora"]
    assert "was not measured" in unscored.evidence


def test_the_ledger_names_this_lesson():
    assert "03" in claims()["qlora"].notebooks
