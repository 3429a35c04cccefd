"""What stored rank sweeps say of the claims about rank, alpha, learning rate and targets. Used in lesson 05.

A difference counts when it is larger than the seeds' own: the range of the best setting's seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

from workbench.claims import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED, Verdict
from workbench.sweep_rows import at_best_rate, bands, by_best_rate, mean_of, usable

TEN_TIMES = (5, 20)  # the ratio of learning rates that still counts as "about ten times"


def seed_range(rows: Sequence[Mapping], measure: str = "exact_match") -> float:
    """Highest minus lowest of the best setting's seeds, the yardstick of every verdict here.

    The best setting is the rank whose best rate has the highest mean; one with several seeds, if there is any.
    """
    chosen = by_best_rate(rows).values()
    several = [group for group in chosen if len(group) > 1] or chosen
    best = max(several, key=lambda group: mean_of(group, measure))
    values = [row[measure] for row in best]
    return max(values) - min(values)


def judge_ranks(ranks, few, alphas, full, auto) -> list[Verdict]:
    """Verdicts from rows (see `runs.table`) of one task, all with exact_match.

    ranks: all linear layers, rank by learning rate; few: adapters on one module; alphas: one rank, alpha by learning
    rate; full: full fine-tuning by rate; auto: what `recommend` chose.
    """
    if not all(usable(rows, "exact_match") for rows in (ranks, few, alphas, full, auto)):
        return [
            Verdict(claim, UNTESTED, "A part of the grid has no finished run.")
            for claim in ("update", "rank-alpha", "no-regret", "ceiling", "auto")
        ]
    noise = seed_range(ranks)
    return [
        _update(ranks, few, noise),
        _rank_alpha(ranks, alphas, noise),
        _no_regret(ranks, full, noise),
        _ceiling(ranks, full, noise),
        _auto(ranks, auto),
    ]


def best_by(rows: Sequence[Mapping], variable: str) -> dict[float, float]:
    """Each value of a variable, rising -> the mean exact match over seeds at its own best learning rate."""
    return {value: mean_of(group, "exact_match") for value, group in by_best_rate(rows, variable).items()}


def best_rates(rows: Sequence[Mapping]) -> dict[float, float]:
    """Each rank, rising -> its best learning rate on the first seed."""
    return {rank: group[0]["learning_rate"] for rank, group in by_best_rate(rows).items()}


def _update(ranks, few, noise: float) -> Verdict:
    small, large = best_by(few, "rank"), best_by(ranks, "rank")
    gain_small, gain_large = (max(band.values()) - band[min(band)] for band in (small, large))
    helps = [gain > noise for gain in (gain_small, gain_large)]
    verdict = SUPPORTED if all(helps) else DEPENDS if any(helps) else NOT_SUPPORTED
    evidence = (
        f"more rank than {min(small):g} gains {gain_small:+.0%} of recall where adapters sit on one matrix, and more "
        f"than {min(large):g} gains {gain_large:+.0%} where they sit on all (seeds span {noise:.0%})."
    )
    return Verdict("update", verdict, evidence, "more rank helps in both places; depends: in one of them")


def _rank_alpha(ranks, alphas, noise: float) -> Verdict:
    spans = [max(band.values()) - min(band.values()) for band in (best_by(ranks, "rank"), best_by(alphas, "alpha"))]
    rates = bands([row for row in ranks if row["rank"] == ranks[0]["rank"]], "learning_rate", "exact_match")
    rate_span = max(map(mean, rates.values())) - min(map(mean, rates.values()))
    matters = [span > noise for span in spans]
    verdict = SUPPORTED if all(matters) else DEPENDS if any([*matters, rate_span > noise]) else NOT_SUPPORTED
    evidence = (
        f"with the learning rate tuned for each, ranks differ by {spans[0]:.0%} and alphas by {spans[1]:.0%}; rates at "
        f"one rank differ by {rate_span:.0%} (seeds span {noise:.0%})."
    )
    return Verdict("rank-alpha", verdict, evidence, "rank and alpha both matter; depends: one of them, or the rate")


def _no_regret(ranks, full, noise: float) -> Verdict:
    at_best = at_best_rate(full)
    lora, whole = max(best_by(ranks, "rank").values()), mean_of(at_best, "exact_match")
    ratios = [rate / at_best[0]["learning_rate"] for rate in best_rates(ranks).values()]
    matches = lora >= whole - noise
    tenfold = all(TEN_TIMES[0] <= ratio <= TEN_TIMES[1] for ratio in ratios)
    verdict = SUPPORTED if matches and tenfold else DEPENDS if matches else NOT_SUPPORTED
    evidence = (
        f"LoRA recalls {lora:.0%}, full {whole:.0%} (seeds span {noise:.0%}); LoRA's best rates are {min(ratios):.0f} "
        f"to {max(ratios):.0f} times that of full."
    )
    rule = (
        f"LoRA within the seeds' span, at {TEN_TIMES[0]} to {TEN_TIMES[1]} times full's rate; depends: only the first"
    )
    return Verdict("no-regret", verdict, evidence, rule)


def _ceiling(ranks, full, noise: float) -> Verdict:
    gap = mean_of(at_best_rate(full), "exact_match") - max(best_by(ranks, "rank").values())
    verdict = SUPPORTED if gap > noise else DEPENDS if gap > 0 else NOT_SUPPORTED
    evidence = f"full minus the best LoRA is {gap:+.0%} of recall; the seeds span {noise:.0%}."
    return Verdict("ceiling", verdict, evidence, "full is ahead by more than the seeds' span; depends: by less")


def _auto(ranks, auto) -> Verdict:
    groups = by_best_rate(ranks).values()
    best = [row["exact_match"] for row in max(groups, key=lambda group: mean_of(group, "exact_match"))]
    chosen = mean_of(usable(auto, "exact_match"), "exact_match")
    verdict = SUPPORTED if chosen >= min(best) else NOT_SUPPORTED
    evidence = (
        f"the rule's choice recalls {chosen:.0%}; the best setting that was found recalls {mean(best):.0%} "
        f"({min(best):.0%} to {max(best):.0%} over {len(best)} seeds)."
    )
    return Verdict("auto", verdict, evidence, "not below the worst seed of the best setting found")
