"""Rules on the claims about rank, alpha, learning rate and targets, from stored rank sweeps. Lesson 05 uses them.

A difference counts if it is larger than what seeds alone make: the widest range over the seeds of one rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean

from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED
from workbench.claims.rules import NotTested, Outcome, rule
from workbench.results.rows import Row, at_best_rate, by_best_rate, grouped, mean_and_range, mean_of, usable

NEARLY_ALL = 0.98  # recall; two methods above it leave no room for a ceiling between them
LEARNT = 0.05  # recall; runs below it have learnt nothing, and say nothing of rank
TEN_TIMES = (5, 20)  # the ratio of learning rates that still counts as "about ten times"
TUNED = 2.1  # the factor between rates beyond which a setting may look poor only because its best rate was not tried


def seed_range(rows: Sequence[Row]) -> float:
    """The widest range over seeds (highest minus lowest exact match) of any rank at its best rate.

    The widest and not the best rank's own: near a perfect score seeds hardly differ, and any gap would look large.
    """
    groups = ([row["exact_match"] for row in group] for group in by_best_rate(rows).values())
    return max(max(values) - min(values) for values in groups)


@dataclass(frozen=True)
class Regret:
    """What `recommend` chose on one task, and what sweeps found there: exact match by seed."""

    task: str
    chosen: tuple[float, ...]
    tuned: tuple[float, ...]  # rank and alpha as chosen, at the best rate that was tried
    best: tuple[float, ...]  # the best other rank or alpha at its own best rate; empty if none has several seeds
    rate: float  # that of `tuned`
    setting: str  # that of `best`, in words
    others: int  # how many others there were to choose from
    first_study: bool = False  # whether the rows are of the first study, with fewer test rows

    @property
    def inside(self) -> bool:
        """Whether the chosen rank and alpha, in the mean at their best rate, reach the best other's worst seed."""
        return mean(self.tuned) >= min(self.best)

    def __str__(self) -> str:
        rate = ", its rate the best tried"
        if self.tuned != self.chosen:
            rate = f"; at rate {self.rate:g}, the best tried for its rank and alpha, {mean_and_range(self.tuned)}"
        other = "no other rank or alpha has several seeds"
        if self.best:
            other = f"the best of {self.others} other ranks and alphas {mean_and_range(self.best)} ({self.setting})"
        source = " (first study)" if self.first_study else ""
        return f"{self.task}{source}: chosen {mean_and_range(self.chosen)}{rate}; {other}"


def regrets(study: Sequence[Row]) -> list[Regret]:
    """For each task on which `recommend` was tried with several seeds (rows named "auto"), what it missed.

    It is compared with its own rank and alpha at the best rate, and with the best of the other ranks and alphas on the
    same modules, each at its own best rate. Only those with as many seeds count.
    """
    found = []
    for task, rows in grouped(usable(study, "exact_match"), lambda row: row["task"]).items():
        chosen = [row for row in rows if row["name"] == "auto"]
        if len(chosen) < 2:
            continue
        low_rank = [row for row in rows if row["method"].startswith("lora")]
        here = [row for row in low_rank if all(row[name] == chosen[0][name] for name in ("targets", "layers"))]
        # A run that is stored under several names counts once.
        once = {(*_setting(row), row["learning_rate"], row["seed"]): row for row in here}.values()
        at_best = {setting: at_best_rate(own) for setting, own in grouped(once, _setting).items()}
        tuned = at_best.pop(_setting(chosen[0]))
        others = [own for own in at_best.values() if len(own) >= len(chosen)]
        best = max(others, key=lambda own: mean_of(own, "exact_match"), default=[])
        scores = [tuple(row["exact_match"] for row in own) for own in (chosen, tuned, best)]
        setting = _in_words(best[0]) if best else ""
        first_study = bool(chosen[0].get("first_study"))
        rate = tuned[0]["learning_rate"]
        found.append(Regret(task, scores[0], scores[1], scores[2], rate, setting, len(others), first_study))
    return found


def _setting(row: Row) -> tuple[int, float, bool]:
    """What tells settings on the same modules apart, except for the learning rate."""
    return row["rank"], row["alpha"], row["rslora"]


def _in_words(row: Row) -> str:
    rule = ", rsLoRA" if row["rslora"] else ""
    return f"rank {row['rank']}, alpha {row['alpha']:g}{rule}, rate {row['learning_rate']:g}"


