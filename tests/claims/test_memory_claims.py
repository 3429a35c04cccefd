"""Verdicts on memory and money follow the grid wherever it points."""

import pytest

from support.grid_rows import grid_row
from workbench.claims import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, Verdict, claims, verdicts as all_verdicts
from workbench.claims.memory import pairs
from workbench.cost.gpus import gpus
from workbench.cost.grid import FULL_BF16, FULL_MASTER, LORA, LORA_FEW, QLORA
from workbench.panels.bets import verdict_table

PUBLISHED = {"memory_ratio": 1.7, "speed_ratio": 2.9, "tokens": 4.2e6}
SETTINGS = (FULL_MASTER, FULL_BF16, LORA_FEW, LORA, QLORA)
# GB of each setting in the order above, for each model
GRID = {
    ("tiny", 135e6): (3, 2, 1, 1, 0.9),
    ("one", 1.2e9): (26, 25, 5, 5, 3),
    ("other one", 1.5e9): (30, 26, 4, 4, 3),
    ("three", 3.2e9): (54, 40, 11, 11, 6),
    ("eight", 8e9): (140, 90, 30, 30, 12),
    ("seventy", 70e9): (1200, 600, 160, 160, 60),
}
BIG = ("one", "other_one", "three", "eight", "seventy")


def grid(money: float = 0.4, trained: float = 5e6, **changes) -> list[dict]:
    """One shape of the step. changes: model -> other GB."""
    rows = []
    for (model, parameters), sizes in GRID.items():
        for setting, size in zip(SETTINGS, changes.get(model.replace(" ", "_"), sizes), strict=True):
            a100s = max(1, round(size / 80))
            rows.append(grid_row(model, parameters, setting, size * 1e9, trained, money, a100s))
    return rows


def judged(rows: list[dict], published=PUBLISHED) -> dict[str, Verdict]:
    return {one.claim: one for one in all_verdicts(grid=rows, gpus=gpus(), published=published)}


def verdicts(published=PUBLISHED, **changes) -> dict[str, str]:
    return {claim: one.verdict for claim, one in judged(grid(**changes), published).items()}


@pytest.mark.parametrize(
    ("claim", "changes", "expected"),
    [
        ("params", {}, SUPPORTED),
        ("params", {"trained": 21e6}, NOT_SUPPORTED),
        ("memory-ratio", {}, DEPENDS),
        ("memory-ratio", {"three": (60, 60, 10, 10, 6), "eight": (160, 150, 30, 30, 12)}, SUPPORTED),
        ("memory-ratio", dict.fromkeys(BIG, (4, 3, 2, 2, 1)), NOT_SUPPORTED),
        ("memory-1b", {}, SUPPORTED),
        ("memory-1b", {"one": (26, 12, 9, 5, 3), "other_one": (20, 11, 9, 9, 3)}, DEPENDS),
        ("memory-1b", {"one": (23, 12, 5, 5, 3), "other_one": (23, 12, 5, 5, 3)}, NOT_SUPPORTED),
        ("consumer-3b", {}, SUPPORTED),
        ("consumer-3b", {"three": (60, 40, 10, 26, 6)}, SUPPORTED),
        ("consumer-3b", {"three": (60, 40, 26, 26, 6)}, NOT_SUPPORTED),
        ("eight-to-one", {}, DEPENDS),
        ("eight-to-one", {"seventy": (1200, 600, 80, 80, 60)}, SUPPORTED),
        ("eight-to-one", {"seventy": (1200, 600, 160, 160, 90)}, NOT_SUPPORTED),
        ("eight-to-one", {"seventy": (500, 300, 80, 80, 60)}, UNTESTED),
        ("qlora", {}, SUPPORTED),
        ("qlora", {"eight": (140, 90, 30, 24, 24)}, DEPENDS),
        ("qlora", dict.fromkeys(("tiny", *BIG), (60, 40, 10, 10, 10)), NOT_SUPPORTED),
        ("small-models", {}, SUPPORTED),
        ("small-models", {"tiny": (20, 19, 10, 10, 9)}, DEPENDS),
        ("small-models", {"tiny": (90, 90, 1, 1, 1)}, NOT_SUPPORTED),
        ("architectures", {}, SUPPORTED),
        ("architectures", {"other_one": (26, 25, 5, 5, 3)}, NOT_SUPPORTED),
        ("cost", {}, SUPPORTED),
        ("cost", {"money": 0.9}, NOT_SUPPORTED),
        ("tokens", {}, NOT_SUPPORTED),
        ("tokens", {"published": PUBLISHED | {"tokens": 2e12}}, SUPPORTED),
    ],
)  # fmt: skip
def test_a_verdict_follows_the_grid(claim, changes, expected):
    assert verdicts(**changes)[claim] == expected


@pytest.mark.parametrize("models", [(), ("tiny",), ("one",), ("tiny", "one"), ("seventy",)])
@pytest.mark.parametrize("settings", [SETTINGS, (LORA,), (FULL_MASTER, QLORA), (FULL_MASTER, LORA)])
def test_what_the_grid_lacks_is_untested(models, settings):
    rows = [row for row in grid() if row["model"] in models and row["setting"] in settings]
    found = judged(rows)
    assert found["consumer-3b"].verdict == found["architectures"].verdict == UNTESTED
    assert found["small-models"].verdict == UNTESTED or ("tiny" in models and "one" in models and len(settings) > 1)
    if not rows:
        assert {one.verdict for one in found.values() if one.claim != "tokens"} == {UNTESTED}
    assert all(one.evidence.startswith("The grid has no ") for one in found.values() if one.verdict == UNTESTED)


def test_only_the_same_model_and_shape_are_compared():
    rows = grid()
    rows += [row | {"sequence_length": 2048, "reserved_bytes": 9e9} for row in rows if row["setting"] == LORA]
    found = pairs(rows, (FULL_MASTER,), (LORA,))
    assert len(found) == len(GRID)
    assert all(one["model"] == other["model"] and other["sequence_length"] == 512 for one, other in found)


def test_eight_gpus_are_counted_at_the_step_that_takes_fewest():
    rows = grid()
    worse = [row | {"sequence_length": 8192, "a100s": None} for row in rows if row["setting"] == FULL_MASTER]
    worse += [row | {"batch_size": 1, "a100s": 9} for row in rows if row["model"] == "eight"]
    found = judged([*worse, *rows])["eight-to-one"]
    assert found.verdict == DEPENDS and "at least 2 for eight, 15 for seventy" in found.evidence
    assert "LoRA fits one in 0 of 2 configurations, QLoRA in 1 of 1" in found.evidence


def test_every_claim_of_the_lesson_has_a_verdict_with_its_numbers():
    found = list(judged(grid()).values())
    assert {one.claim for one in found} == {id for id, claim in claims().items() if "04" in claim.notebooks}
    table = verdict_table(found, "the estimate says")
    for one in found:
        assert one.rule and any(letter.isdigit() for letter in one.evidence) and one.evidence in table
    ratio = next(one for one in found if one.claim == "memory-ratio")
    assert "from 2.0 (tiny, 4 x 512 tokens, full, bfloat16 against LoRA" in ratio.evidence
    assert "to 7.5 (other one, 4 x 512 tokens, full, float32 master against LoRA" in ratio.evidence
