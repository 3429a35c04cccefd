"""The measures agree with other implementations, ties included; intervals hold what they say."""

import ir_measures
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from workbench.errors import RetrievalError
from workbench.retrieval.index import ranks, similarities
from workbench.retrieval.metrics import (
    Ranks,
    bootstrap,
    ndcg,
    pack_ranks,
    ranking,
    recall,
    reciprocal_rank,
    unpack_ranks,
)

DOCUMENTS = 15
# Few different values, so that many documents tie; trec_eval, which ir-measures calls, keeps them in float32.
TIED = arrays(np.float32, DOCUMENTS, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75]))
GRADES = st.dictionaries(st.integers(0, DOCUMENTS - 1), st.integers(1, 3), min_size=1)


def by_ir_measures(similar, relevant: dict[int, int]) -> list[float]:
    """NDCG@10, recall@10 and reciprocal rank. trec_eval puts the last name first among documents that tie."""
    names = [f"{DOCUMENTS - place:03}" for place in range(DOCUMENTS)]
    asked = [ir_measures.nDCG @ 10, ir_measures.R @ 10, ir_measures.RR]
    judged = [ir_measures.Qrel("q", names[place], grade) for place, grade in relevant.items()]
    run = [ir_measures.ScoredDoc("q", name, float(value)) for name, value in zip(names, similar, strict=True)]
    found = ir_measures.calc_aggregate(asked, judged, run)
    return [found[measure] for measure in asked]


@given(TIED, GRADES)
def test_graded_rankings_with_ties_score_as_trec_eval_scores_them(similar, relevant):
    ranked = ranking(similar).tolist()
    ours = [ndcg(ranked, relevant), recall(ranked, relevant), reciprocal_rank(ranked, relevant)]
    assert ours == pytest.approx(by_ir_measures(similar, relevant), abs=1e-9)


@given(TIED, st.sets(st.integers(0, DOCUMENTS - 1), min_size=1))
def test_and_as_the_evaluator_of_sentence_transformers_does(similar, relevant):
    names = [f"{place:03}" for place in range(DOCUMENTS)]
    evaluator = InformationRetrievalEvaluator(
        {"q": "?"}, dict.fromkeys(names, "."), {"q": {names[place] for place in relevant}}
    )
    hits = [{"corpus_id": name, "score": float(value)} for name, value in zip(names, similar, strict=True)]
    found = evaluator.compute_metrics([hits])
    ranked, equal = ranking(similar).tolist(), dict.fromkeys(relevant, 1)
    assert ndcg(ranked, equal) == pytest.approx(found["ndcg@k"][10], abs=1e-9)
    assert recall(ranked, equal) == pytest.approx(found["precision@k"][10] * 10 / len(relevant), abs=1e-9)
    first = reciprocal_rank(ranked, equal)
    assert (first if first >= 0.1 else 0) == pytest.approx(found["mrr@k"][10], abs=1e-9)


@given(TIED, st.integers(0, DOCUMENTS - 1))
def test_with_one_relevant_document_its_rank_says_it_all(similar, answer):
    found, ranked = ranks(similar[None], [answer]), ranking(similar).tolist()
    assert found.ranks.tolist() == [ranked.index(answer) + 1]
    relevant = {answer: 1}
    one_by_one = [ndcg(ranked, relevant), recall(ranked, relevant), reciprocal_rank(ranked, relevant)]
    assert list(found.means().values()) == pytest.approx(one_by_one, abs=1e-12)


def test_a_query_without_a_relevant_document_is_refused():
    for measure in (ndcg, recall, reciprocal_rank):
        for relevant in ({}, {3: 0}):
            with pytest.raises(RetrievalError, match="needs a relevant document, of a grade above 0; leave out"):
                measure([1, 2, 3], relevant)


@given(arrays(np.int64, st.integers(1, 50), elements=st.integers(1, 60_000)))
def test_packed_ranks_come_back(values):
    assert unpack_ranks(pack_ranks(Ranks(values))).ranks.tolist() == values.tolist()


@pytest.mark.parametrize("text", ["", "3:", "3:!!", "3:AAAA", "2:eJxjYGRgAgAADgAH", "1:eJxjYAAAAAIAAQ=="])
def test_damaged_ranks_are_refused(text):
    with pytest.raises(ValueError, match=r"compressed ranks|is not a number of queries"):
        unpack_ranks(text)


# --- search


def test_similarities_are_cosines_also_of_cut_vectors():
    queries, documents = np.array([[3.0, 4.0, 0.0]]), np.array([[6.0, 8.0, 0.0], [1.0, 0.0, 9.0], [0.0, 0.0, 0.0]])
    assert similarities(queries, documents)[0] == pytest.approx([1, 0.6 / np.sqrt(82), 0])
    assert similarities(queries, documents, 2)[0] == pytest.approx([1, 0.6, 0])
    with pytest.raises(RetrievalError, match="dimensions=4: an embedding has 3"):
        similarities(queries, documents, 4)
    with pytest.raises(RetrievalError, match="3 dimensions and the documents 2; embed both with one model"):
        similarities(queries, documents[:, :2])
    with pytest.raises(RetrievalError, match="not finite: training went wrong"):
        similarities(queries * np.nan, documents)


# --- intervals


def test_95_of_100_bootstrap_intervals_hold_the_true_difference():
    draw, hits = np.random.default_rng(0), 0
    for number in range(200):
        gains = draw.choice([0.0, 0.0, 0.0, 1.0, -0.37, 0.37], size=300)  # most queries change nothing
        found = bootstrap(gains, seed=number)
        hits += found.low <= 1 / 6 <= found.high
    assert 180 <= hits <= 198


def test_four_times_the_queries_halve_the_interval():
    values = Ranks(np.random.default_rng(0).integers(1, 30, 500))
    small, large = (bootstrap(values.ndcg, queries=count) for count in (200, 800))
    assert 1.8 < small.half_width / large.half_width < 2.2
    assert small.centre == large.centre == pytest.approx(values.ndcg.mean())


def test_pairing_narrows_the_interval_of_a_difference():
    draw = np.random.default_rng(0)
    before = Ranks(draw.integers(1, 30, 500))
    after = Ranks(np.maximum(1, before.ranks - draw.integers(0, 2, 500)))
    paired = bootstrap(after.ndcg - before.ndcg)
    shuffled = bootstrap(draw.permutation(after.ndcg) - before.ndcg)
    assert paired.verdict == "better" and paired.half_width < shuffled.half_width / 2
    assert bootstrap(before.ndcg - after.ndcg).verdict == "worse"
    assert bootstrap(shuffled.centre * np.array([1, -1] * 40)).verdict == "undecided"


def test_an_interval_needs_two_queries():
    for values in (np.array([0.5]), np.zeros((3, 4))):
        with pytest.raises(RetrievalError, match="two queries at least"):
            bootstrap(values)
