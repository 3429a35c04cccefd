"""Exact search: every query's similarity to every document, and where the right one ends up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import RetrievalError
from workbench.retrieval.metrics import Ranks

Array = NDArray[Any]


def similarities(queries: Array, documents: Array, dimensions: int | None = None) -> Array:
    """The cosines (queries, documents) of embeddings (queries, d) and (documents, d).

    dimensions: only the first so many numbers of each vector, as an index of "Matryoshka" vectors keeps them
    (arXiv 2205.13147). Raises RetrievalError for more than there are.
    """
    size = queries.shape[-1]
    if documents.shape[-1] != size:
        raise RetrievalError(
            f"The queries have {size} dimensions and the documents {documents.shape[-1]}; embed both with one model."
        )
    kept = size if dimensions is None else dimensions
    if not 1 <= kept <= size:
        raise RetrievalError(f"dimensions={kept}: an embedding has {size}; keep 1 to {size} of them.")
    return _unit(queries[:, :kept]) @ _unit(documents[:, :kept]).T


def _unit(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise RetrievalError("Some embeddings are not finite: training went wrong; try a lower learning rate.")
    return vectors / np.maximum(lengths, 1e-12)


def ranks(similar: Array, answers: Sequence[int]) -> Ranks:
    """The rank of each query's answer among all documents; equal ones are ranked in the order of the corpus."""
    places = np.asarray(answers)
    own = np.take_along_axis(similar, places[:, None], axis=1)
    before = np.arange(similar.shape[1]) < places[:, None]
    return Ranks(1 + (similar > own).sum(1) + ((similar == own) & before).sum(1))
