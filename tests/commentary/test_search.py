"""What lesson 09 says follows from the rows."""

import re

import numpy as np
import pytest

from support.search_rows import ranks, search_rows
from workbench.commentary import search as say
from workbench.retrieval.corpus import Corpus
from workbench.retrieval.experiment import Measured
from workbench.retrieval.metrics import bootstrap

CORPUS = Corpus(("one", "two | three", "four"), ("which?",), (1,))
HALF = bootstrap(np.array([0.1, 0.2, 0.15] * 20))


def test_hits_show_the_first_documents_and_mark_the_answer():
    text = say.hits(CORPUS, 0, [2, 1, 0])
    assert "| 1 | `four` |  |" in text and "| 2 | `two / three` | the answer |" in text
    assert text.endswith("The answer is at rank 2 of 3.")


def test_before_and_after_has_three_measures_with_intervals():
    lines = say.before_and_after(ranks(0.4, 1), ranks(0.6, 1)).splitlines()
    assert len(lines) == 7 and lines[2].startswith("| NDCG@10 | 0.362 | 0.568 | +0.205 (")


def test_the_answer_turns_with_the_rows():
    worse = say.answer(search_rows(base=0.7, lora=0.5, full=0.8), HALF, 100, 0.02)
    better = say.answer(search_rows(base=0.5, lora=0.8, full=0.7), HALF, 100, 0.02)
    assert worse.startswith("**The answer:** Against no tuning: yes. ")
    assert "Against full fine-tuning: yes. It is worse than full" in worse
    assert better.startswith("**The answer:** Against no tuning: no, it gains. ")
    assert "Against full fine-tuning: no. It is better than full" in better


def test_before_the_study_has_come_so_far_the_learners_run_answers():
    rows = search_rows(full=0.7)
    assert not say.ready(rows) and say.ready(search_rows(lora=0.7))
    answer = say.answer(rows, HALF, 100, 0.02)
    assert answer.startswith("**The answer:** Against no tuning: no, it gains; your run is +0.150 (")
    assert say.gains(rows) == {}


def test_so_does_the_title_of_the_study():
    def title(**shares):
        return re.sub(r"0\.\d+", "x", say.study_title(search_rows(**shares)))

    assert title(base=0.5, lora=0.8) == "LoRA gains x NDCG@10"
    assert "has not been measured to the end here. A test" in say.answer(search_rows(lora=0.8), HALF, 100, 0.02)
    assert title(base=0.7, lora=0.5, full=0.8) == "LoRA loses x NDCG@10, x less than full"
    assert title(base=0.5, lora=0.8, full=0.7) == "LoRA gains x NDCG@10, x more than full"
    assert title(base=0.5, lora=0.7, full=0.7, queries=60_000) == "LoRA gains x NDCG@10, on par with full"
    assert title(base=0.5, lora=0.7, full=0.72, queries=50) == "LoRA gains x NDCG@10, which is not told apart from full"


def test_of_several_ranks_the_best_is_named():
    rows = search_rows(lora=0.7, full=0.8, **{"lora r=32": 0.8})
    assert "Of 2 ranks, 32 searches best; it is not told apart from full" in say.answer(rows, HALF, 100, 0.02)
    rows = search_rows(lora=0.7, full=0.8, **{"lora r=32": 0.6})
    assert "Of 2 ranks, 8 searches best; it is worse than full" in say.answer(rows, HALF, 100, 0.02)
    assert "ranks" not in say.answer(search_rows(lora=0.7, full=0.8), HALF, 100, 0.02)


def test_what_other_text_keeps_is_said_beside_full():
    rows = search_rows(base=0.5, lora=0.7, full=0.8)
    for row in rows:
        row["kept"] = {"lora r=8": 0.9, "full": 0.8}.get(row["name"], 1.0)
    assert say.kept_title(rows) == "LoRA of rank 8 gains less than full, and changes other text less"
    assert "changes other text less (agreement with the untuned encoder 0.900 against 0.800). A test" in say.answer(
        rows, HALF, 100, 0.02
    )
    for row in rows:
        row["kept"] = 0.9 + 0.01 * row["seed"]
    assert say.kept_title(rows) == "LoRA of rank 8 gains less than full, and changes other text about as much"
    assert say.kept_title(search_rows(lora=0.7)) == "What search gains, and how other text changes"


def test_what_a_cut_vector_costs_is_said():
    measured = Measured(ranks(0.5, 1), {192: ranks(0.45, 1), 48: ranks(0.3, 1)}, np.zeros(1))
    found = say.by_size(measured)
    assert sorted(found) == [48, 192, 384] and found[192] == pytest.approx(measured.cut[192].ndcg.mean())
    assert re.fullmatch(r"Half of each vector costs 0.0\d\d NDCG@10, seven eighths 0.1\d\d", say.cut_title(found))


def test_only_what_the_study_has_is_offered():
    assert list(say.gains(search_rows(lora=0.6))) == ["lora r=8 less base"]
    assert list(say.differences(search_rows(lora=0.6, full=0.7))) == [
        "lora r=8 less base",
        "full less base",
        "lora r=8 less full",
    ]
    assert say.rates(search_rows(lora=0.6)) == {"lora r=8": 1e-3}
    assert say.seen(HALF) == "better than before"
