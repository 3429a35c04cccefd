"""The documentation of installed packages, read from their source files without importing them.

What is read: docstrings with the names of their objects, their prose, texts with names masked, and texts of which none
is nearly another.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from workbench.console import first_line
from workbench.errors import TaskError
from workbench.paths import cache_dir, write_json

Item = TypeVar("Item")

DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # of packages that are installed under another name
MASK = "___"
MOST_SHARED = 0.5  # of a text's word trigrams with those of any other

UNDERLINE = re.compile(r"[-=~^*]{3,}")
PROSE_SECTIONS = ("explanation", "description", "notes", "extended summary")
ENDS = re.compile(
    r"(Args|Arguments|Parameters|Returns?|Raises|Yields|Examples?|Usage|Attributes|Shape|Inputs?)\b.{0,20}:"
)
NO_PROSE = re.compile(r">>>|^\s|^\.\. |^[:@]\w+|^[-*+|#] |```|^\d+[.)] |^[\[<]", re.MULTILINE)
MARKUP = re.compile(r":[a-z:]+:(?=`)|[`*]+|\s*\[\w+\]_")  # roles, quotes and emphasis, footnotes


def versions(packages: Sequence[str], reader: str) -> str:
    """The packages with their versions, in words. Raises TaskError, which says what reader needs the missing one."""
    found = []
    for name in packages:
        try:
            found.append(f"{name} {metadata.version(DISTRIBUTIONS.get(name, name))}")
        except metadata.PackageNotFoundError as error:
            raise TaskError(_missing(name, reader)) from error
    return ", ".join(found)


def _missing(package: str, reader: str) -> str:
    return (
        f"{reader} reads the documentation of {package}, which is not installed here. "
        "Install it: python -m pip install -c constraints.txt -e ."
    )


def cache_file(name: str, rules: Sequence[str], versions: str) -> Path:
    """Where the texts read by these rules (paths of modules) from these versions are kept."""
    code = b"".join(Path(file).read_bytes() for file in (*rules, __file__))
    return cache_dir() / name / f"{hashlib.sha256(code + versions.encode()).hexdigest()[:16]}.json"


def keep(file: Path, value: object, name: str) -> None:
    """Write what was read to its cache file. Raises TaskError if that is not possible."""
    try:
        write_json(file, value)
    except OSError as error:
        raise TaskError(
            f"The rows of {name} could not be written to {file.parent}: {first_line(error)}. Free some space, or set "
            "WORKBENCH_CACHE to a folder that can be written."
        ) from error


def source_files(label: str, reader: str) -> Iterator[tuple[tuple[str, ...], Path]]:
    """The files of a package or sub-package ("numpy.lib") but for its tests, each with its module's name in parts.

    In a mixed order, alike everywhere. Raises TaskError as `versions` does.
    """
    top, *inner = label.split(".")
    root = _folder(top, reader)
    files = {(top, *file.relative_to(root).with_suffix("").parts): file for file in root.joinpath(*inner).rglob("*.py")}
    for parts in sorted(files, key=lambda parts: mixed_order(".".join(parts))):
        if not any(part.startswith(("test", "_test", "conftest")) for part in parts):
            yield parts, files[parts]


def _folder(package: str, reader: str) -> Path:
    """Where a package lies: it is found, and not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TaskError(_missing(package, reader))
    return Path(next(iter(spec.submodule_search_locations)))


def mixed_order(text: str) -> str:
    """A key that sorts as if at random, alike everywhere."""
    return hashlib.sha256(text.encode()).hexdigest()


def docstrings(file: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each docstring of a file's module, classes and their functions, with the names of the object and its classes."""
    with warnings.catch_warnings(action="ignore", category=SyntaxWarning):  # as of "\d" in the packages' own code
        tree = ast.parse(file.read_bytes())
    yield from _docstrings(tree, ())


def _docstrings(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if docstring := ast.get_docstring(node):
            yield names, docstring
        for child in node.body if isinstance(node, ast.Module | ast.ClassDef) else ():
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _docstrings(child, (*names, child.name))


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


def hide(text: str, names: Iterable[str], within: Sequence[str] = ()) -> str:
    """The text with MASK for each word that holds one of the names, or one of `within` in the middle of a word."""
    hidden = frozenset(name.lower().strip("_") for name in names) - {""}
    joined = tuple(f"_{name}_" for name in hidden if "_" in name)
    return re.sub(r"\w+", lambda word: MASK if _tells(word[0].lower(), hidden, joined, within) else word[0], text)


def _tells(word: str, names: frozenset[str], joined: Sequence[str], within: Sequence[str]) -> bool:
    """Whether a word, or a part of it between underscores, is one of the names, also with an s or a number behind."""
    parts = {part for each in word.split("_") for part in (each, each.rstrip("0123456789"), *_singular(each))}
    return (
        not parts.isdisjoint(names)
        or any(name in f"_{word}_" for name in joined)
        or any(piece in word for piece in within)
    )


def _singular(word: str) -> tuple[str, ...]:
    return tuple(word.removesuffix(ending) for ending in ("s", "es") if word.endswith(ending))


def distinct(items: Iterable[Item], text: Callable[[Item], str]) -> list[Item]:
    """The items, less each whose text shares too many word trigrams with that of one before it.

    Too many are more than MOST_SHARED of those of the shorter one.
    """
    kept: list[Item] = []
    sizes: list[int] = []
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)  # the kept items that have a trigram, by number
    for item in items:
        mine = trigrams(text(item))
        shared = Counter(number for trigram in mine for number in holders[trigram])
        if any(count > MOST_SHARED * min(len(mine), sizes[number]) for number, count in shared.items()):
            continue
        for trigram in mine:
            holders[trigram].append(len(kept))
        kept.append(item)
        sizes.append(len(mine))
    return kept


def trigrams(text: str) -> set[tuple[str, ...]]:
    """Every three words that follow one another, in lower case."""
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))
