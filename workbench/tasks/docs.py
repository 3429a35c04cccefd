"""The task `docs`: name the sub-package of an installed library that a passage of its documentation describes.

The passages are read from the docstrings of the installed, pinned packages, without importing them. Names are masked,
near-duplicates are dropped, and a source file's passages are all in train or all in test.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from workbench.console import first_line
from workbench.errors import DamagedError, TaskError
from workbench.paths import cache_dir, write_json
from workbench.stored import read_json
from workbench.tasks.contents import Contents
from workbench.tasks.files import Example

NAME = "docs"
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
COMMON_NAMES = {part.lower().strip("_") for label in LABELS for part in label.split(".")} | {"np", "pd", "plt", "nx"}
HIDDEN_WITHIN = (*map(str.lower, PACKAGES), "hugging")  # also in the middle of a word
MASK = "___"
LEAST_WORDS, MOST_WORDS = 12, 60  # of a passage
LEAST_PLAIN, MOST_MASKED = 0.75, 0.25  # of its words
MOST_SHARED = 0.5  # of a passage's word trigrams with those of any other
MOST_OF_FILE, ENOUGH = 40, 220  # passages of a file, at most; of a label, after which no further file is read
TRAIN_ROWS, TEST_ROWS = 110, 55  # of a label, at most
TEST_SHARE = 1 / 3  # of a label's passages, as far as whole files allow

UNDERLINE = re.compile(r"[-=~^*]{3,}")
PROSE_SECTIONS = ("explanation", "description", "notes", "extended summary")
ENDS = re.compile(
    r"(Args|Arguments|Parameters|Returns?|Raises|Yields|Examples?|Usage|Attributes|Shape|Inputs?)\b.{0,20}:"
)
NO_PROSE = re.compile(r">>>|^\s|^\.\. |^[:@]\w+|^[-*+|#] |```|^\d+[.)] |^[\[<]", re.MULTILINE)
MARKUP = re.compile(r":[a-z:]+:(?=`)|[`*]+|\s*\[\w+\]_")  # roles, quotes and emphasis, footnotes
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
    rules = Path(__file__).read_bytes()
    file = cache_dir() / "docs" / f"{hashlib.sha256(rules + versions().encode()).hexdigest()[:16]}.json"
    try:
        train, test = read_json(file, list[list[list[str]]])
        return Contents([Example(*row) for row in train], [Example(*row) for row in test], [])
    except (OSError, DamagedError, ValueError, TypeError):  # not read yet, or damaged
        train_rows, test_rows = build_rows()
    try:
        write_json(file, [[[row.prompt, row.completion] for row in rows] for rows in (train_rows, test_rows)])
    except OSError as error:
        raise TaskError(
            f"The rows of docs could not be written to {file.parent}: {first_line(error)}. Free some space, or set "
            "WORKBENCH_CACHE to a folder that can be written."
        ) from error
    return Contents(train_rows, test_rows, [])


def versions() -> str:
    """The packages that are read with their versions, in words. Raises TaskError that names one that is missing."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError as error:
            raise TaskError(_missing(name)) from error
    return ", ".join(found)


def _missing(package: str) -> str:
    return (
        f'The task "docs" reads the documentation of {package}, which is not installed here. '
        "Install it: python -m pip install -c constraints.txt -e ."
    )


def build_rows() -> tuple[list[Example], list[Example]]:
    """The rows of train and of test, each in a mixed order, so that the first of them are a fair sample."""
    sides: tuple[list[Passage], list[Passage]] = ([], [])
    by_label: dict[str, list[Passage]] = defaultdict(list)
    for passage in distinct([passage for label in LABELS for passage in label_passages(label)]):
        by_label[passage.label].append(passage)
    for passages in by_label.values():
        train, test = split(passages)
        sides[0].extend(train)
        sides[1].extend(test)
    return _shuffled(sides[0]), _shuffled(sides[1])


def _shuffled(passages: Sequence[Passage]) -> list[Example]:
    mixed = sorted(passages, key=_mixed)
    return [Example(f"Passage: {passage.text}\nPackage:", f" {passage.label}") for passage in mixed]


def _order(text: str) -> str:
    """A key that sorts as if at random, alike everywhere."""
    return hashlib.sha256(text.encode()).hexdigest()


def _mixed(passage: Passage) -> str:
    return _order(passage.text)


def split(passages: Sequence[Passage]) -> tuple[list[Passage], list[Passage]]:
    """A label's passages for train and for test: whole files go to test, in a mixed order, as long as it has room."""
    sizes = Counter(passage.module for passage in passages)
    room = TEST_SHARE * len(passages)
    held: set[str] = set()
    for module in sorted(sizes, key=_order):
        if sizes[module] <= room:
            held.add(module)
            room -= sizes[module]
    mixed = sorted(passages, key=_mixed)
    train = [passage for passage in mixed if passage.module not in held]
    test = [passage for passage in mixed if passage.module in held]
    return train[:TRAIN_ROWS], test[:TEST_ROWS]


