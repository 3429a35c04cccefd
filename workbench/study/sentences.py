"""Sentences on the study's rows: scores of settings, differences between two of them, and whether these are noise."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from statistics import mean
from typing import Any

from workbench.claims.ranks import recall_by
from workbench.results import reference
from workbench.results.noise import noise_of_difference, rows_of
from workbench.results.rows import Row, at_best_rate, by_best_rate, grouped, mean_and_range, mean_of, usable

METHODS = ("full", "hybrid", "lora", "qlora", "auto")
# The other settings of the study, in the table's order; all are LoRA.
VARIANTS = ("lora r=64", "rslora", "alpha=8", "alpha=128", "attention", "mlp", "starved")
SPOKEN = {
    "lora": "LoRA",
    "qlora": "QLoRA",
    "lora r=64": "LoRA of rank 64",
    "rslora": "rsLoRA of rank 64",
    "alpha=8": "LoRA with alpha 8",
    "alpha=128": "LoRA with alpha 128",
    "attention": "LoRA on attention alone",
    "mlp": "LoRA on the MLP alone",
}


def difference(first: str, second: str, measure: str, *tasks: str) -> str:
    """The first method's mean minus the second's, on the named tasks or on all that have several seeds of both."""
    unit = {"exact_match": "in exact match", "forgetting": "in loss gained on general text, nats a token"}[measure]
    found = []
    for task, rows in by_task().items():
        if tasks and task not in tasks:
            continue
        if {first, second} <= set(several_seeds(rows)):
            found.append(f"`{task}` {paired(rows, measure, first, second)}")
        elif tasks:
            found.append(f"`{task}` not measured")
    sentence = f"{spoken(first)} less {spoken(second)} {unit}: {'; '.join(found) or 'not measured'}."
    return sentence[0].upper() + sentence[1:]


def levels(task: str) -> str:
    """The scores of the base, LoRA and full: a difference does not say whether anything was learnt."""
    rows = by_task()[task]
    return f"From {rows[0]['base_exact_match']:.0%} to: {scores(rows, ('lora', 'full'))}."


def scores(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The named settings, each at its best rate with the range of its seeds."""
    at_best = by_best_rate(rows, "name")
    return ", ".join(f"{spoken(name)} {spread(at_best[name], 'exact_match', '{:.0%}')}" for name in names)


def at_one_rate(task: str) -> str:
    """Ranks at the rate that is best for rank 8: alpha is the same, so alpha / r falls as the rank rises."""
    eight = by_best_rate(by_task()[task], "name")["lora"]
    stored = [row for row in reference.study_rows("ranks") if row["task"] == task]
    ranks = grouped(sorted(usable([*eight, *stored], "exact_match"), key=lambda row: row["rank"]), itemgetter("rank"))
    told = ", ".join(f"{spread(rows, 'exact_match', '{:.0%}')} at rank {rank}" for rank, rows in ranks.items())
    return f"On `{task}`, all at rate {eight[0]['learning_rate']:g}, the best of rank 8: {told}."


def with_little_room(task: str) -> str:
    """The score of the smallest adapter."""
    starved = by_best_rate(by_task()[task], "name")["starved"]
    return (
        f"With {starved[0]['trainable_parameters']:,} numbers on one matrix of one block (`starved`), at its own best "
        f"rate: {spread(starved, 'exact_match', '{:.0%}')}; place and number of matrices differ there, not rank alone."
    )


def at_own_rates(task: str) -> str:
    """Rank and alpha, each setting at its own best rate."""
    rows = by_task()[task]
    others = [name for name in ("lora r=64", "rslora", "alpha=8", "alpha=128") if name in several_seeds(rows)]
    return f"On `{task}`, each at its own best rate: {scores(rows, ('lora', *others))}."


def one_step_off(task: str) -> str:
    """What each method that lesson 06 compares scores at half and at twice its best rate."""
    rows, told = by_task()[task], []
    at_best = by_best_rate(rows, "name")
    for name in reference.COMPARED:
        best = at_best[name][0]["learning_rate"]
        pairs = ((name, best / 2), (name, best * 2))
        beside = ([row for row in rows if (row["name"], row["learning_rate"]) == pair] for pair in pairs)
        half, twice = (spread(own, "exact_match", "{:.0%}") for own in beside)
        told.append(f"{spoken(name)} {half} and {twice}")
    return f"At half and at twice its best rate there: {', '.join(told)}."


def full_and_best_adapter(task: str) -> str:
    """Full minus the setting of LoRA with the highest score, which is the best of several and so biased upwards."""
    rows = by_task()[task]
    scored = {name: mean_of(own, "exact_match") for name, own in several_seeds(rows).items()}
    several = [name for name in ("lora", *VARIANTS) if name in scored]
    best = max(several, key=lambda name: scored[name])
    told = paired(rows, "exact_match", "full", best)
    return f"On `{task}` full less the best of {len(several)} settings of LoRA, {spoken(best)}: {told}."


