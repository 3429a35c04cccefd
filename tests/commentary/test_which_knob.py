"""The words of lesson 05 say what the rows say, whichever way these fall."""

import json
import re

import numpy as np
import pytest

from support.records import run
from support.rows import RANKS, row
from workbench.commentary import which_knob as say
from workbench.results import reference
from workbench.scoring.scores import pack_rows

RATES = (1e-3, 2e-3, 4e-3)


def grid(by_rank=0.0, by_rate=0.0, seeds=0.0):
    """A grid on which a doubled rank, a rate off by one step, and another seed change recall by so much."""
    return [
        row(
            rank,
            seed,
            learning_rate=rate,
            exact_match=0.5 + by_rank * np.log2(rank) - by_rate * abs(np.log2(rate / 2e-3)) + seeds * seed,
        )
        for rank in RANKS
        for rate in RATES
        for seed in (0, 1)
        if seed == 0 or rate == 2e-3
    ]


FULL = [row(None, learning_rate=rate, memorised_bits=bits) for rate, bits in ((1e-4, 900.0), (2e-4, 1200.0))]


@pytest.mark.parametrize(
    ("rows", "outcome", "words"),
    [
        (grid(by_rate=0.3, by_rank=0.01), "the rate", "The learning rate first"),
        (grid(by_rate=0.02, by_rank=0.05, seeds=0.01), "the worst rank", "The rank first"),
        (grid(by_rate=0.01, seeds=0.2), "neither costs more than luck", "Neither stands out from luck"),
    ],
)
def test_the_knob_that_costs_most_comes_first(rows, outcome, words):
    assert say.outcome(rows) == outcome
    text = say.answer(rows, FULL)
    assert text.startswith(f"**The answer:** {words}: in the stored runs, half or twice the best")
    assert "LoRA's best rates are 10 times those that suit full fine-tuning" in text


def test_a_jump_is_found_where_it_is_and_a_fall_is_none():
    falling = [6.0 * 0.9**step for step in range(60)]
    assert say.spikes(falling) == []
    jumped = [*falling[:30], 2.0, *falling[31:]]
    assert say.spikes(jumped) == [31]
    assert say.spikes([0.1] * 10 + [0.2]) == [], "too small to matter"


def history(losses):
    return [{"step": step, "loss": loss, "learning_rate": 1e-3, "seconds": 1.0} for step, loss in enumerate(losses, 1)]


def test_runs_that_jump_are_named():
    calm, wild = [2.0] * 20, [2.0] * 12 + [5.0] + [2.0] * 7
    runs = {"rank 1": run("lora", history=history(calm)), "rank 8": run("lora", history=history(wild))}
    text = say.spikes_in_words(runs)
    assert "- rank 1: no jump; the last steps are at 2 nats" in text
    assert "- rank 8: a jump at step 13;" in text and "before you blame the rank" in text
    assert "No run jumped" in say.spikes_in_words({"rank 1": runs["rank 1"]})


def test_runs_are_compared_with_the_first_row_by_row():
    draw = np.random.default_rng(0)
    shares = {"rank 8": 0.3, "rank 1": 0.3, "half the rate": 0.1, "twice the rate": 0.9}
    runs = {
        label: run(
            label,
            right={"exact_match": pack_rows(draw.random(300) < share)},
            precision={"compute": "float32"},
            hardware={"processor": "x"},
        )
        for label, share in shares.items()
    }
    found = say.row_by_row(runs | {"four times the rate": run("failed", status="diverged")})
    assert {label: one.verdict in ("better", "worse") for label, one in found.items()} == {
        "rank 1": False,
        "half the rate": True,
        "twice the rate": True,
    }
    title = say.row_by_row_title(found)
    assert re.fullmatch(r"Another rate: up to \d\d points; another rank: up to \d points", title)
    assert say.row_by_row({"failed": run("failed", status="diverged")} | runs) == {}


def test_titles_name_the_rates_with_the_most_bits():
    rows = [
        row(rank, learning_rate=rate, memorised_bits=1000.0 - abs(rate - 2e-3)) for rank in (1, 64) for rate in RATES
    ]
    assert say.best_rates_title(rows, FULL) == "Best rate of ranks 1 to 64: 0.002; of full fine-tuning: 0.0002"
    alphas = [row(8, alpha=alpha, learning_rate=1 / alpha, memorised_bits=1.0) for alpha in (4, 256)]
    assert say.alpha_title(alphas) == "Best rate at alpha 4: 0.25; at alpha 256: 0.00390625"
    sizes = [row(rank, memorised_bits=bits) for rank, bits in ((1, 400.0), (8, 950.0), (64, 1000.0))]
    matrix = [one | {"targets": "down_proj", "memorised_bits": 12.0} for one in sizes]
    title = say.size_title([*sizes, *matrix])
    assert title == "One matrix: 12 bits at most; whole blocks: 1,000 bits at most"
    tied = [*FULL, row(None, learning_rate=4e-4, memorised_bits=1199.0)]
    assert say.best_rates_title(rows, tied).endswith("of full fine-tuning: 0.0002 to 0.0004")
    table = say.recall_table(grid(by_rate=0.1), FULL[:0])
    assert table.count("\n") == 1 + len(RANKS) and "| rank 1 | 40% | **50%** | 40% |" in table


def test_the_stored_study_is_told_with_its_spread():
    text = say.study_knobs("protocol")
    assert "rank 64" in text or "lora r=64" in text
    two = say.two_passes_in_words(reference.stored_sweeps("alpha"), reference.stored_sweeps("targets"))
    assert two == "83% and 90%"


def test_a_setting_is_told_row_by_row_as_soon_as_the_study_has_it(tmp_path, monkeypatch):
    own = [row for row in reference.paired_rows() if (row["task"], row["name"]) == ("protocol", "lora")]
    rows = [*own, *(row | {"name": "alpha=128"} for row in own)]
    (tmp_path / "study.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.setattr(reference, "STUDY", tmp_path / "study.jsonl")
    compared, earlier = say.study_knobs("protocol").split("\n\n")
    assert compared.startswith("- alpha 128 against rank 8, alpha 32:") and "\n" not in compared
    assert earlier.startswith("In a first study") and "lora r=64 83%" in earlier and "alpha=128" not in earlier


def test_starting_values_hold_three_sizes_and_rates_around_the_usual_one():
    text = say.starting_values()
    assert text.count("\n") == 4 and "0.0001, 0.0002, 0.0004, 0.0008" in text
