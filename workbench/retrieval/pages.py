"""Pages of documents to search, as images, and an encoder that reads them: the gpu tier of lesson 09.

The data set is the one that the published numbers stand on (see `retrieval.published`): each row has a query, the page
that answers it, and pages that do not. There, 300 queries follow the 10,000 rows for training; here, 1,200 do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.console import first_line
from workbench.errors import RetrievalError
from workbench.retrieval.corpus import Corpus, Page
from workbench.retrieval.experiment import Experiment

if TYPE_CHECKING:
    from datasets import Dataset

PAGES, ENCODER = "tomaarsen/llamaindex-vdr-en-train-preprocessed", "Qwen/Qwen3-VL-Embedding-2B"
QUERY, PAGE, NEGATIVES = "query", "image", ("negative_0", "negative_1", "negative_2", "negative_3")
TRAIN, TEST, VALIDATION = 10_000, 1_200, 800  # rows, in this order; of a smaller data set, shares of it
ROWS, BATCH = 2_560, 64  # of a run of the lesson


def page_experiment(
    part: str = "test", encoder: str = ENCODER, pages: str = PAGES, rows: int | None = None
) -> Experiment:
    """An encoder of images to tune for a data set of pages; names are those of the Hub, or folders.

    rows: to train on; ROWS, or all that there are if those are fewer, unless told.
    """
    corpus = read_pages(pages, part)
    return Experiment(corpus, encoder, rows or min(ROWS, len(corpus.triplets or ())), BATCH)


def read_pages(source: str = PAGES, part: str = "test") -> Corpus:
    """The corpus of a data set of pages: rows for training, then those of the test, then those of the validation.

    source: a Hub id, or a folder that `datasets` saved, with the columns query, image and negative_0, which is an image
    too; further negatives are further pages to search among. part: "test" or "validation", whose training rows
    are the same: those without a page of either. A query or page that stands twice is kept once. Raises RetrievalError
    for what is not such a data set.
    """
    rows = _columns_of(_load(source), source)
    rows = rows.select([place for place, query in enumerate(rows[QUERY]) if query])
    train = min(TRAIN, len(rows) * 3 // 4)
    test = min(TEST, (len(rows) - train) * 3 // 5)
    validation = min(VALIDATION, len(rows) - train - test)
    asked = range(test) if part == "test" else range(test, test + validation)
    documents: dict[Page, int] = {}
    queries: dict[str, int] = {}
    held_out: set[str] = set()
    for place, row in enumerate(rows.select(range(train, train + test + validation))):
        pages = [Page(content) for content in _contents(row)]
        held_out.update(page.sha256 for page in pages)
        if place in asked and row[PAGE]:
            places = [documents.setdefault(page, len(documents)) for page in pages]
            queries.setdefault(row[QUERY], places[0])
    digests = list(_digests(rows.select(range(train))))
    kept = [place for place, (_, *pages) in enumerate(digests) if len(pages) == 2 and held_out.isdisjoint(pages)]
    return Corpus(
        tuple(documents),
        tuple(queries),
        tuple(queries.values()),
        source=source,
        triplets=_decoded(rows.select(kept)),
        triplets_sha256=hashlib.sha256("".join(part for place in kept for part in digests[place]).encode()).hexdigest(),
    )


def _load(source: str) -> Dataset:
    import datasets

    try:
        if Path(source).is_dir():
            return datasets.load_from_disk(source)
        return datasets.load_dataset(source, "full", split="train")
    except Exception as error:  # whatever the library meets on the Hub or in damaged files
        raise RetrievalError(
            f"The pages of {source!r} could not be read ({first_line(error)}). Name a folder that datasets saved, or a "
            "Hub id with the network on."
        ) from error


def _columns_of(rows: Dataset, source: str) -> Dataset:
    """The columns that are used, with the images as the bytes of their files."""
    from datasets import Image

    features = getattr(rows, "features", {})
    images = [name for name in (PAGE, *NEGATIVES) if isinstance(features.get(name), Image)]
    if QUERY not in features or images[:2] != [PAGE, NEGATIVES[0]]:
        raise RetrievalError(
            f"{source} needs a column {QUERY!r} with text, and {PAGE!r} and {NEGATIVES[0]!r} with images; it has "
            f"{', '.join(features) or 'several splits: name the folder of one'}."
        )
    rows = rows.select_columns([QUERY, *images])
    for name in images:
        rows = rows.cast_column(name, Image(decode=False))
    return rows


def _decoded(rows: Dataset) -> Dataset:
    """Rows as the trainer takes them: a query, its page and one that does not answer it."""
    from datasets import Image

    names = {PAGE: "document", NEGATIVES[0]: "negative"}
    chosen = rows.select_columns([QUERY, *names]).rename_columns(names)
    return chosen.cast_column("document", Image()).cast_column("negative", Image())


def _contents(row: dict[str, Any]) -> list[bytes]:
    """The files of a row's pages: the one that answers first."""
    images = [row[name] for name in (PAGE, *NEGATIVES) if row.get(name)]
    return [image["bytes"] or Path(image["path"]).read_bytes() for image in images]


def _digests(rows: Dataset) -> Iterator[list[str]]:
    """Of each row its query, and the SHA-256 of its page and of its first negative."""
    for row in rows.select_columns([QUERY, PAGE, NEGATIVES[0]]):
        yield [row[QUERY], *(Page(content).sha256 for content in _contents(row))]
