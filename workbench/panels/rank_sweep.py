"""Panel of notebook 05: stored runs against rank, learning rate or alpha, with the other settings fixed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from workbench.panels.base import Panel, View, choice, steps_slider
from workbench.plots.sweeps import MEASURES, VARIABLES, against
from workbench.results.rows import band_in_words, bands, grouped, left_out_in_words, mean_of, setting_in_words, usable

SHOWN = ("loss", "exact_match")


def rank_sweep_panel(rows: Sequence[Mapping], live: Sequence[Mapping] = ()) -> Panel:
    """A panel over stored rows of one task, the learner's rows as stars. Raises ValueError if none has finished.

    It starts with the settings at which most ranks are stored; the higher exact match decides between equals.
    """
    rows = _without_duplicates(_with_adapters(rows))
    scored = usable(rows, "exact_match")
    slices = grouped(scored, lambda row: (setting_in_words(row), row["alpha"], row["learning_rate"]))
    first = max(slices.values(), key=lambda own: (len({row["rank"] for row in own}), mean_of(own, "exact_match")))
    band = bands(first, "rank", "exact_match")
    start = dict(first[0]) | {"rank": max(band, key=lambda rank: mean(band[rank]))}

    def view(**settings: Any) -> View:
        return rank_sweep_view(rows, live, **settings)

    controls = {
        "across": choice("across", "rank", [(words, name) for name, words in VARIABLES.items()]),
        "targets": choice("targets", setting_in_words(start), list(grouped(rows, setting_in_words))),
    }
    for name, words in VARIABLES.items():
        values = sorted({row[name] for row in rows})
        controls[name] = steps_slider(words, start[name], [(f"{value:g}", value) for value in values])
    return Panel(f"{len(rows)} stored runs, one variable at a time", controls, view)


def _without_duplicates(rows: Sequence[Mapping]) -> list[Mapping]:
    """The first row of each configuration and seed: two groups of the stored grid may share one."""
    found: dict[tuple, Mapping] = {}
    for row in rows:
        key = (setting_in_words(row), *(row[name] for name in VARIABLES), row["seed"])
        found.setdefault(key, row)
    return list(found.values())


def rank_sweep_view(
    rows: Sequence[Mapping],
    live: Sequence[Mapping],
    across: str,
    targets: str,
    rank: int,
    alpha: float,
    learning_rate: float,
) -> View:
    """Loss and exact match against `across` for the rows that match all the other settings.

    rows: of one task; of `live` only rows of that task count. across: "rank", "learning_rate" or "alpha"; its own
    setting is ringed. targets: as `setting_in_words` says it. Raises ValueError, naming the nearest setting that is
    stored, if nothing that matches has finished.
    """
    rows = _with_adapters(rows)
    variables = {"rank": rank, "alpha": alpha, "learning_rate": learning_rate}
    ring = variables.pop(across)
    fixed = {"targets": targets, **variables}
    stored = [row for row in rows if _settings(row, fixed) == fixed]
    own = [row for row in live if _settings(row, fixed) == fixed and row["task"] == rows[0]["task"]]
    if not any(usable([*stored, *own], measure) for measure in SHOWN):
        raise ValueError(_nothing_there(rows, stored, fixed))
    numbers: dict[str, float] = {"stored runs": len(stored), "your runs": len(own), "ring": ring}
    parts, yours = [], []
    for measure in SHOWN:
        name, _, pick = MEASURES[measure]
        band = bands(stored, across, measure)
        for value, ys in band.items():
            numbers[f"{name} at {value:g}"] = mean(ys)
            numbers |= {f"{name} at {value:g}, lowest": min(ys), f"{name} at {value:g}, highest": max(ys)}
        ringed = f"{mean(band[ring]):.3g}" if ring in band else "not stored"
        parts.append(f"{name.capitalize()}: {band_in_words(band, pick)}; {ringed} at {ring:g}.")
        for value, ys in bands(own, across, measure).items():
            numbers |= {f"your {name} at {value:g}, run {run}": y for run, y in enumerate(ys, start=1)}
            yours.append(f"{name} at {value:g} is {', '.join(f'{y:.3g}' for y in ys)}")
    text = f"Across {across.replace('_', ' ')} with {_in_words(fixed)}. Stored: {_count(stored)}. {' '.join(parts)}"
    if yours:
        text += f" Yours: {_count(own)}: {'; '.join(yours)}."
    text += left_out_in_words([*stored, *own])
    names = [MEASURES[measure][0] for measure in SHOWN]
    found = [f"{name} {numbers[f'{name} at {ring:g}']:.3g}" for name in names if f"{name} at {ring:g}" in numbers]
    result = ", ".join(found) or "not stored"
    return View(lambda: against(stored, own, across, SHOWN, ring), text, numbers, result=result)


def _with_adapters(rows: Sequence[Mapping]) -> list[Mapping]:
    rows = [row for row in rows if row["rank"] is not None]
    if not usable(rows, "exact_match"):
        raise ValueError("No stored run with an adapter has finished, so there is nothing to show; give other rows.")
    return rows


def _settings(row: Mapping, fixed: Mapping) -> dict[str, Any]:
    """The row's own values of the settings that are held fixed."""
    return {name: setting_in_words(row) if name == "targets" else row[name] for name in fixed}


def _nothing_there(rows: Sequence[Mapping], stored: Sequence[Mapping], fixed: Mapping) -> str:
    """Why there is nothing to draw, and the nearest stored setting.

    The nearest has the same targets if any has, then the fewest differences, then the smallest ratios of the values.
    """

    def distance(other: Mapping) -> tuple[bool, int, float]:
        ratios = [abs(math.log(other[name] / fixed[name])) for name in fixed if name != "targets"]
        return other["targets"] != fixed["targets"], sum(ratio > 0 for ratio in ratios), sum(ratios)

    near = min((_settings(row, fixed) for row in usable(rows, "exact_match")), key=distance)
    words = f"with {_in_words(fixed)} has finished ({_count(stored)})" if stored else f"has {_in_words(fixed)}"
    return f"No stored run {words}; the nearest setting that is stored is {_in_words(near)}."


def _in_words(fixed: Mapping) -> str:
    return ", ".join(
        value if name == "targets" else f"{name.replace('_', ' ')} {value:g}" for name, value in fixed.items()
    )


def _count(rows: Sequence[Mapping]) -> str:
    """How many runs, and how long they were: "12 runs of 120 steps"."""
    steps = " or ".join(map(str, sorted({row["steps"] for row in rows})))
    return f"{len(rows)} {'run' if len(rows) == 1 else 'runs'} of {steps} steps" if rows else "no run"
