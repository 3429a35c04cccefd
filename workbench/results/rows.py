"""Rows of stored runs: which finished, which learning rate is best, the range over seeds, and all of this in words.

A row is one run, with the keys of `runs.table`. Rows that are passed together are of one task, unless a function says
otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any, TypeVar

Row = Mapping[str, Any]
R = TypeVar("R", bound=Row)
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def usable(rows: Iterable[R], measure: str) -> list[R]:
    """The rows that finished and have this measure."""
    return [row for row in rows if row["status"] == "finished" and row.get(measure) is not None]


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """The items by key, the keys in order of appearance."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def of_setting(rows: Iterable[R], task: str, name: str) -> list[R]:
    """The rows of one setting on one task, whatever their rate and seed."""
    return [row for row in rows if (row["task"], row["name"]) == (task, name)]


def swept_rate(row: Row) -> float:
    """The learning rate that tells the rows of a setting apart: of a hybrid that of the modules trained in full.

    Rows of a hybrid without it are of the first study, where all trained at one rate.
    """
    return row.get("full_learning_rate") or row["learning_rate"]


def best_rate(rows: Iterable[Row]) -> float:
    """The best `swept_rate` of one setting: that with the highest exact match on the first seed, which all rates have.

    If that rate has further seeds, the highest mean decides among the rates that have all of these seeds, because one
    seed says little. The lower loss decides between equals. Raises ValueError if no finished row has both scores.
    """
    scored = usable(usable(rows, "exact_match"), "loss")
    if not scored:
        raise ValueError("No finished row has exact match and loss, so no learning rate is best; pass other rows.")
    first = min(row["seed"] for row in scored)
    rates = grouped(scored, swept_rate)
    seeds = {rate: {row["seed"] for row in own} for rate, own in rates.items()}

    def highest(among: Iterable[float], of_seeds: set[int]) -> float:
        chosen = {rate: [row for row in rates[rate] if row["seed"] in of_seeds] for rate in among}
        return max(chosen, key=lambda rate: (mean_of(chosen[rate], "exact_match"), -mean_of(chosen[rate], "loss")))

    leader = highest((rate for rate in rates if first in seeds[rate]), {first})
    return highest((rate for rate in rates if seeds[rate] >= seeds[leader]), seeds[leader])


def at_best_rate(rows: Iterable[R]) -> list[R]:
    """The finished rows of one setting at its best rate, one a seed; no rows if none has both scores."""
    scored = usable(usable(rows, "exact_match"), "loss")
    rate = best_rate(scored) if scored else None
    return [row for row in scored if swept_rate(row) == rate]


def by_best_rate(rows: Iterable[R], variable: str = "rank") -> dict[Any, list[R]]:
    """Each value of a variable, in order of appearance -> its finished rows at its own best rate.

    variable: any column, such as "rank" (None is full fine-tuning), "alpha" or "name". A value without finished rows
    is left out.
    """
    scored = usable(usable(rows, "exact_match"), "loss")
    return {value: at_best_rate(own) for value, own in grouped(scored, lambda row: row[variable]).items()}


def bands(rows: Iterable[Row], across: str, measure: str) -> dict[float, list[float]]:
    """Each value of `across`, in rising order -> the measure of its finished runs."""
    groups = grouped(sorted(usable(rows, measure), key=lambda row: row[across]), lambda row: row[across])
    return {value: [row[measure] for row in group] for value, group in groups.items()}


def setting_in_words(row: Row) -> str:
    """The modules that a row's adapters are attached to, and rsLoRA if it was used: "q_proj, layer 15"."""
    if row["rank"] is None:
        return "full fine-tuning"
    layers, words = row["layers"], row["targets"]
    if layers is not None:
        words += f", layer {layers[0]}" if len(layers) == 1 else f", {len(layers)} layers ({layers[0]}-{layers[-1]})"
    return f"{words}, rsLoRA" if row["rslora"] else words


def band_in_words(band: Mapping[float, Sequence[float]], pick: Callable) -> str:
    """The best mean of a band, with its seeds' range: "best at 8 with 0.91 (0.9 to 0.92, 3 runs)". pick: max or min."""
    if not band:
        return "no finished run is stored"
    best = pick(band, key=lambda value: mean(band[value]))
    return f"best at {best:g} with {mean(band[best]):.3g} ({range_in_words(band[best])})"


def range_in_words(values: Sequence[float]) -> str:
    """The lowest and the highest value over seeds, and how many there are."""
    if len(values) == 1:
        return "1 run"
    return f"{min(values):.3g} to {max(values):.3g}, {len(values)} runs"


def mean_and_range(values: Sequence[float], form: str = "{:.0%}") -> str:
    """The mean over seeds, then the lowest and the highest: "89% (86% to 92%)"; only the value if there is one seed."""
    low, middle, high = (form.format(value) for value in (min(values), mean(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def left_out_in_words(rows: Sequence[Row]) -> str:
    """A sentence with a space in front of it, or nothing if all rows finished."""
    count = sum(row["status"] != "finished" for row in rows)
    return f" Left out because they did not finish: {count} of {len(rows)} runs." if count else ""


def require_finished(rows: Iterable[Row], measures: Iterable[str]) -> None:
    """Raise ValueError unless some row finished with one of these measures."""
    rows, measures = list(rows), list(measures)
    if not any(usable(rows, measure) for measure in measures):
        raise ValueError(f"No finished run has {' or '.join(measures)} yet; train some, or draw other rows.")


def value_in_words(value: float | None) -> str:
    """A rank, alpha or rate for labels; full fine-tuning has no rank and no alpha."""
    return "full" if value is None else f"{value:g}"


def mean_of(rows: Iterable[Row], measure: str) -> float:
    """The mean of one measure, which all these rows must have."""
    return mean(row[measure] for row in rows)
