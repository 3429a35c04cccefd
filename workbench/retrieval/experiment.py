"""One fine-tuning of an encoder for search, measured before and after: search, other text, and what it took."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from workbench.adapters.methods import Method
from workbench.errors import RetrievalError
from workbench.machine import hardware, versions
from workbench.retrieval.corpus import Corpus
from workbench.retrieval.encoder import MINILM, embed, load_encoder
from workbench.retrieval.index import ranks, similarities
from workbench.retrieval.metrics import Ranks, pack_ranks
from workbench.retrieval.tuning import BATCH, ROWS, Tuned, fine_tune, merge, triplets
from workbench.tasks import Example, load_task

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

Array = NDArray[Any]

MESSAGES = 300  # customer messages, whose similarities say what is forgotten
SHARES = (2, 4, 8, 24)  # of a vector's numbers, of which one is kept


@dataclass(frozen=True)
class Measured:
    """What an encoder does: where it ranks each query's document, whole and with vectors cut, and on other text.

    cut: dimensions -> ranks. messages: the cosine of every pair of customer messages, see `message_pairs`.
    """

    ranks: Ranks
    cut: Mapping[int, Ranks]
    messages: Array

    @property
    def same_need(self) -> float:
        """How well messages of one need are told from those of two: the area under the ROC curve, 0.5 by chance.

        It is the probability that a pair with the same need is more similar than a pair with two.
        """
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(_needs_agree(), self.messages))

    def kept(self, base: Measured) -> float:
        """The rank correlation of the messages' similarities with the base's: 1 if all pairs keep their order."""
        return float(spearmanr(base.messages, self.messages).statistic)


@dataclass(frozen=True)
class Outcome:
    """A fine-tuned encoder measured, and the seconds of training.

    merging_error: by how much merging the adapters moved any number of the queries' embeddings, whose length is 1;
    None where there are no adapters.
    """

    method: Method
    seed: int
    after: Measured
    merging_error: float | None
    tuned: Tuned
    seconds: float


@dataclass
class Experiment:
    """A corpus and an encoder to fine-tune for it; the base is measured, and the training rows mined, once."""

    corpus: Corpus
    encoder: str = MINILM
    rows: int = ROWS
    batch: int = BATCH

    @cached_property
    def base(self) -> SentenceTransformer:
        """The encoder as it is before."""
        return load_encoder(self.encoder)

    @cached_property
    def before(self) -> Measured:
        """What the base does."""
        return self.measure(self.base)

    @cached_property
    def training_rows(self) -> Dataset:
        """The triplets that every method trains on: those of the corpus, or mined ones."""
        if self.corpus.triplets is None:
            return triplets(self.base, self.corpus.train, self.rows)
        if len(self.corpus.triplets) < self.rows:
            have = f"{self.corpus.source} has {len(self.corpus.triplets):,} rows to train on"
            raise RetrievalError(f"{have}, and {self.rows:,} were asked for; ask for fewer rows.")
        return self.corpus.triplets.select(range(self.rows))

    def measure(self, encoder: SentenceTransformer) -> Measured:
        """Embed all documents and queries, and rank."""
        queries, documents = (embed(encoder, texts) for texts in (self.corpus.queries, self.corpus.documents))

        def search(size: int | None) -> Ranks:
            return ranks(similarities(queries, documents, size), self.corpus.answers)

        cuts = [queries.shape[1] // share for share in SHARES]
        return Measured(search(None), {size: search(size) for size in cuts}, message_pairs(encoder))

    def run(self, method: Method, seed: int = 0) -> tuple[Outcome, SentenceTransformer]:
        """Fine-tune a fresh copy of the encoder and measure it; returns the encoder too, with its adapters merged."""
        encoder, rows = load_encoder(self.encoder), self.training_rows
        began = time.perf_counter()
        tuned = fine_tune(encoder, rows, method, seed, self.batch)
        seconds = time.perf_counter() - began
        after, error = self.measure(encoder), None
        if method.name != "full":
            apart = embed(encoder, self.corpus.queries)
            merge(encoder)
            error = float(np.abs(embed(encoder, self.corpus.queries) - apart).max())
        return Outcome(method, seed, after, error, tuned, seconds), encoder

    def record(self, outcome: Outcome) -> dict[str, Any]:
        """An outcome as JSON has it, with the base's scores and all that it depends on."""
        return {
            "method": outcome.method.to_dict(),
            "seed": outcome.seed,
            "before": scores_of(self.before, self.before),
            "after": scores_of(outcome.after, self.before),
            "merging_error": outcome.merging_error,
            "trainable_parameters": outcome.tuned.trainable_parameters,
            "seconds": round(outcome.seconds, 1),
            "losses": [round(loss, 4) for loss in outcome.tuned.losses],
        } | self.provenance()

    def provenance(self) -> dict[str, Any]:
        """What the numbers depend on: the texts, the encoder, sizes, versions and hardware."""
        return {
            "encoder": self.encoder,
            "corpus_sha256": self.corpus.sha256,
            "train_sha256": self.corpus.train_sha256,
            "source": self.corpus.source,
            "documents": len(self.corpus.documents),
            "queries": len(self.corpus.queries),
            "rows": self.rows,
            "batch": self.batch,
            "versions": versions() | {"sentence-transformers": version("sentence-transformers")},
            "processor": hardware()["processor"],
        }


def scores_of(measured: Measured, base: Measured) -> dict[str, Any]:
    """Means over the queries, the rank of each, and what is kept of the base's similarities, as JSON has them."""
    means = measured.ranks.means()
    return {
        "ndcg": means["ndcg@10"],
        "recall": means["recall@10"],
        "mrr": means["mrr"],
        "cut": {str(size): own.means()["ndcg@10"] for size, own in measured.cut.items()},
        "same_need": measured.same_need,
        "kept": measured.kept(base),
        "ranks": pack_ranks(measured.ranks),
    }


def message_pairs(encoder: SentenceTransformer) -> Array:
    """The cosines of all pairs of the first MESSAGES test rows of `tickets`: other text, never trained on here."""
    vectors = embed(encoder, [row.prompt.removesuffix("\nIntent:") for row in _messages()])
    return similarities(vectors, vectors)[np.triu_indices(len(vectors), k=1)]


def _messages() -> Sequence[Example]:
    return load_task("tickets").test[:MESSAGES]


def _needs_agree() -> Array:
    needs = np.array([row.completion for row in _messages()])
    one, two = np.triu_indices(len(needs), k=1)
    return np.asarray(needs[one] == needs[two])
