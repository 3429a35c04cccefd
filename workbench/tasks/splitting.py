"""A seeded split into train and test that keeps near-duplicates on one side.

Two texts are near-duplicates if more than half of their word trigrams, of all that either has, are in both. Pairs to
compare are found with MinHash (Broder, 1997) in bands, so that the work grows with the rows and not with their square.
"""

from __future__ import annotations

import random
import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from workbench.errors import TaskError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIKE = 0.5  # of the trigrams of two texts, above which they are near-duplicates
COMMON = 0.5  # of all texts: what more of them share is a form, such as an instruction, and tells no text from another
BANDS, BAND_ROWS = 32, 3  # two texts that share half are compared with a chance of 99 %: 1 - (1 - 0.5^3)^32
PRIME = 4_294_967_311  # the first one above 2^32

Pair = tuple[int, int]


def normal_form(text: str) -> str:
    """The text without case, spaces, and Unicode's several ways to write a letter."""
    return "".join(unicodedata.normalize("NFC", text).casefold().split())


def hold_out(texts: Sequence[str], sources: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """The places of the rows for train and for test: whole groups, drawn with `seed`, as long as the test has room.

    texts: by which near-duplicates are found. sources: rows of the same source, such as the answers of one chat, stay
    together too. Raises TaskError for a fraction outside of 0 to 1, and if all rows are one group.
    """
    if not isinstance(fraction, Real) or not 0 < fraction < 1:
        raise TaskError(f"test_fraction must lie between 0 and 1, not {fraction}.")
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise TaskError(f"seed={seed!r} must be a whole number, so that the split is the same next time.")
    order = groups(texts, sources)
    if len(order) < 2:
        raise TaskError(
            "At least two different prompts are needed to split the file into train and test; "
            f"its {len(texts):,} rows are one, or nearly the same."
        )
    random.Random(seed).shuffle(order)
    room = max(1, round(fraction * len(texts)))
    held: set[int] = set()
    for group in order[:-1]:
        if len(held) + len(group) <= room:
            held.update(group)
    held = held or set(sorted(order, key=len)[0])
    return [place for place in range(len(texts)) if place not in held], sorted(held)


def groups(texts: Sequence[str], sources: Sequence[int]) -> list[list[int]]:
    """Places that belong together: near-duplicates, their near-duplicates, and texts of the same source."""
    import numpy as np  # lazily, as scipy: only files without test rows are split
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = [*_equal([normal_form(text) for text in texts]), *_equal(sources), *near_duplicates(texts)]
    ends = tuple(zip(*edges, strict=True)) if edges else ((), ())
    _, numbers = connected_components(coo_array((np.ones(len(edges)), ends), shape=(len(texts), len(texts))), False)
    found: dict[int, list[int]] = defaultdict(list)
    for place, number in enumerate(numbers):
        found[int(number)].append(place)
    return list(found.values())


def _equal(values: Sequence[Any]) -> Iterator[Pair]:
    """Each place with the first one that holds the same value, if that is another."""
    first: dict[Any, int] = {}
    for place, value in enumerate(values):
        if first.setdefault(value, place) != place:
            yield first[value], place


def near_duplicates(texts: Sequence[str]) -> list[Pair]:
    """Pairs of places whose texts are near-duplicates. Not all of many alike, but enough to join them all."""
    found = _trigrams(texts)
    buckets: dict[tuple[int, bytes], int] = {}
    candidates: set[Pair] = set()
    for place, mine in enumerate(found):
        for key in enumerate(_bands(mine) if mine else ()):
            candidates.add((buckets.setdefault(key, place), place))
    return sorted(pair for pair in candidates if pair[0] != pair[1] and _alike(*(found[place] for place in pair)))


def _trigrams(texts: Sequence[str]) -> list[set[int]]:
    """The word trigrams of each text as numbers, without those that most texts share."""
    found = []
    for text in texts:
        words = re.findall(r"\w+", text.casefold())
        triples = zip(words, words[1:], words[2:], strict=False)
        found.append({zlib.crc32(" ".join(triple).encode()) for triple in triples})
    shared = Counter(trigram for mine in found for trigram in mine)
    forms = {trigram for trigram, count in shared.items() if count > max(2, COMMON * len(texts))}
    return [mine - forms for mine in found]


def _bands(trigrams: set[int]) -> list[bytes]:
    """The signature of a text, in bands: texts of which one band is the same are worth comparing."""
    import numpy as np  # lazily, as above

    values = np.fromiter(trigrams, dtype=np.uint64)
    factors, shifts = _hashes()
    least = ((values[None] * factors[:, None] + shifts[:, None]) % np.uint64(PRIME)).min(axis=1)
    return [band.tobytes() for band in least.reshape(BANDS, BAND_ROWS)]


@cache
def _hashes() -> tuple[NDArray[Any], NDArray[Any]]:
    """Factors and shifts of the hash functions x -> (factor x + shift) mod PRIME; no product exceeds 64 bits."""
    import numpy as np  # lazily, as above

    generator = random.Random(0)
    factors, shifts = ([generator.randrange(1, 2**31) for _ in range(BANDS * BAND_ROWS)] for _ in range(2))
    return np.array(factors, dtype=np.uint64), np.array(shifts, dtype=np.uint64)


def _alike(one: set[int], other: set[int]) -> bool:
    return len(one & other) > ALIKE * len(one | other)
