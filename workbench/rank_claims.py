"""What stored rank sweeps say of the claims about rank, alpha, learning rate and targets. Used in lesson 05.

A difference counts when it is larger than what seeds alone make: the widest range of one rank's seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean

from workbench.claims import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, Verdict
from workbench.sweep_rows import at_best_rate, by_best_rate, grouped, mean_of, setting_in_words, usable

NEARLY_ALL = 0.98  # recall; two methods above it leave no room for a ceiling between them
LEARNT = 0.05  # recall; runs below it have learnt nothing, and say nothing of rank
TEN_TIMES = (5, 20)  # the ratio of learning rates that still counts as "about ten times"
TUNED = 2.1  # the factor between rates beyond which a setting may miss its own best one, and look poor for that


def seed_range(rows: Sequence[Mapping]) -> float:
    """The widest range of seeds (highest minus lowest) of any rank at its best rate, in exact match: the yardstick.

    The widest, not the best rank's own: near a perfect score seeds cannot differ, and would make all else look large.
    """
    groups = ([row["exact_match"] for row in group] for group in by_best_rate(rows).values())
    return max(max(values) - min(values) for values in groups)


@dataclass(frozen=True)
class Regret:
    """What a rule of thumb chose on one task, beside the best setting that was found: exact match by seed."""

    task: str
    chosen: tuple[float, ...]
    best: tuple[float, ...]
    setting: str  # the best one
    same: bool  # whether all but its learning rate is as chosen
    tried: int  # how many settings of rank, alpha and rate the best one was found among

    @property
    def inside(self) -> bool:
        """Whether the choice, in the mean, is not below the worst seed of the best."""
        return mean(self.chosen) >= min(self.best)

    def __str__(self) -> str:
        chosen = f"{mean(self.chosen):.0%} ({min(self.chosen):.0%} to {max(self.chosen):.0%})"
        if self.same and self.chosen == self.best:
            return f"{self.task}: chosen {chosen}, itself the first seed's best of {self.tried} settings"
        best = f"{mean(self.best):.0%} ({min(self.best):.0%} to {max(self.best):.0%}) with {self.setting}"
        same = ", rank and alpha as chosen" if self.same else ""
        return f"{self.task}: chosen {chosen}, the first seed's best of {self.tried} settings {best}{same}"


def regrets(study: Sequence[Mapping]) -> list[Regret]:
    """For each task on which `recommend` was tried (rows named "auto"), its choice beside the best LoRA setting found.

    The best is found on the first seed, which every setting has; of equals, the one with most seeds. A task is left out
    where the choice has a single seed, or more seeds than the best.
    """
    found = []
    for task, rows in grouped(usable(study, "exact_match"), lambda row: row["task"]).items():
        chosen = [row for row in rows if row["name"] == "auto"]
        low_rank = sorted((row for row in rows if row["method"].startswith("lora")), key=lambda row: row["seed"])
        settings = grouped(low_rank, lambda row: (row["name"], *_setting(row))).values()
        first = min(row["seed"] for row in rows)
        at_first = [own for own in settings if own[0]["seed"] == first]
        best = max(at_first, key=lambda own: (own[0]["exact_match"], len(own)), default=[])
        if 1 < len(chosen) <= len(best):
            tried = len({_setting(own[0]) for own in at_first})
            where, rank, alpha, rate = _setting(best[0])
            words = f"rank {rank}, alpha {alpha:g}, rate {rate:g}" + ("" if where == "all-linear" else f" ({where})")
            same = _setting(chosen[0])[:-1] == _setting(best[0])[:-1]
            scores = (tuple(row["exact_match"] for row in own) for own in (chosen, best))
            found.append(Regret(task, *scores, words, same, tried))
    return found


def _setting(row: Mapping) -> tuple:
    """What tells settings apart, the learning rate last."""
    return setting_in_words(row), row["rank"], row["alpha"], row["learning_rate"]


def judge_ranks(ranks, few, alphas, full, study) -> list[Verdict]:
    """Verdicts from rows (see `runs.table`) of one task, all with exact_match.

    ranks: all linear layers, rank by learning rate; few: adapters on one module; alphas: one rank, alpha by learning
    rate; full: full fine-tuning by rate. study: as in `regrets`, of any tasks.
    """
    complete = all(usable(rows, "exact_match") for rows in (ranks, few, alphas, full))
    if not complete or max(map(len, by_best_rate(ranks).values())) == 1:
        return [
            Verdict(claim, UNTESTED, "A part of the grid has no finished run, or no setting has several seeds.")
            for claim in ("update", "rank-alpha", "no-regret", "ceiling")
        ] + [_auto(study)]
    noise = seed_range(ranks)
    ranks = usable(ranks, "exact_match")
    return [
        _update(ranks, few, noise),
        _rank_alpha(ranks, alphas, noise),
        _no_regret(ranks, full, noise),
        _ceiling(ranks, full, noise),
        _auto(study),
    ]


def points(share: float) -> str:
    """A difference of two shares, in percentage points."""
    return f"{100 * share:.0f} points"


def best_by(rows: Sequence[Mapping], variable: str) -> dict[float, float]:
    """Each value of a variable, rising -> the mean exact match over seeds at its own best learning rate."""
    return {value: mean_of(group, "exact_match") for value, group in by_best_rate(rows, variable).items()}


def best_rates(rows: Sequence[Mapping]) -> dict[float, float]:
    """Each rank, rising -> its best learning rate."""
    return {rank: group[0]["learning_rate"] for rank, group in by_best_rate(rows).items()}


def one_step_off(rows: Sequence[Mapping]) -> float:
    """What the next learning rate of the grid costs in exact match: the mean over all ranks.

    The rates beside the best one have the first seed only; the best one, chosen by that seed, has its mean over seeds.
    """
    first = [row for row in usable(rows, "exact_match") if row["seed"] == min(row["seed"] for row in rows)]
    costs = []
    scores = best_by(rows, "rank")
    for rank, best in best_rates(rows).items():
        own = {row["learning_rate"]: row["exact_match"] for row in first if row["rank"] == rank}
        lower, higher = [rate for rate in own if rate < best], [rate for rate in own if rate > best]
        beside = [own[rate] for rate in (max(lower, default=None), min(higher, default=None)) if rate]
        costs += [scores[rank] - mean(beside)] if beside else []
    return mean(costs) if costs else 0.0


def rate_factor(rows: Sequence[Mapping]) -> float:
    """How far neighbouring learning rates of a grid lie apart, at most: 1 for a single rate."""
    rates = sorted({row["learning_rate"] for row in rows})
    return max((high / low for low, high in pairwise(rates)), default=1.0)


def _update(ranks, few, noise: float) -> Verdict:
    small, large = best_by(few, "rank"), best_by(ranks, "rank")
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
        f"that rank limits dW is mathematics (lesson 01); was it what limited here? On all layers rank {min(large):g} "
        f"recalls {large[min(large)]:.0%}, the best rank {max(large.values()):.0%} (seeds span {points(noise)}); "
        f"{one_matrix}."
    )
    return Verdict("update", verdict, evidence, "more rank helps in both places; depends: in one of them")


def _rank_alpha(ranks, alphas, noise: float) -> Verdict:
    spans = [max(band.values()) - min(band.values()) for band in (best_by(ranks, "rank"), best_by(alphas, "alpha"))]
    factors = [rate_factor(ranks), rate_factor(alphas)]
    above = [span > noise for span in spans]
    matters = [wide and factor <= TUNED for wide, factor in zip(above, factors, strict=True)]
    unclear = any(above) and not any(matters)  # nothing but rates too far apart to be the best ones
    verdict = SUPPORTED if all(matters) else DEPENDS if any(matters) else UNTESTED if unclear else NOT_SUPPORTED
    evidence = (
        f"each at the best rate of its grid, ranks differ by {points(spans[0])} (rates a factor of {factors[0]:.2g} "
        f"apart) and alphas by {points(spans[1])} (a factor of {factors[1]:.2g}); seeds span {points(noise)}, and one "
        f"step off the best rate costs {points(one_step_off(ranks))}."
    )
    rule = (
        f"rank and alpha both differ by more than seeds, with rates a factor of {TUNED:.0f} apart or less; depends: "
        "one of them; wider apart, a difference tests nothing"
    )
    return Verdict("rank-alpha", verdict, evidence, rule)


def _no_regret(ranks, full, noise: float) -> Verdict:
    at_best = at_best_rate(full)
    by_rank, whole = best_by(ranks, "rank"), mean_of(at_best, "exact_match")
    lora, best_rank = max((recall, rank) for rank, recall in by_rank.items())
    # Rates at which full does as well are all its best: the lower loss picks one, but not for the ratio.
    tied = [row["learning_rate"] for row in usable(full, "exact_match") if row["exact_match"] >= whole]
    ratios = [rate / own for rate in best_rates(ranks).values() for own in tied]
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
    rule = (
        "the best rank is within the seeds' span of full, and every ratio of best rates is "
        f"{TEN_TIMES[0]} to {TEN_TIMES[1]}; depends: only the first"
    )
    return Verdict("no-regret", verdict, evidence, rule)


def _ceiling(ranks, full, noise: float) -> Verdict:
    whole, lora = mean_of(at_best_rate(full), "exact_match"), max(best_by(ranks, "rank").values())
    if min(whole, lora) > NEARLY_ALL:
        evidence = f"full recalls {whole:.1%} and the best LoRA {lora:.1%}: a task that both can do shows no ceiling."
        return Verdict("ceiling", UNTESTED, evidence, f"full is ahead, and not both are above {NEARLY_ALL:.0%}")
    gap = whole - lora
    verdict = SUPPORTED if gap > noise else DEPENDS if gap > 0 else NOT_SUPPORTED
    evidence = f"full recalls {points(gap)} more than the best LoRA; the seeds span {points(noise)}."
    return Verdict("ceiling", verdict, evidence, "full is ahead by more than the seeds' span; depends: by less")


def _auto(study) -> Verdict:
    found = regrets(study)
    if not found:
        return Verdict("auto", UNTESTED, "The choice was not measured with several seeds on any task.")
    inside = [regret.inside for regret in found]
    verdict = SUPPORTED if all(inside) else DEPENDS if any(inside) else NOT_SUPPORTED
    evidence = "; ".join(map(str, found)) + "."
    rule = "on every task, not below the worst seed of the best setting tried; depends: on some"
    return Verdict("auto", verdict, evidence, rule)