def points(share: float) -> str:
    """A difference of two shares, in percentage points."""
    return f"{100 * share:.0f} points"


def recall_by(rows: Iterable[Row], variable: str = "rank") -> dict[float, float]:
    """Each value of a variable -> the mean exact match over seeds at its own best learning rate."""
    return {value: mean_of(group, "exact_match") for value, group in by_best_rate(rows, variable).items()}


def one_step_off(rows: Sequence[Row]) -> float:
    """What the next learning rate of the grid costs in exact match: the mean over all ranks.

    The rates next to the best one have the first seed only; the best one, chosen by that seed, has its mean over seeds.
    """
    costs = [mean(each) for pair in _costs_of_a_step(rows) if (each := [cost for cost in pair if cost is not None])]
    return mean(costs) if costs else 0.0


def steps_off(rows: Sequence[Row]) -> tuple[float, float]:
    """What the next lower learning rate of the grid costs in exact match, and the next higher: means over the ranks."""
    ways = zip(*_costs_of_a_step(rows), strict=True)
    found = [[cost for cost in way if cost is not None] for way in ways] or [[], []]
    down, up = (mean(costs) if costs else 0.0 for costs in found)
    return down, up


def _costs_of_a_step(rows: Sequence[Row]) -> list[tuple[float | None, float | None]]:
    """For each rank, what the rates next to its best one cost in exact match: the lower one, and the higher one."""
    first = [row for row in usable(rows, "exact_match") if row["seed"] == min(row["seed"] for row in rows)]
    costs = []
    for rank, at_best in by_best_rate(rows).items():
        best, score = at_best[0]["learning_rate"], mean_of(at_best, "exact_match")
        own = {row["learning_rate"]: row["exact_match"] for row in first if row["rank"] == rank}
        lower, higher = [rate for rate in own if rate < best], [rate for rate in own if rate > best]
        costs.append((score - own[max(lower)] if lower else None, score - own[min(higher)] if higher else None))
    return costs


def rate_factor(rows: Sequence[Row]) -> float:
    """The largest factor between neighbouring learning rates of a grid: 1 for a single rate."""
    rates = sorted({row["learning_rate"] for row in rows})
    return max((high / low for low, high in pairwise(rates)), default=1.0)


def _with_noise(ranks: Sequence[Row], other: Sequence[Row]) -> tuple[list[Row], float]:
    """The finished rows of the ranks, and their `seed_range`.

    Raises NotTested if these or the other rows have no finished run, or no rank has several seeds at its best rate.
    """
    finished = usable(ranks, "exact_match")
    seeds = max(map(len, by_best_rate(finished).values()), default=0)
    if seeds < 2 or not at_best_rate(other):
        raise NotTested("A part of the grid has no finished run, or no setting has several seeds.")
    return finished, seed_range(finished)


@rule("update")
def _update(ranks: Sequence[Row], few: Sequence[Row]) -> Outcome:
    ranks, noise = _with_noise(ranks, few)
    small, large = recall_by(few), recall_by(ranks)
    gain_small, gain_large = (max(band.values()) - band[min(band)] for band in (small, large))
    helps = [gain > noise for gain in (gain_small, gain_large)]
    nothing_learnt = max(small.values()) < LEARNT
    verdict = SUPPORTED if all(helps) else DEPENDS if any(helps) else UNTESTED if nothing_learnt else NOT_SUPPORTED
    one_matrix = (
        f"on one matrix no rank recalled more than {max(small.values()):.0%}, which says nothing"
        if nothing_learnt
        else f"on one matrix the best rank recalls {points(gain_small)} more than rank {min(small):g}"
    )
    evidence = (
        "that rank limits dW is mathematics (lesson 01); was it what limited here? On all layers recall is "
        + ", ".join(f"{recall:.0%} at rank {rank:g}" for rank, recall in sorted(large.items()))
        + f" (seeds span {points(noise)}); {one_matrix}."
    )
    return verdict, evidence, "more rank helps in both places; depends: in one of them"


