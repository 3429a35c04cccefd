"""Verdicts of lesson 08 follow the measurements wherever they point."""

from dataclasses import replace

import pytest

from workbench.claims import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, claims, verdicts
from workbench.cost.gpus import gpus
from workbench.cost.roofline import serve
from workbench.serving.measure import Several

MEASURED = Several(4, 40_000_000, 500_000_000, 0.002, 1.0, True, True)


def judged(**changes) -> dict[str, str]:
    found = verdicts("swap", "artifact", "modules", several=replace(MEASURED, **changes))
    return {one.claim: one.verdict for one in found}


@pytest.mark.parametrize(
    ("claim", "changes", "expected"),
    [
        ("swap", {}, SUPPORTED),
        ("swap", {"swap_seconds": 0.5}, DEPENDS),
        ("swap", {"adapter_bytes": 400_000_000}, DEPENDS),
        ("swap", {"adapter_bytes": 400_000_000, "swap_seconds": 0.5}, NOT_SUPPORTED),
        ("artifact", {}, DEPENDS),
        ("artifact", {"model_bytes": 3_000_000_000}, SUPPORTED),
        ("artifact", {"adapter_bytes": 480_000_000}, NOT_SUPPORTED),
        ("modules", {}, SUPPORTED),
        ("modules", {"unchanged": False}, NOT_SUPPORTED),
        ("modules", {"restored": False}, NOT_SUPPORTED),
    ],
)
def test_a_verdict_follows_the_measurement(claim, changes, expected):
    assert judged(**changes)[claim] == expected


def test_the_evidence_holds_the_numbers():
    (swap,) = verdicts("swap", several=MEASURED)
    assert "50 times smaller" in swap.evidence and "takes 2 ms, 500 times less" in swap.evidence
    (artifact,) = verdicts("artifact", several=MEASURED)
    assert artifact.evidence == "an adapter is 10.0 MB, a whole model 500 MB."


@pytest.mark.parametrize(
    ("tasks", "expected"), [((20,), SUPPORTED), ((1, 20), DEPENDS), ((1,), NOT_SUPPORTED), ((), UNTESTED)]
)
def test_adapters_take_fewer_gpus_for_many_tasks_and_not_for_one(tasks, expected):
    services = {count: serve(count, 16e9, 80e6, gpus()["L4"]) for count in tasks}
    (found,) = verdicts("serving", services=services)
    assert found.verdict == expected
    assert 20 not in tasks or "20 tasks take 2 GPUs" in found.evidence


def test_the_ledger_names_this_lesson():
    assert all("08" in claims()[claim].notebooks for claim in ("swap", "artifact", "modules", "serving"))
