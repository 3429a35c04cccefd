"""Verdicts on search follow the published scores and the study wherever they point."""

import pytest

from support.search_rows import search_rows
from workbench.claims import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, claims, verdicts
from workbench.retrieval.published import PublishedScore, published_scores


def scores(queries: int = 5000, **ndcg: float) -> list[PublishedScore]:
    return [PublishedScore("pages", name, value, queries, "s") for name, value in ndcg.items()]


@pytest.mark.parametrize(
    ("base", "lora", "full", "retrieval", "parity"),
    [
        (0.7, 0.5, 0.8, SUPPORTED, NOT_SUPPORTED),
        (0.5, 0.7, 0.9, DEPENDS, NOT_SUPPORTED),
        (0.5, 0.8, 0.6, NOT_SUPPORTED, SUPPORTED),
        (0.7, 0.7, 0.9, UNTESTED, NOT_SUPPORTED),
    ],
)
def test_the_study_is_judged_against_the_base_and_against_full(base, lora, full, retrieval, parity):
    found = {one.claim: one for one in verdicts(searches=search_rows(base=base, lora=lora, full=full))}
    assert (found["retrieval"].verdict, found["parity"].verdict) == (retrieval, parity)
    assert "from the base and" in found["retrieval"].evidence and "search: full is" in found["parity"].evidence


def test_what_is_close_with_many_queries_is_on_par():
    (found,) = verdicts("parity", searches=search_rows(lora=0.7, full=0.7, queries=60_000))
    assert found.verdict == SUPPORTED and "they are on par" in found.evidence


def test_a_study_that_has_not_come_so_far_is_not_tested():
    for found in verdicts("retrieval", "parity", searches=search_rows(lora=0.7)):
        assert found.verdict == UNTESTED and found.evidence == "The study of search has no full yet."


@pytest.mark.parametrize(
    ("ndcg", "expected"),
    [
        ({"base": 0.9, "lora": 0.8, "full": 0.95}, SUPPORTED),
        ({"base": 0.8, "lora": 0.87, "full": 0.95}, DEPENDS),
        ({"base": 0.8, "lora": 0.9, "full": 0.9}, NOT_SUPPORTED),
        ({"base": 0.8, "lora": 0.805, "full": 0.9}, UNTESTED),
        ({"base": 0.8, "full": 0.9}, UNTESTED),
    ],
)
def test_published_scores_are_judged_with_the_widest_interval(ndcg, expected):
    (found,) = verdicts("retrieval", published_search=scores(**ndcg))
    assert found.verdict == expected


def test_the_source_says_something_else_than_the_article():
    (found,) = verdicts("retrieval", published_search=published_scores())
    assert found.verdict == NOT_SUPPORTED
    assert "Qwen3-VL-Embedding-2B: base 0.888, full 0.947" in found.evidence and "LoRA is +0.092" in found.evidence


def test_the_ledger_names_this_lesson():
    assert all("09" in claims()[claim].notebooks for claim in ("retrieval", "parity"))