@rule("rank-alpha")
def _rank_alpha(ranks: Sequence[Row], alphas: Sequence[Row]) -> Outcome:
    ranks, noise = _with_noise(ranks, alphas)
    spans = [max(band.values()) - min(band.values()) for band in (recall_by(ranks), recall_by(alphas, "alpha"))]
    factors = [rate_factor(ranks), rate_factor(alphas)]
    above = [span > noise for span in spans]
    matters = [wide and factor <= TUNED for wide, factor in zip(above, factors, strict=True)]
    unclear = any(above) and not any(matters)  # all that differs has rates too far apart
    verdict = SUPPORTED if all(matters) else DEPENDS if any(matters) else UNTESTED if unclear else NOT_SUPPORTED
    evidence = (
        f"each at the best rate of its grid, ranks differ by {points(spans[0])} (rates a factor of {factors[0]:.2g} "
        f"apart) and alphas by {points(spans[1])} (a factor of {factors[1]:.2g}); seeds span {points(noise)}, and one "
        f"step off the best rate costs {points(one_step_off(ranks))}."
    )
    if unclear:
        evidence += " With rates so far apart, a value may look poor only because its own best rate was not tried."
    condition = (
        f"rank and alpha both differ by more than seeds, with rates a factor of {TUNED:.0f} apart or less; depends: "
        "one of them; wider apart, a difference tests nothing"
    )
    return verdict, evidence, condition


@rule("no-regret")
def _no_regret(ranks: Sequence[Row], full: Sequence[Row]) -> Outcome:
    ranks, noise = _with_noise(ranks, full)
    at_best = at_best_rate(full)
    by_rank, whole = recall_by(ranks), mean_of(at_best, "exact_match")
    lora, best_rank = max((recall, rank) for rank, recall in by_rank.items())
    # Rates at which full does as well are all its best: the lower loss picks one, but not for the ratio.
    tied = {row["learning_rate"] for row in usable(full, "exact_match") if row["exact_match"] >= whole}
    ratios = [own[0]["learning_rate"] / rate for own in by_best_rate(ranks).values() for rate in tied]
    matches = lora >= whole - noise
    tenfold = TEN_TIMES[0] <= min(ratios) and max(ratios) <= TEN_TIMES[1]
    verdict = SUPPORTED if matches and tenfold else DEPENDS if matches else NOT_SUPPORTED
    open_end = max(tied) == max(row["learning_rate"] for row in full)
    evidence = (
        f"the best rank ({best_rank:g}) recalls {lora:.0%}, the worst {min(by_rank.values()):.0%}, full {whole:.0%} "
        f"with {len(at_best)} seed{'s' if len(at_best) > 1 else ''} (LoRA's seeds span {points(noise)}); LoRA's best "
        f"rates are {min(ratios):.2g} to {max(ratios):.2g} times those at which full is best ({len(tied)} of them"
        + (", the highest one tried among them, so the lowest ratio is open)." if open_end else ").")
    )
    condition = (
        "the best rank is within the seeds' span of full, and every ratio of best rates is "
        f"{TEN_TIMES[0]} to {TEN_TIMES[1]}; depends: only the first"
    )
    return verdict, evidence, condition


@rule("ceiling")
def _ceiling(ranks: Sequence[Row], full: Sequence[Row]) -> Outcome:
    ranks, noise = _with_noise(ranks, full)
    whole, lora = mean_of(at_best_rate(full), "exact_match"), max(recall_by(ranks).values())
    if min(whole, lora) > NEARLY_ALL:
        evidence = f"full recalls {whole:.1%} and the best LoRA {lora:.1%}: a task that both can do shows no ceiling."
        return UNTESTED, evidence, f"full is ahead, and not both are above {NEARLY_ALL:.0%}"
    gap = whole - lora
    verdict = SUPPORTED if gap > noise else DEPENDS if gap > 0 else NOT_SUPPORTED
    evidence = f"full recalls {points(gap)} more than the best LoRA; the seeds span {points(noise)}."
    return verdict, evidence, "full is ahead by more than the seeds' span; depends: by less"


@rule("auto")
def _auto(study: Sequence[Row]) -> Outcome:
    found = regrets(study)
    condition = (
        "where other ranks and alphas have several seeds, the chosen ones, at their best rate, reach the worst seed of "
        "the best other; depends: on some of these tasks"
    )
    if not found:
        raise NotTested("The choice was not measured with several seeds on any task.")
    inside = [regret.inside for regret in found if regret.best]
    verdict = UNTESTED if not inside else SUPPORTED if all(inside) else DEPENDS if any(inside) else NOT_SUPPORTED
    return verdict, ". ".join(map(str, found)) + ".", condition
