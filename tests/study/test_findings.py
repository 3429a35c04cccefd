"""The findings that ship are those of the rows that ship."""

from io import BytesIO

import pytest
from matplotlib.image import imread
from PIL import Image

from workbench.claims import claims
from workbench.paths import CHECKOUT
from workbench.results import reference
from workbench.study import findings, headlines, sentences

# By training a model of this size; architectures would need a second pretrained one.
TESTABLE = {"parity", "ceiling", "no-regret", "rank-alpha", "behaviour", "scoped", "small-models", "forgetting"}
TESTABLE |= {"hybrid", "qlora", "speed", "memory-ratio", "artifact", "new-domain"}


def rows(*scores, name):
    return [
        {
            "task": "tickets",
            "name": name,
            "learning_rate": 1e-3,
            "seed": seed,
            "exact_match": score,
            "loss": 1 - score,
            "forgetting": score,
            "status": "finished",
        }
        for seed, score in enumerate(scores)
    ]


def test_the_file_is_what_the_rows_say():
    """After new rows: .venv/bin/python -m workbench.study.findings"""
    assert findings.FINDINGS.read_text(encoding="utf-8") == findings.findings()
    assert headlines.headlines() in (CHECKOUT / "README.md").read_text(encoding="utf-8"), "the README's findings too"


@pytest.mark.parametrize("task", findings.complete())
def test_the_picture_is_what_the_rows_show(task):
    pictures = findings.picture_file(task).read_bytes(), findings.picture(task)
    stored, drawn = (imread(BytesIO(png)) for png in pictures)
    assert stored.shape == drawn.shape and abs(stored - drawn).mean() < 1e-3
    told = [Image.open(BytesIO(png)).text["Description"] for png in pictures]  # every point in words
    assert told[0] == told[1]


def test_the_claims_told_are_of_the_ledger():
    assert TESTABLE <= set(findings.by_claim()) <= set(claims())


@pytest.mark.parametrize(
    ("full", "words"),
    [
        ((0.7, 0.9, 0.8), "+10.0% (+0.0% to +20.0%), within noise"),  # a seed without a difference
        ((0.75, 0.76, 0.77), "+6.0% (+5.0% to +7.0%), within noise"),  # less than 120 rows can tell
        ((1.0, 1.0, 1.0), "+30.0% (+30.0% to +30.0%), beyond noise"),
    ],
)
def test_a_difference_is_paired_by_seed_and_says_whether_it_counts(full, words):
    told = [*rows(0.7, 0.7, 0.7, name="lora"), *rows(*full, name="full")]
    assert sentences.paired(told, "exact_match", "full", "lora").startswith(words)


def test_other_measures_are_judged_by_the_seeds_alone():
    told = [*rows(0.7, 0.7, 0.7, name="lora"), *rows(0.71, 0.72, 0.73, name="full")]
    assert sentences.paired(told, "forgetting", "full", "lora") == "+0.02 (+0.01 to +0.03), all seeds agree"


def test_a_diverged_run_is_no_score(monkeypatch):
    """Widening goes towards rates that break; such a row has no exact match."""
    stored = reference.study_rows
    broken = stored("full")[0] | {"exact_match": None, "status": "diverged"}
    broken |= {"learning_rate": 1.0, "forgetting": None, "loss": None}
    expected = findings.by_claim()
    monkeypatch.setattr(reference, "study_rows", lambda *names: stored(*names) + [broken] * ("full" in names))
    assert findings.by_claim() == expected and "to 1 |" in findings.task_table()


def test_one_step_off_is_half_and_twice_the_best_rate(monkeypatch):
    scored = {5e-4: 0.5, 1e-3: 0.9, 2e-3: 0.7, 4e-3: 0.1}
    own = [row | {"learning_rate": rate} for rate, score in scored.items() for row in rows(score, score, name="full")]
    told = [row | {"name": name} for name in ("lora", "qlora", "hybrid", "full") for row in own]
    monkeypatch.setattr(sentences, "by_task", lambda: {"tickets": told})
    assert "full 50% (50% to 50%) and 70% (70% to 70%)." in sentences.one_step_off("tickets")


def at_rates(name, **scored):
    """One run at each rate, on seed 0: rate in ten-thousandths -> its exact match and what it forgot."""
    (blank,) = rows(0.0, name=name)
    return [
        blank | {"learning_rate": int(rate[1:]) / 1e4, "exact_match": score, "loss": 1 - score, "forgetting": forgot}
        for rate, (score, forgot) in scored.items()
    ]


def test_a_run_of_full_betters_one_that_scores_no_higher_and_forgets_more(monkeypatch):
    full = at_rates("full", _1=(0.8, 0.5), _2=(0.9, 2.0))
    # Two are bettered, one by each of full; two are not; the last has learnt too little to count.
    lora = at_rates("lora", _5=(0.8, 0.6), _10=(0.9, 2.1), _20=(0.95, 3.0), _40=(0.85, 1.0), _80=(0.4, 3.0))
    monkeypatch.setattr(sentences, "by_task", lambda: {"tickets": full + lora})
    assert sentences.at_equal_score().endswith("forgot less: `tickets` 2 of 4.")


def test_the_ratio_of_best_rates_is_open_where_an_end_of_the_grid_is_as_good(monkeypatch):
    seeds = [row for name in ("lora", "full") for row in rows(0.9, 0.9, name=name)[1:]]
    full = at_rates("full", _1=(0.1, 0.0), _2=(0.9, 0.0), _4=(0.1, 0.0))
    lora = at_rates("lora", _10=(0.5, 0.0), _20=(0.9, 0.0), _40=(0.88, 0.0))
    seeds = [row | {"learning_rate": {"lora": 20, "full": 2}[row["name"]] / 1e4} for row in seeds]
    monkeypatch.setattr(sentences, "by_task", lambda: {"tickets": full + lora + seeds})
    assert "over full's: `tickets` 10 (10 to 20, open);" in sentences.rate_ratios()
    lora[2]["exact_match"] = 0.2
    assert "over full's: `tickets` 10 (10 to 10);" in sentences.rate_ratios()


def test_full_is_set_beside_the_lora_setting_that_scores_highest(monkeypatch):
    told = [*rows(0.5, 0.5, name="lora"), *rows(0.8, 0.8, name="mlp"), *rows(0.9, 0.9, name="full")]
    monkeypatch.setattr(sentences, "by_task", lambda: {"tickets": told})
    words = "On `tickets` full less the best of 2 settings of LoRA, LoRA on the MLP alone: +10.0%"
    assert sentences.full_and_best_adapter("tickets").startswith(words)