def distinct(passages: Sequence[Passage]) -> list[Passage]:
    """The passages, less each that shares too many word trigrams with one before it.

    Too many are more than MOST_SHARED of those of the shorter one.
    """
    kept: list[Passage] = []
    sizes: list[int] = []
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)  # the kept passages that have a trigram, by number
    for passage in passages:
        mine = trigrams(passage.text)
        shared = Counter(number for trigram in mine for number in holders[trigram])
        if any(count > MOST_SHARED * min(len(mine), sizes[number]) for number, count in shared.items()):
            continue
        for trigram in mine:
            holders[trigram].append(len(kept))
        kept.append(passage)
        sizes.append(len(mine))
    return kept


def trigrams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def label_passages(label: str) -> list[Passage]:
    """Passages of a sub-package's files, which are read in a mixed order until there are ENOUGH."""
    top, *inner = label.split(".")
    root = _folder(top)
    files = {(top, *file.relative_to(root).with_suffix("").parts): file for file in root.joinpath(*inner).rglob("*.py")}
    found: list[Passage] = []
    for parts in sorted(files, key=lambda parts: _order(".".join(parts))):
        if not any(part.startswith(("test", "_test", "conftest")) for part in parts):
            found += sorted(file_passages(files[parts], label, parts), key=_mixed)[:MOST_OF_FILE]
        if len(found) >= ENOUGH:
            break
    return found


def _folder(package: str) -> Path:
    """Where a package lies: it is found, and not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TaskError(_missing(package))
    return Path(next(iter(spec.submodule_search_locations)))


def file_passages(file: Path, label: str, parts: tuple[str, ...]) -> Iterator[Passage]:
    """A source file's passages: one for each docstring that has one."""
    with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # as of "\d" in the packages' own code
        tree = ast.parse(file.read_bytes())
    for names, docstring in _docstrings(tree, ()):
        own = (*names, *parts)
        if text := passage_text(docstring, own):
            yield Passage(text, label, ".".join(parts), own)


def _docstrings(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each docstring of a module, its classes and their functions, with the names of the object and its classes."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if docstring := ast.get_docstring(node):
            yield names, docstring
        for child in node.body if isinstance(node, ast.Module | ast.ClassDef) else ():
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _docstrings(child, (*names, child.name))


def passage_text(docstring: str, names: Sequence[str]) -> str | None:
    """The first sentences of a docstring's prose, masked; None if they are too few, no prose, or mostly masked."""
    words: list[str] = []
    for sentence in SENTENCE_END.split(prose(docstring)):
        if len(words) + len(sentence.split()) > MOST_WORDS or sentence.endswith(":") or "://" in sentence:
            break
        words += sentence.split()
    plain = sum(bool(re.search(r"[A-Za-z]{2}", word)) for word in words)
    if plain < LEAST_WORDS or plain < LEAST_PLAIN * len(words):
        return None
    text = masked(" ".join(words), names)
    return None if text.count(MASK) > MOST_MASKED * len(words) else text


def prose(docstring: str) -> str:
    """The paragraphs of a docstring that are prose, up to its list of arguments, without marks of reStructuredText."""
    kept: list[str] = []
    wanted = True
    for paragraph in re.split(r"\n\s*\n", docstring):
        lines = paragraph.split("\n")
        if len(lines) > 1 and UNDERLINE.fullmatch(lines[1].strip()):
            wanted = lines[0].strip().lower() in PROSE_SECTIONS
            lines = lines[2:]
        if ENDS.match(lines[0] if lines else ""):
            break
        text = "\n".join(lines)
        if wanted and text.strip() and not NO_PROSE.search(text):
            kept.append(text)
    return MARKUP.sub("", " ".join(" ".join(kept).split()))


def masked(text: str, names: Sequence[str]) -> str:
    """The text with MASK for each word that holds one of the names, a part of a label, or the name of a package."""
    hidden = frozenset({name.lower().strip("_") for name in names} | COMMON_NAMES) - {""}
    joined = tuple(f"_{name}_" for name in hidden if "_" in name)
    return re.sub(r"\w+", lambda word: MASK if _tells(word[0].lower(), hidden, joined) else word[0], text)


def _tells(word: str, names: frozenset[str], joined: tuple[str, ...]) -> bool:
    """Whether a word, or a part of it between underscores, is one of the names, also with an s or a number behind."""
    parts = {part for each in word.split("_") for part in (each, each.rstrip("0123456789"), *_singular(each))}
    return (
        not parts.isdisjoint(names)
        or any(name in f"_{word}_" for name in joined)
        or any(package in word for package in HIDDEN_WITHIN)
    )


def _singular(word: str) -> tuple[str, ...]:
    return tuple(word.removesuffix(ending) for ending in ("s", "es") if word.endswith(ending))
