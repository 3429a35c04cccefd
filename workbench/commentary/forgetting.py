"""Who forgets more, LoRA or full fine-tuning, at equal score and at their best rates: lessons 06 and 07."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from workbench.claims.study import LENGTHS, compared
from workbench.results.equal_score import AtRate, at_best_score, at_equal_score, means_by_rate
from workbench.results.noise import CLEAR_FORGETTING, perplexity_in_words
from workbench.results.rows import Row, mean_of, of_setting, swept_rate

EQUAL_RATES = 1.3  # rates that differ by less than this factor count as equal
NAMES = {"lora": "LoRA", "full": "full fine-tuning"}


def who_forgets_more(lora: float, full: float) -> str:
    """ "LoRA", "full fine-tuning" or "both about the same", from the nats that each lost on general text."""
    if abs(lora - full) < CLEAR_FORGETTING:
        return "both about the same"
    return "LoRA" if lora > full else "full fine-tuning"


def pairs_at_equal_score(study: Sequence[Row], tasks: Sequence[str]) -> dict[str, tuple[float, dict[str, AtRate]]]:
    """Task -> a score that LoRA and full both reach, and the gentlest rate of each that reaches it."""
    return {task: at_equal_score({name: of_setting(study, task, name) for name in ("lora", "full")}) for task in tasks}


def pairs_at_best_rate(study: Sequence[Row], tasks: Sequence[str]) -> dict[str, dict[str, AtRate]]:
    """Task -> LoRA and full, each at the rate with its best score."""
    return {task: {name: at_best_score(of_setting(study, task, name)) for name in ("lora", "full")} for task in tasks}


def two_comparisons(
    equal: Mapping[str, tuple[float, Mapping[str, AtRate]]], best: Mapping[str, Mapping[str, AtRate]]
) -> str:
    """A Markdown table of `pairs_at_equal_score` and `pairs_at_best_rate`."""
    heads = "LoRA: rate, score, perplexity | full: rate, score, perplexity"
    lines = [f"| task | compared | {heads} |", "|---|---|---|---|"]
    for task, (wanted, least) in equal.items():
        for words, pair in ((f"at {wanted:.0%} right or more", least), ("each at its best rate", best[task])):
            cells = [
                f"{one.learning_rate:g}, {one.exact_match:.0%}, {perplexity_in_words(one.forgetting)} times"
                for one in (pair["lora"], pair["full"])
            ]
            lines.append(f"| {task} | {words} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def against_the_paper(
    equal: Mapping[str, tuple[float, Mapping[str, AtRate]]], best: Mapping[str, Mapping[str, AtRate]]
) -> str:
    """What both comparisons say of "LoRA learns less and forgets less" (Biderman et al., 2024)."""
    return f"{_at_equal_score({task: pair for task, (_, pair) in equal.items()})} {_at_best_rate(best)}"


def _at_best_rate(pairs: Mapping[str, Mapping[str, AtRate]]) -> str:
    holds = {
        task: _forgets_more(pair) == "full fine-tuning" and pair["lora"].exact_match < pair["full"].exact_match
        for task, pair in pairs.items()
    }
    yes, no = ([task for task in holds if holds[task] is wanted] for wanted in (True, False))
    told = [f"LoRA learns less and forgets less on {_listed(yes)}"] if yes else []
    told += [f"the title does not hold on {_listed(no)}"] if no else []
    return f"Each at its best rate, {', and '.join(told)}."


def _forgets_more(pair: Mapping[str, AtRate]) -> str:
    return who_forgets_more(pair["lora"].forgetting, pair["full"].forgetting)


def _at_equal_score(pairs: Mapping[str, Mapping[str, AtRate]]) -> str:
    more = {task: _forgets_more(pair) for task, pair in pairs.items()}
    paper = "the paper's title, *LoRA Learns Less and Forgets Less* (Biderman et al., 2024)"
    if set(more.values()) == {"LoRA"}:
        return (
            f"**At equal score this contradicts {paper}.** Among rates that score alike, LoRA forgets more on "
            f"{_listed(list(more))}. A likely reason: they trained far longer, on 100,000 pairs of an "
            "instruction and its answer, and on 20 billion tokens of text; our runs take a minute. In so few steps "
            "LoRA needs a rate some ten times as high, and it moves a few directions far (section 8). LoRA's lower "
            "rates in the figure forget less, and score less."
        )
    if "LoRA" not in more.values():
        return f"**At equal score this agrees with {paper}**: among rates that score alike, LoRA never forgets more."
    told = "; ".join(f"`{task}`: {who}" for task, who in more.items())
    return (
        f"**At equal score this agrees with {paper} only in part.** Among rates that score alike, more is forgotten "
        f"by: {told}."
    )


def after_longer_training(study: Sequence[Row], task: str) -> str:
    """A sentence on LoRA's score and forgetting after more steps, each length at its own best rate; "" if not trained.

    Of several longer lengths the one that scores best.
    """
    short, *longer = (compared(study, task, f"lora{end}") for end in LENGTHS.values())
    longer = [rows for rows in longer if rows]
    if not short or not longer:
        return ""
    best = max(longer, key=lambda rows: mean_of(rows, "exact_match"))
    ends = [
        f"{mean_of(rows, 'exact_match'):.0%} right and {perplexity_in_words(mean_of(rows, 'forgetting'))} times "
        f"the base's perplexity after {rows[0]['steps']} steps at a rate of {swept_rate(rows[0]):g}"
        for rows in (short, best)
    ]
    return f"Longer training changes both: on the study's `{task}` LoRA has {ends[0]}, and {ends[1]}."


def three_comparisons(study: Sequence[Row], task: str) -> str:
    """A Markdown table: LoRA against full in the study, each at its best rate, at equal score, and at equal rate."""
    rows = {name: of_setting(study, task, name) for name in ("lora", "full")}
    means = {name: means_by_rate(own) for name, own in rows.items()}
    best = {name: at_best_score(own) for name, own in rows.items()}
    score, least = at_equal_score(rows)
    pairs = {"each at its best rate": best, f"at equal score ({score:.0%} or more, the least forgetful)": least}
    if equal := _equal_rates(means["lora"], means["full"]):
        pairs["at (nearly) equal rate"] = dict(zip(("lora", "full"), equal, strict=True))
    lines = ["| compared | LoRA | full fine-tuning | forgets more |", "|---|---|---|---|"]
    for words, pair in pairs.items():
        cells = [
            f"rate {one.learning_rate:g}: {one.exact_match:.0%} right, perplexity "
            f"{perplexity_in_words(one.forgetting)} times"
            for one in (pair["lora"], pair["full"])
        ]
        lines.append(f"| {words} | {cells[0]} | {cells[1]} | {_forgets_more(pair)} |")
    return "\n".join(lines)


def _equal_rates(lora: Sequence[AtRate], full: Sequence[AtRate]) -> tuple[AtRate, AtRate] | None:
    """The highest pair of rates, tried with both, that differ by less than EQUAL_RATES."""
    pairs = [
        (one, other)
        for one in lora
        for other in full
        if 1 / EQUAL_RATES < one.learning_rate / other.learning_rate < EQUAL_RATES
    ]
    return max(pairs, key=lambda pair: pair[0].learning_rate, default=None)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)
