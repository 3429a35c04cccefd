"""Scores with the test rows behind them: which rows were right, packed into a short text that a record can hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


class Scores(dict[str, float]):
    """Scores by name.

    right: for the names that are a share of the test rows, which rows were right (see `pack_rows`), in the order of the
    task's test rows.
    """

    def __init__(self, scores: Mapping[str, float] | None = None, right: Mapping[str, str] | None = None):
        super().__init__(scores or {})
        self.right = dict(right or {})


def pack_rows(right: Sequence[bool] | NDArray[np.bool_]) -> str:
    """Which rows were right as their number and the bits in hexadecimal, first row first: "10:ff40".

    1,000 rows take 255 characters.
    """
    return f"{len(right)}:{np.packbits(np.asarray(right, dtype=bool)).tobytes().hex()}"


def unpack_rows(packed: str) -> NDArray[np.bool_]:
    """What `pack_rows` was given. Raises ValueError for a text that it does not write."""
    parts = re.fullmatch(r"(\d{1,9}):((?:[0-9a-f]{2})*)", packed)
    rows, data = (int(parts[1]), bytes.fromhex(parts[2])) if parts else (0, b"")
    right = np.unpackbits(np.frombuffer(data, dtype=np.uint8))[:rows].astype(bool)
    if pack_rows(right) != packed:
        raise ValueError(f"{packed[:40]!r} is not a number of rows, a colon and one bit for each row in hexadecimal")
    return right