def at_equal_score() -> str:
    """How often some run of full scores at least as high as a run with adapters and forgets less, all on seed 0.

    Runs that learnt little are left out, because any method beats them.
    """
    found = []
    for task, rows in by_task().items():
        first = [row for row in rows if row["seed"] == 0]
        full = [row for row in first if row["name"] == "full"]
        adapted = [row for row in first if row["name"] in ("lora", "qlora", "hybrid")]
        learnt = [row for row in adapted if row["exact_match"] >= max(one["exact_match"] for one in adapted) / 2]
        bettered = [row for row in learnt if any(betters(other, row) for other in full)]
        found += [f"`{task}` {len(bettered)} of {len(learnt)}"] if full else []
    return (
        "At equal score, on seed 0: of the runs of LoRA, QLoRA and hybrid, at any rate, that scored at least half of "
        f"what their best did, so many scored no higher than some run of full that forgot less: {'; '.join(found)}."
    )


def betters(full: Row, adapted: Row) -> bool:
    """Whether full scores at least as high and forgets less."""
    return full["exact_match"] >= adapted["exact_match"] and full["forgetting"] < adapted["forgetting"]


def rate_ratios() -> str:
    """The ratio of LoRA's best rate to full's, and its range over the rates that one seed cannot tell from the best."""
    found = []
    for task, rows in by_task().items():
        best = {name: own[0]["learning_rate"] for name, own in several_seeds(rows).items()}
        if "lora" in best and "full" in best:
            ratio = best["lora"] / best["full"]
            alike = {name: rates_alike(rows, name) for name in ("lora", "full")}
            low, high = min(alike["lora"]) / max(alike["full"]), max(alike["lora"]) / min(alike["full"])
            at_end = any(ends_of_grid(rows, name) & set(alike[name]) for name in alike)
            found.append(f"`{task}` {ratio:g} ({low:g} to {high:g}{', open' if at_end else ''})")
    return (
        f"LoRA's best rate over full's: {'; '.join(found)}; in brackets over all rates that seed 0 cannot tell from "
        "the best, *open* where the highest or lowest rate tried is among them."
    )


def ends_of_grid(rows: Sequence[Row], name: str) -> set[float]:
    """The lowest and the highest rate that were tried."""
    rates = [row["learning_rate"] for row in rows if row["name"] == name]
    return {min(rates), max(rates)}


def rates_alike(rows: Sequence[Row], name: str) -> list[float]:
    """The rates whose first seed is within two standard errors of the best one's."""
    first = [row for row in rows if row["name"] == name and row["seed"] == 0]
    top = max(row["exact_match"] for row in first)
    return [
        row["learning_rate"] for row in first if top - row["exact_match"] <= sampling(rows, top, row["exact_match"])
    ]


def sampling(rows: Sequence[Row], *shares: float) -> float:
    """Two standard errors of the difference of two shares of the test rows that the study scored."""
    return noise_of_difference(*((share, rows_of(rows[0])) for share in shares))


def recalls() -> str:
    """The recall of full and of LoRA's best rank in the sweeps."""
    full = mean_of(at_best_rate(reference.stored_sweeps("full")), "exact_match")
    lora = max(recall_by(reference.stored_sweeps("rate", "seeds")).values())
    return f"In the sweeps full recalls {full:.0%}, the best rank of LoRA {lora:.0%}."


def spoken(name: str) -> str:
    """A setting's name in a sentence."""
    return SPOKEN.get(name, name)


def by_task() -> dict[str, list[dict[str, Any]]]:
    """Task -> the scored rows of METHODS and VARIANTS."""
    return grouped(usable(reference.study_rows(*METHODS, *VARIANTS), "exact_match"), lambda row: row["task"])


def several_seeds(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Name of a setting -> its rows at its own best rate, for the settings that have more than one seed there."""
    return {name: own for name, own in by_best_rate(rows, "name").items() if len(own) > 1}


def paired(rows: Sequence[Row], measure: str, first: str, second: str) -> str:
    """The difference of two methods by seed, each at its best rate: mean, lowest, highest, and whether it is noise."""
    at_best = by_best_rate(rows, "name")
    a, b = ({row["seed"]: row[measure] for row in at_best[name]} for name in (first, second))
    gaps = [a[seed] - b[seed] for seed in sorted(a) if seed in b]
    form, agree = "{:+.2f}", "all seeds agree" if min(gaps) > 0 or max(gaps) < 0 else "within noise"
    if measure == "exact_match":
        error = sampling(rows, mean(a.values()), mean(b.values()))
        clear = agree != "within noise" and abs(mean(gaps)) >= error
        form, agree = "{:+.1%}", f"{'beyond' if clear else 'within'} noise ({error:.0%})"
    told = (form.format(value) for value in (mean(gaps), min(gaps), max(gaps)))
    return "{} ({} to {}), {}".format(*told, agree)


def spread(rows: Sequence[Row], measure: str, form: str) -> str:
    """The mean and range of a measure over these rows."""
    return mean_and_range([row[measure] for row in rows], form)
