"""The stored study of search: rates chosen on validation queries, settings compared at them, published scores."""

import json

import pytest

from support.search_rows import search_rows
from workbench.errors import DamagedError
from workbench.retrieval.published import by_method, difference, published_scores
from workbench.retrieval.rows import (
    BASE,
    FULL,
    LORA,
    RETRIEVAL,
    at_chosen_rate,
    best_rate,
    compare,
    names,
    retrieval_rows,
    scores,
)

ROWS = search_rows(base=0.5, lora=0.7, full=0.8)


def test_a_setting_is_taken_at_the_rate_that_the_validation_queries_chose():
    assert best_rate(ROWS, LORA) == 1e-3 and best_rate(ROWS, "other") is None
    assert [row["seed"] for row in at_chosen_rate(ROWS, LORA)] == [1, 2, 3]
    assert scores(ROWS, LORA).shape == (3, 400) and scores(ROWS, BASE).shape == (1, 400)


def test_settings_that_are_not_complete_are_left_out():
    assert names(ROWS) == [BASE, LORA, FULL]
    assert names(ROWS[:-2]) == [BASE, LORA]
    with pytest.raises(ValueError, match="no test rows of 'hybrid'; it has base, lora r=8, full"):
        scores(ROWS, "hybrid")


def test_differences_have_a_sign_and_an_interval():
    gain, gap = compare(ROWS, LORA, BASE), compare(ROWS, LORA, FULL)
    assert gain.verdict == "better" and gain.low < 0.2 < gain.high
    assert gap.verdict == "worse" and gap.centre == pytest.approx(-compare(ROWS, FULL, LORA).centre)
    alike = search_rows(lora=0.7, full=0.7)
    assert compare(alike, LORA, FULL).verdict == "undecided"


def test_a_damaged_line_is_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    assert retrieval_rows(file) == []
    file.write_text(json.dumps(ROWS[0]) + "\n{", encoding="utf-8")
    with pytest.raises(DamagedError, match=r"Line 2 of .*restore the file from the repository"):
        retrieval_rows(file)


def test_the_stored_rows_are_of_one_corpus_and_say_what_they_were():
    rows = retrieval_rows()
    assert RETRIEVAL.name == "retrieval.jsonl" and rows
    for part in ("test", "validation"):
        own = [row for row in rows if row["part"] == part]
        assert len({row["corpus_sha256"] for row in own}) == 1 and len({row["train_sha256"] for row in rows}) == 1
    for row in rows:
        assert row["source"] and row["versions"]["sentence-transformers"] and len(row["ranks"]) < 6_000
        again = scores([row | {"part": "test", "name": BASE}], BASE)
        assert again.mean() == pytest.approx(row["ndcg"], abs=1e-9)
    keys = [(row["name"], row["part"], row["seed"], row["rate"]) for row in rows]
    assert len(set(keys)) == len(keys)


def test_the_published_scores_have_sources_and_the_widest_interval_of_their_queries():
    found = published_scores()
    assert all(score.source and score.queries == 300 for score in found)
    pages = by_method(found, "Qwen3-VL-Embedding-2B")
    assert (pages["base"].ndcg, pages["full"].ndcg) == (0.888, 0.947)
    assert pages["base"].widest == pytest.approx(1.96 * (0.888 * 0.112 / 300) ** 0.5)
    tokens = by_method(found, "multi-vector model")
    assert difference(tokens["lora"], tokens["full"]).verdict == "undecided"
    assert difference(tokens["lora"], tokens["base"]).verdict == "better"
