"""Something to search: documents, and queries that one document each answers.

Documents are texts, or pages as images (see `retrieval.pages`). `read_corpus` makes a corpus of the documentation of
installed packages: a query is the summary of a docstring, the name of what it documents taken out; the document is the
prose after it. A module's pairs are all for training, all for the validation that chooses learning rates, or all for
the test.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, TypedDict

from workbench.console import first_line
from workbench.errors import DamagedError, RetrievalError
from workbench.stored import read_json
from workbench.tasks import docstrings
from workbench.tasks.docstrings import distinct, mixed_order, source_files

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

NAME, READER = "retrieval", "The search corpus"
# Pinned packages that every install has with the extra `retrieval`; not the standard library, which is not pinned.
PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "torch")
# The parts, by the first digit of a module's mixed order; the most documents and queries of each that is searched.
PARTS = {"test": "01234567", "validation": "89", "train": "abcdef"}
SIZES = {"test": (3_000, 1_200), "validation": (800, 800)}
LEAST_QUERY, MOST_QUERY = 4, 30  # words
LEAST_DOCUMENT, MOST_DOCUMENT = 12, 60


@dataclass(frozen=True)
class Pair:
    """A query, the document that answers it, and the module that both are from."""

    query: str
    document: str
    module: str


@dataclass(frozen=True)
class Page:
    """A page as an image, kept as the bytes of its file: decoded, thousands of pages would fill the memory."""

    content: bytes

    @cached_property
    def sha256(self) -> str:
        """Of the bytes: pages that are the same have the same."""
        return hashlib.sha256(self.content).hexdigest()

    def image(self) -> Image:
        """The page decoded, in RGB. Raises RetrievalError if the bytes are no image."""
        from PIL import Image, UnidentifiedImageError

        try:
            return Image.open(BytesIO(self.content)).convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise RetrievalError(f"A page is not a whole image ({first_line(error)}); leave it out.") from error


Document = str | Page


@dataclass(frozen=True)
class Corpus:
    """Documents to search, queries, and for each query the place of the document that answers it.

    train: pairs to fine-tune on, whose hard negatives are mined; or triplets: rows (query, document, negative) that
    come with theirs. source: where the documents are from. Raises RetrievalError for documents or queries that are
    empty or given twice, for a query without its document, and for a document that is also in train.
    """

    documents: tuple[Document, ...]
    queries: tuple[str, ...]
    answers: tuple[int, ...]
    train: tuple[Pair, ...] = ()
    source: str = ""
    triplets: Dataset | None = None
    triplets_sha256: str = ""

    def __post_init__(self) -> None:
        for name, texts in (("document", self.documents), ("query", self.queries)):
            _check_texts(name, texts)
        if len(self.answers) != len(self.queries):
            raise RetrievalError(
                f"There are {len(self.queries):,} queries and {len(self.answers):,} answers; give one of each."
            )
        for number, answer in enumerate(self.answers, start=1):
            if not 0 <= answer < len(self.documents):
                raise RetrievalError(
                    f"Query {number} has no relevant document: its answer is {answer}, and there are documents 0 to "
                    f"{len(self.documents) - 1}. Leave the query out, or add its document."
                )
        known = set(self.documents)
        if both := next((number for number, pair in enumerate(self.train, 1) if pair.document in known), None):
            raise RetrievalError(f"Training pair {both} has a document of the test; leave it out of one of them.")

    def head(self, documents: int, queries: int) -> Corpus:
        """The same with only the first documents and, of the queries that they answer, the first ones."""
        asked = [place for place, answer in enumerate(self.answers) if answer < documents][:queries]
        kept = (tuple(self.queries[place] for place in asked), tuple(self.answers[place] for place in asked))
        return Corpus(self.documents[:documents], *kept, self.train, self.source, self.triplets, self.triplets_sha256)

    @cached_property
    def sha256(self) -> str:
        """Of the documents, queries and answers in order: what scores depend on."""
        return _digest([self.documents, self.queries, self.answers])

    @property
    def train_sha256(self) -> str:
        """Of the training pairs, or of the rows that came with their negatives, in order."""
        return self.triplets_sha256 or _digest([[pair.query, pair.document] for pair in self.train])


def _check_texts(name: str, texts: Sequence[Document]) -> None:
    plural = {"document": "documents", "query": "queries"}[name]
    if not texts:
        raise RetrievalError(f"There are no {plural}; give at least one.")
    first: dict[Document, int] = {}
    for number, text in enumerate(texts, start=1):
        if not (text.strip() if isinstance(text, str) else text.content):
            raise RetrievalError(f"{name.capitalize()} {number} is empty; leave it out.")
        if text in first:
            raise RetrievalError(
                f"{name.capitalize()} {number} is the same as {name} {first[text]}, so that no search can tell them "
                "apart; leave one out."
            )
        first[text] = number


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, default=lambda page: page.sha256).encode()).hexdigest()


class _Stored(TypedDict):
    queries: list[str]
    documents: list[str]
    modules: list[str]


def read_corpus(part: str = "test") -> Corpus:
    """The corpus of the installed packages' documentation, from the cache if these versions have been read before.

    part: "test", or "validation" for a smaller one with the same training pairs. Raises TaskError that names a package
    which is missing, and if the cache folder cannot be used.
    """
    source = docstrings.versions(PACKAGES, READER)
    file = docstrings.cache_file(NAME, [__file__], source)
    try:
        stored = read_json(file, _Stored)
        pairs = [Pair(*row) for row in zip(stored["queries"], stored["documents"], stored["modules"], strict=True)]
        return corpus_of(pairs, part, source)
    except (OSError, DamagedError, ValueError):  # not read yet, or damaged
        pairs = read_pairs()
    columns = zip(*((pair.query, pair.document, pair.module) for pair in pairs), strict=True)
    docstrings.keep(file, dict(zip(_Stored.__annotations__, map(list, columns), strict=True)), NAME)
    return corpus_of(pairs, part, source)


def read_pairs() -> list[Pair]:
    """The pairs of all packages in a mixed order: no two documents nearly alike, no query twice."""
    found = [
        pair
        for package in PACKAGES
        for parts, file in source_files(package, READER)
        for names, docstring in docstrings.docstrings(file)
        if (pair := pair_of(docstring, names, ".".join(parts)))
    ]
    found.sort(key=lambda pair: mixed_order(pair.document + pair.query))
    once = {pair.query.lower(): pair for pair in found}
    return distinct(once.values(), lambda pair: pair.document)


def pair_of(docstring: str, names: Sequence[str], module: str) -> Pair | None:
    """The summary of a docstring without the names of its object, and the prose after it; None if either is short."""
    first, _, rest = docstring.partition("\n\n")
    query = _without_names(docstrings.prose(first), names)
    words = docstrings.prose(rest).split()[:MOST_DOCUMENT]
    if not LEAST_QUERY <= len(query.split()) <= MOST_QUERY or len(words) < LEAST_DOCUMENT:
        return None
    return Pair(query, " ".join(words), module)


def _without_names(text: str, names: Sequence[str]) -> str:
    return " ".join(re.sub(rf"\s*{docstrings.MASK}", " ", docstrings.hide(text, names)).split())


def corpus_of(pairs: Sequence[Pair], part: str, source: str = "") -> Corpus:
    """The pairs of the modules that are held out for a part, and those of the training modules."""
    documents, queries = SIZES[part]
    held = _of_modules(pairs, part)[:documents]
    return Corpus(
        tuple(pair.document for pair in held),
        tuple(pair.query for pair in held[:queries]),
        tuple(range(min(queries, len(held)))),
        tuple(_of_modules(pairs, "train")),
        source,
    )


def _of_modules(pairs: Sequence[Pair], part: str) -> list[Pair]:
    return [pair for pair in pairs if mixed_order(pair.module)[0] in PARTS[part]]
