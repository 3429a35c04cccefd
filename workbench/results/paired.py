"""Two methods compared row by row: which is better, on par within a margin, or how many rows would decide.

Rows and seeds are both random: with other test rows, or other seeds, the difference would be another. Its variance is
V_row + V_seed - V_both, with Student's t and Satterthwaite's degrees of freedom. tests/results/test_paired.py shows on
simulated runs that the 95 % interval holds the true difference 93 to 97 times of 100; where the seeds differ, that of a
bootstrap over three seeds does so 83 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, t

from workbench.results.rows import Row
from workbench.scoring.scores import unpack_rows

MARGIN = 3.0  # points: methods that are closer are on par
CONFIDENCE = 0.95
MOST_ROWS = 1_000_000  # a test that would take more is not advised

Array = NDArray[Any]


@dataclass(frozen=True)
class Comparison:
    """The first method against the second, in points of 100 rows: how many more of them it gets right.

    low, high: the 95 % interval. p: exact McNemar test, of one seed each. rows_needed: how many rows would decide at
    this spread; None where it is decided, or where the seeds differ so much that rows alone would not decide.
    """

    difference: float
    low: float
    high: float
    rows: int
    seeds: tuple[int, int]
    margin: float
    p: float | None
    rows_needed: int | None

    @property
    def verdict(self) -> str:
        """The first is "on par" (the interval lies within the margin), "better", "worse" (0 lies outside of it), or it
        is "undecided". What is on par and yet better is on par."""
        if -self.margin <= self.low and self.high <= self.margin:
            return "on par"
        return ("better" if self.low > 0 else "worse") if self.excludes_zero else "undecided"

    @property
    def excludes_zero(self) -> bool:
        """Whether one of the two is ahead, by however little."""
        return self.low > 0 or self.high < 0

    @property
    def numbers(self) -> str:
        """The difference and its interval: "+4.7 (+0.8 to +8.6)"."""
        return f"{self.difference:+.1f} ({self.low:+.1f} to {self.high:+.1f})"

    def in_words(self, first: str, second: str) -> str:
        """The verdict for a person. first, second: the names of the two methods."""
        ahead, sign = (first, 1) if self.difference > 0 else (second, -1)
        low, high = sorted((sign * self.low, sign * self.high))
        seeds = "1 seed" if self.seeds == (1, 1) else f"{' and '.join(map(str, dict.fromkeys(self.seeds)))} seeds"
        sizes = f"{seeds}, {self.rows:,} rows" + (f", McNemar p = {self.p:.2g}" if self.p is not None else "")
        if self.verdict == "on par":
            note = f"; {ahead} ahead" if self.excludes_zero else ""
            return f"{first} and {second} are on par: within {self.margin:g} points ({_span(self)}{note}, {sizes})"
        if self.excludes_zero:
            interval = f"95 % interval {low:.1f} to {high:.1f}"
            return f"{ahead} is {abs(self.difference):.1f} points better ({interval}, {sizes})"
        needed = "more seeds are needed, not more rows"
        if self.rows_needed is not None:
            needed = f"about {two_digits(self.rows_needed):,} rows would decide"
        return f"{first} and {second} are not told apart ({_span(self)} points, {sizes}; {needed})"


@dataclass(frozen=True)
class _Spread:
    """What the variance of a difference consists of; every array has the shape of the difference in front.

    centre: the difference. rows: how many. row: variance of a row's difference. seed and noise, (..., 2): of the mean
    of each method, the variance between seeds and what one row adds to it by chance (0 with one seed); freedom, (2,).
    """

    centre: Array
    rows: int
    row: Array
    seed: Array
    noise: Array
    freedom: Array


def compare(first: Array, second: Array, margin: float = MARGIN) -> Comparison:
    """Compare two methods on the same test rows. first, second: booleans (seeds, rows), True where the row was right.

    Seeds and their number need not be the same. One seed of each says nothing about other seeds: the interval is that
    of other rows alone. margin: points. Raises ValueError for other shapes, and for one seed against several, since
    one seed does not show how much the seeds differ.
    """
    first, second = np.asarray(first), np.asarray(second)
    if {first.dtype, second.dtype} != {np.dtype(bool)} or first.ndim != 2 or second.ndim != 2:
        raise ValueError("compare needs two boolean arrays of (seeds, rows); give right[None] for a single seed.")
    if first.shape[1] != second.shape[1] or first.shape[1] < 2 or not (len(first) and len(second)):
        raise ValueError(f"The arrays are {first.shape} and {second.shape}; give the same rows, two at least, of both.")
    if (len(first) == 1) != (len(second) == 1):
        raise ValueError(f"{len(first)} and {len(second)} seeds: give one of each, such as the same, or two and more.")
    if not margin > 0:
        raise ValueError(f"margin={margin} must be above 0 points.")
    spread = _spread(first, second)
    low, high = (min(max(100 * float(end), -100.0), 100.0) for end in _ends(spread))
    p = _mcnemar(first[0], second[0]) if len(first) == len(second) == 1 else None
    difference, seeds = 100 * float(first.mean() - second.mean()), (len(first), len(second))
    found = Comparison(difference, low, high, spread.rows, seeds, margin, p, None)
    needed = _rows_needed(spread, margin / 100) if found.verdict == "undecided" else None
    return Comparison(difference, low, high, spread.rows, seeds, margin, p, needed)


def compare_rows(
    first: Sequence[Row], second: Sequence[Row], margin: float = MARGIN, measure: str = "right"
) -> Comparison:
    """`compare` for stored rows: those of each method, one a seed. measure: "right" or "right_labels"."""
    return compare(*rows_in_common(first, second, measure), margin)


def rows_in_common(first: Sequence[Row], second: Sequence[Row], measure: str = "right") -> tuple[Array, Array]:
    """Which test rows were right, (seeds, rows) of each method, for the rows that all of these runs scored.

    first, second: rows of `runs.table` with their `runs.provenance`, one a seed. Runs with the same data, or the same
    test rows, score the first n of them; the smallest n counts. Raises ValueError for rows that cannot be compared.
    """
    runs = [*first, *second]
    if not first or not second:
        raise ValueError("There is no row of one of the methods; give one or more of each.")
    for own in (first, second):
        if len({row["seed"] for row in own}) < len(own):
            raise ValueError("Two rows of one method have the same seed; give one a seed, such as at_best_rate(rows).")
    if lacking := [row for row in runs if not row.get(measure)]:
        method = lacking[0].get("method", "a method")
        raise ValueError(f"{method}, seed {lacking[0]['seed']}, has no {measure!r}: which rows it got right was not "
                         "stored. Train it again, or compare the scores.")  # fmt: skip
    if not any(_shared(runs, name) for name in ("task_sha256", "test_sha256")):
        raise ValueError("The runs have other test rows, so no row can be compared; give runs of one task and version.")
    arrays = [unpack_rows(row[measure]) for row in runs]
    count = min(map(len, arrays))
    right = np.stack([array[:count] for array in arrays])
    return right[: len(first)], right[len(first) :]


def paired_interval(first: Array, second: Array) -> tuple[Array, Array]:
    """The ends of the 95 % interval of the difference of two shares or mean scores, first minus second.

    first, second: (..., seeds, rows), True where the row was right, or a score of each row from 0 to 1; the ends have
    the shape in front of these two.
    """
    return _ends(_spread(first, second))


def _spread(first: Array, second: Array) -> _Spread:
    """Two more rows, one that only the first gets right and one that only the second does, keep a few rows that all
    agree from being taken for certainty. With one seed each this is Bonett and Price's interval (2012); the two weigh
    less where several seeds have been asked.
    """
    pair = (first, second)
    seeds, rows = [array.shape[-2] for array in pair], first.shape[-1]
    gap = first.mean(-2) - second.mean(-2)
    centre = gap.sum(-1) / (rows + 2)
    added = sum(1 / count for count in seeds)
    row = ((gap**2).sum(-1) + added - (rows + 2) * centre**2) / (rows + 1)
    freedom = np.maximum(np.array(seeds) - 1, 1)
    if seeds == [1, 1]:
        none = np.zeros((*centre.shape, 2))
        return _Spread(centre, rows, row, none, none, freedom)
    noise = np.stack([_cell_variance(array) for array in pair], -1) / seeds
    # Between the seeds' means, with chance in the rows taken off.
    seed = np.stack([array.mean(-1).var(-1, ddof=1) for array in pair], -1) / seeds - noise / rows
    return _Spread(centre, rows, row, seed, noise, freedom)


def _cell_variance(right: Array) -> Array:
    """Of one row and seed, beyond what the row and the seed have in common with others: the residual mean square."""
    seeds, rows = right.shape[-2:]
    by_seed, by_row = right.mean(-1), right.mean(-2)
    squared = right if right.dtype == bool else right**2  # 1 squared is 1
    squares = squared.sum((-1, -2)) - rows * (by_seed**2).sum(-1) - seeds * (by_row**2).sum(-1)
    return (squares + seeds * rows * by_row.mean(-1) ** 2) / ((seeds - 1) * (rows - 1))


def _half_width(spread: _Spread, rows: Array) -> Array:
    """Of the interval, if there were so many rows.

    The degrees of freedom of the seeds count by the square root of the share of their variance that is no chance of
    rows: fully would be too wide without an effect of the seeds, by the share itself too narrow with a large one.
    """
    by_row = spread.row / (rows + 2)
    own = np.maximum(spread.seed + spread.noise / rows[..., None], 0)
    between = np.maximum(spread.seed.sum(-1), 0)
    share = np.sqrt(between / np.maximum(own.sum(-1), 1e-12))
    variance = by_row + between
    lost = by_row**2 / (rows + 1) + share * (own**2 / spread.freedom).sum(-1)
    return t.ppf((1 + CONFIDENCE) / 2, variance**2 / lost) * np.sqrt(variance)


def _ends(spread: _Spread) -> tuple[Array, Array]:
    half = _half_width(spread, np.asarray(spread.rows))
    return spread.centre - half, spread.centre + half


def _rows_needed(spread: _Spread, margin: float) -> int | None:
    """The fewest rows whose interval would exclude 0, or lie within the margin, around the same difference."""
    away = abs(float(spread.centre))
    counts = np.geomspace(spread.rows, MOST_ROWS, 4000).round()
    enough = counts[_half_width(spread, counts) <= max(away, margin - away)]
    return int(enough[0]) if len(enough) else None


def _mcnemar(first: Array, second: Array) -> float:
    """The exact p value: how likely rows that only one gets right would be split as unevenly by chance."""
    one, other = int((first & ~second).sum()), int((second & ~first).sum())
    return float(binomtest(one, one + other).pvalue) if one + other else 1.0


def _shared(runs: Sequence[Row], name: str) -> bool:
    values = {row.get(name) for row in runs}
    return len(values) == 1 and None not in values


def _span(found: Comparison) -> str:
    return f"{found.low:.1f} to {found.high:.1f}"


def two_digits(count: float) -> int:
    """A count rounded to its first two digits: 1,234 -> 1,200."""
    return int(float(f"{count:.1e}"))
