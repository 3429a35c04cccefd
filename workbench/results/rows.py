"""Rows of stored runs, as a rank sweep needs them: which finished, which learning rate is best, what the seeds span.

A row is one run, with the keys of `runs.table`; all rows given together are of one task.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import mean
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


def usable(rows: Iterable[Mapping], measure: str) -> list[Mapping]:
    """The rows that finished and have this measure."""
    return [row for row in rows if row["status"] == "finished" and row.get(measure) is not None]


def grouped(rows: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """The rows by key, the keys in order of appearance."""
    groups: dict[Key, list[Item]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def best_rate(rows: Sequence[Mapping]) -> float:
    """The learning rate with the highest exact match on the first seed, which every rate has.

    If it has further seeds, the highest mean among the rates that have them all decides: one seed is a weak judge. The
    lower loss decides between equals. rows: at least one, all with both scores.
    """
    first = min(row["seed"] for row in rows)
    rates = grouped(rows, lambda row: row["learning_rate"])
    seeds = {rate: {row["seed"] for row in own} for rate, own in rates.items()}

    def highest(among: Iterable[float], of_seeds: set[int]) -> float:
        chosen = {rate: [row for row in rates[rate] if row["seed"] in of_seeds] for rate in among}
        return max(chosen, key=lambda rate: (mean_of(chosen[rate], "exact_match"), -mean_of(chosen[rate], "loss")))

    leader = highest((rate for rate in rates if first in seeds[rate]), {first})
    return highest((rate for rate in rates if seeds[rate] >= seeds[leader]), seeds[leader])


def at_best_rate(rows: Sequence[Mapping]) -> list[Mapping]:
    """The finished rows at their best rate; no rows if none has both scores."""
    scored = usable(usable(rows, "exact_match"), "loss")
    if not scored:
        return []
    rate = best_rate(scored)
    return [row for row in scored if row["learning_rate"] == rate]


def by_best_rate(rows: Iterable[Mapping], variable: str = "rank") -> dict[float | None, list[Mapping]]:
    """Each value of a variable, rising -> its rows at its own best rate; full fine-tuning, without a rank, is first."""
    ordered = sorted(usable(rows, "exact_match"), key=lambda row: row[variable] or 0)
    return {value: at_best_rate(group) for value, group in grouped(ordered, lambda row: row[variable]).items()}


def bands(rows: Iterable[Mapping], across: str, measure: str) -> dict[float, list[float]]:
    """Each value of `across`, rising -> the measure of its finished runs."""
    groups = grouped(sorted(usable(rows, measure), key=lambda row: row[across]), lambda row: row[across])
    return {value: [row[measure] for row in group] for value, group in groups.items()}


def setting_in_words(row: Mapping) -> str:
    """What a row's adapters are attached to, and the rule of scaling if it is not the usual one: "q_proj, layer 15"."""
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
    """From the lowest to the highest of the seeds."""
    if len(values) == 1:
        return "1 run"
    return f"{min(values):.3g} to {max(values):.3g}, {len(values)} runs"


def mean_and_range(values: Sequence[float], form: str = "{:.0%}") -> str:
    """The mean of the seeds with the lowest and highest behind it, "89% (86% to 92%)"; of one seed, its value."""
    low, middle, high = (form.format(value) for value in (min(values), mean(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def left_out_in_words(rows: Sequence[Mapping]) -> str:
    """A sentence with a space before it, or nothing if all rows finished."""
    count = sum(row["status"] != "finished" for row in rows)
    return f" Left out because they did not finish: {count} of {len(rows)} runs." if count else ""


def require_finished(rows: Iterable[Mapping], measures: Iterable[str]) -> None:
    """Raise ValueError unless some row can be drawn."""
    if not any(usable(rows, measure) for measure in measures):
        raise ValueError(f"No finished run has {' or '.join(measures)} yet; train some, or draw other rows.")


def value_in_words(value: float | None) -> str:
    """A rank, alpha or rate for labels; full fine-tuning has no rank and no alpha."""
    return "full" if value is None else f"{value:g}"


def mean_of(rows: Iterable[Mapping], measure: str) -> float:
    """The mean of one measure, which all these rows must have."""
    return mean(row[measure] for row in rows)
