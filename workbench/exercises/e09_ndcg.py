"""Exercise 09.ndcg: how good is a ranking, with a share of the gain lost for each place further down?"""

import numpy as np

from workbench.exercises.framework import Exercise, Mistake


def ndcg(ranked, relevant, k=10):
    def discounted(gains):
        return sum(gain / np.log2(1 + rank) for rank, gain in enumerate(gains[:k], start=1))

    best = sorted(relevant.values(), reverse=True)
    return discounted([relevant.get(document, 0) for document in ranked]) / discounted(best)


def _dcg(ranked, relevant, k=10):
    return sum(relevant.get(document, 0) / np.log2(1 + rank) for rank, document in enumerate(ranked[:k], start=1))


def _whole_list(ranked, relevant, k=10):
    return ndcg(ranked, relevant, max(len(ranked), len(relevant)))


def _ideal_not_cut(ranked, relevant, k=10):
    best = sorted(relevant.values(), reverse=True)
    return _dcg(ranked, relevant, k) / sum(gain / np.log2(1 + rank) for rank, gain in enumerate(best, start=1))


def _grades_ignored(ranked, relevant, k=10):
    return ndcg(ranked, dict.fromkeys(relevant, 1), k)


def _ideal_of_the_list(ranked, relevant, k=10):
    found = [relevant.get(document, 0) for document in ranked[:k]]
    best = _dcg(range(len(found)), dict(enumerate(sorted(found, reverse=True))), k)
    return _dcg(ranked, relevant, k) / best if best else 0.0


def _one_over_rank(ranked, relevant, k=10):
    def discounted(gains):
        return sum(gain / rank for rank, gain in enumerate(gains[:k], start=1))

    best = sorted(relevant.values(), reverse=True)
    return discounted([relevant.get(document, 0) for document in ranked]) / discounted(best)


NDCG = Exercise(
    id="09.ndcg",
    title="score a ranking",
    difficulty="medium",
    minutes=12,
    task="""\
A search returned a list of documents, best first. Write `ndcg(ranked, relevant, k)`, which says how good the first
`k` of them are, from 0 to 1:

- `ranked` is the list of documents; `relevant` maps each relevant document to its grade, for example `{"b": 1}`, or
  `{"b": 3, "f": 1}` if "b" answers better. What is not in it has grade 0;
- the document at rank `i` (the first has rank 1) gains its grade divided by `log2(1 + i)`: full gain at rank 1, half at
  rank 3;
- the sum of these gains over the first `k` is divided by that of the best possible list: the relevant documents, the
  highest grade first, of which also only `k` count.""",
    function="ndcg",
    stub="""\
def ndcg(ranked, relevant, k=10):
    # for example ranked = ["c", "b", "a"], relevant = {"b": 1}; returns a number from 0 to 1
    # numpy is here as np, its logarithm np.log2
    ...
""",
    solution=ndcg,
    explanation="That is NDCG@k as search engines are judged by it. With one relevant document it depends on the rank "
    "alone: 1 at rank 1, 0.63 at rank 2, 0.5 at rank 3, and 0 below rank k.",
    hints=(
        "Write a small function first that takes a list of grades, in the order of a list, and sums grade / log2(1 + "
        "rank) over the first k.",
        "Use it twice: for the grades of `ranked`, with relevant.get(document, 0), and for the grades in `relevant`, "
        "sorted from high to low.",
    ),
    cases=(
        (["b", "a"], {"b": 1}, 10),
        (["a", "b", "c"], {"b": 1}, 10),
        (["a", "b", "c"], {"c": 1}, 2),
        (["a", "b", "c", "d"], {"b": 1, "d": 1}, 10),
        (["a", "b", "c"], {"a": 1, "b": 3}, 10),
        (["a", "b", "c", "d"], {"b": 1, "c": 1, "d": 1, "e": 1}, 2),
        (["a", "b"], {"x": 1}, 10),
    ),
    wrong=(
        Mistake(
            _dcg,
            "That is the sum of the gains, and not yet a share: divide it by the sum of the best possible "
            "list, or a query with two relevant documents scores above 1.",
        ),
        Mistake(
            _whole_list,
            "You count the whole list. Only the first k documents count, and of the best possible list only k as well.",
        ),
        Mistake(
            _ideal_not_cut,
            "You cut the ranking at k, but not the best possible list: with more than k relevant "
            "documents no ranking could reach 1.",
        ),
        Mistake(
            _grades_ignored,
            "You give every relevant document the same gain. The gain is the grade: a document of "
            "grade 3 on top is worth three times one of grade 1.",
        ),
        Mistake(
            _ideal_of_the_list,
            "You divide by the best order of the documents that were found. A relevant document "
            "that was not found must cost something too: take the grades from `relevant`.",
        ),
        Mistake(
            _one_over_rank,
            "You divide by the rank, which is the discount of the reciprocal rank. NDCG discounts "
            "more gently: by log2(1 + rank).",
        ),
    ),
)
