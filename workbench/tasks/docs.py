"""The task `docs`: name the sub-package of an installed library that a passage of its documentation describes.

The passages are read from the docstrings of the installed, pinned packages, without importing them. Names are masked,
near-duplicates are dropped, and a source file's passages are all in train or all in test.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import DamagedError
from workbench.stored import read_json
from workbench.tasks import docstrings
from workbench.tasks.docstrings import MASK, distinct, mixed_order, source_files
from workbench.tasks.example import Example
from workbench.tasks.reading.contents import Contents

NAME, READER = "docs", 'The task "docs"'
# Every install has these packages. The standard library is left out: it is not pinned, and forgetting is measured on
# its documentation.
LABELS = (
    "IPython.core",
    "matplotlib.backends",
    "networkx.algorithms",
    "networkx.generators",
    "numpy._core",
    "numpy.lib",
    "pandas.core.arrays",
    "pandas.core.indexes",
    "pandas.io",
    "sympy.combinatorics",
    "sympy.core",
    "sympy.geometry",
    "sympy.matrices",
    "sympy.physics",
    "sympy.polys",
    "sympy.solvers",
    "torch.ao",
    "torch.distributed.checkpoint",
    "torch.distributed.elastic",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "torch.distributions",
    "torch.fx",
    "torch.nn",
    "torch.onnx",
    "transformers.generation",
    "transformers.integrations",
)
PACKAGES = tuple(dict.fromkeys(label.split(".")[0] for label in LABELS))
COMMON_NAMES = {part for label in LABELS for part in label.split(".")} | {"np", "pd", "plt", "nx"}
HIDDEN_WITHIN = (*map(str.lower, PACKAGES), "hugging")  # also in the middle of a word
LEAST_WORDS, MOST_WORDS = 12, 60  # of a passage
LEAST_PLAIN, MOST_MASKED = 0.75, 0.25  # of its words
MOST_OF_FILE, ENOUGH = 40, 220  # passages of a file, at most; of a label, after which no further file is read
TRAIN_ROWS, TEST_ROWS = 110, 55  # of a label, at most
TEST_SHARE = 1 / 3  # of a label's passages, as far as whole files allow

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z_])")


@dataclass(frozen=True)
class Passage:
    """A masked passage, the label and the file it is from, and the names of the object that it documents."""

    text: str
    label: str
    module: str
    names: tuple[str, ...]


def read_docs() -> Contents:
    """The rows of the task, from the cache if this module has read these versions before.

    Raises TaskError as `versions` does, and if the cache folder cannot be used.
    """
    file = docstrings.cache_file(NAME, [__file__], versions())
    try:
        train, test = read_json(file, list[list[list[str]]])
        return Contents([Example(*row) for row in train], [Example(*row) for row in test], [])
    except (OSError, DamagedError, ValueError, TypeError):  # not read yet, or damaged
        train_rows, test_rows = build_rows()
    docstrings.keep(file, [[[row.prompt, row.completion] for row in rows] for rows in (train_rows, test_rows)], NAME)
    return Contents(train_rows, test_rows, [])


def versions() -> str:
    """The packages that are read with their versions, in words. Raises TaskError that names one that is missing."""
    return docstrings.versions(PACKAGES, READER)


def build_rows() -> tuple[list[Example], list[Example]]:
    """The rows of train and of test, each in a mixed order, so that the first of them are a fair sample."""
    sides: tuple[list[Passage], list[Passage]] = ([], [])
    by_label: dict[str, list[Passage]] = defaultdict(list)
    for passage in all_passages():
        by_label[passage.label].append(passage)
    for passages in by_label.values():
        train, test = split(passages)
        sides[0].extend(train)
        sides[1].extend(test)
    return _shuffled(sides[0]), _shuffled(sides[1])


def all_passages() -> list[Passage]:
    """The passages of all labels, near-duplicates dropped."""
    return distinct((passage for label in LABELS for passage in label_passages(label)), lambda passage: passage.text)


def _shuffled(passages: Sequence[Passage]) -> list[Example]:
    mixed = sorted(passages, key=_mixed)
    return [Example(f"Passage: {passage.text}\nPackage:", f" {passage.label}") for passage in mixed]


def _mixed(passage: Passage) -> str:
    return mixed_order(passage.text)


def split(passages: Sequence[Passage]) -> tuple[list[Passage], list[Passage]]:
    """A label's passages for train and for test: whole files go to test, in a mixed order, as long as it has room."""
    sizes = Counter(passage.module for passage in passages)
    room = TEST_SHARE * len(passages)
    held: set[str] = set()
    for module in sorted(sizes, key=mixed_order):
        if sizes[module] <= room:
            held.add(module)
            room -= sizes[module]
    mixed = sorted(passages, key=_mixed)
    train = [passage for passage in mixed if passage.module not in held]
    test = [passage for passage in mixed if passage.module in held]
    return train[:TRAIN_ROWS], test[:TEST_ROWS]


def label_passages(label: str) -> list[Passage]:
    """Passages of a sub-package's files, which are read in a mixed order until there are ENOUGH."""
    found: list[Passage] = []
    for parts, file in source_files(label, READER):
        found += sorted(file_passages(file, label, parts), key=_mixed)[:MOST_OF_FILE]
        if len(found) >= ENOUGH:
            break
    return found


def file_passages(file: Path, label: str, parts: tuple[str, ...]) -> Iterator[Passage]:
    """A source file's passages: one for each docstring that has one."""
    for names, docstring in docstrings.docstrings(file):
        own = (*names, *parts)
        if text := passage_text(docstring, own):
            yield Passage(text, label, ".".join(parts), own)


def passage_text(docstring: str, names: Sequence[str]) -> str | None:
    """The first sentences of a docstring's prose, masked; None if they are too few, no prose, or mostly masked."""
    words: list[str] = []
    for sentence in SENTENCE_END.split(docstrings.prose(docstring)):
        if len(words) + len(sentence.split()) > MOST_WORDS or sentence.endswith(":") or "://" in sentence:
            break
        words += sentence.split()
    plain = sum(bool(re.search(r"[A-Za-z]{2}", word)) for word in words)
    if plain < LEAST_WORDS or plain < LEAST_PLAIN * len(words):
        return None
    text = masked(" ".join(words), names)
    return None if text.count(MASK) > MOST_MASKED * len(words) else text


def masked(text: str, names: Sequence[str]) -> str:
    """The text with MASK for each word that holds one of the names, a part of a label, or the name of a package."""
    return docstrings.hide(text, (*names, *COMMON_NAMES), HIDDEN_WITHIN)
