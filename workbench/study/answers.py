"""Questions that people ask about LoRA, each answered by the reference study in one line with one number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import geometric_mean

from workbench.claims.retrieval import in_words
from workbench.claims.study import (
    HARD,
    LORA_SETTINGS,
    SCOPED,
    at_equal_score,
    by_length,
    comparisons,
    full_against_best,
    rate_ratio,
    scores_after,
    settings_of_lora,
)
from workbench.commentary.search import STANDS
from workbench.results.equal_score import ENOUGH, AtRate
from workbench.results.noise import perplexity_in_words
from workbench.results.paired import MARGIN
from workbench.results.rows import Row, grouped
from workbench.retrieval.rows import BASE, FULL, LORA, compare, names, retrieval_rows
from workbench.study.costs import costs

NOT_YET = "Not measured yet."
PARITY = f"Is LoRA as good as full fine-tuning (within {MARGIN:g} points)?"
# Verdict on full against LoRA in the longest runs, where full was better in the shortest -> the answer.
CAUGHT_UP = {"on par": "Yes", "worse": "Yes", "better": "No, it stays behind", "undecided": "Not shown"}
LADDER = ("hybrid, norms", "hybrid", "hybrid, last block", "hybrid, largest gradients")


def answers(study: Sequence[Row]) -> list[tuple[str, str]]:
    """The questions with their answers, in the order of the page."""
    return [(question, answer(study)) for question, answer in QUESTIONS.items()]


def page(study: Sequence[Row]) -> str:
    """The questions and answers as a numbered Markdown list."""
    told = enumerate(answers(study), start=1)
    return "\n".join(f"{number}. **{question}** {answer}" for number, (question, answer) in told)


def _parity(study: Sequence[Row]) -> str:
    return _against_full(study)


def _scoped(study: Sequence[Row]) -> str:
    return _against_full(study, SCOPED)


def _against_full(study: Sequence[Row], tasks: Iterable[str] | None = None) -> str:
    """How LoRA stands against full on several tasks: what is decided first, with the largest difference."""
    found = comparisons(study, "full", "lora", tasks)
    if not found:
        return NOT_YET
    by_verdict = grouped(found, lambda task: found[task].verdict)
    words = []
    if close := [*by_verdict.get("on par", ()), *by_verdict.get("worse", ())]:
        widest = max(close, key=lambda task: found[task].high)
        names = ", ".join(f"`{task}`" for task in close)
        words.append(f"Yes on {names}: full is at most {max(found[widest].high, 0):.1f} points better (95 %)")
    if ahead := by_verdict.get("better"):
        gaps = ", ".join(
            f"{found[task].difference:.1f} points on `{task}`{_of_best_setting(study, task)}" for task in ahead
        )
        behind = any(full_against_best(study, task)[1].verdict == "better" for task in ahead)
        no = "no" if behind else "not at its usual setting"
        words.append(f"{no if words else no.capitalize()}: full is ahead of rank 8, alpha 32 by {gaps}")
    if undecided := by_verdict.get("undecided"):
        spans = ", ".join(
            f"`{task}` (full {found[task].difference:+.1f} points, 95 % interval {found[task].low:+.1f} to "
            f"{found[task].high:+.1f})"
            for task in undecided
        )
        words.append(f"{'no' if words else 'No'} difference shown on {spans}")
    return "; ".join(words) + "."


def _of_best_setting(study: Sequence[Row], task: str) -> str:
    """How full stands against the best setting of LoRA, in brackets; nothing where that is the usual one."""
    best, one = full_against_best(study, task)
    if best == "lora":
        return ""
    stands = {
        "on par": "but on par with",
        "better": "and ahead of",
        "worse": "but behind",
        "undecided": "but not told apart from",
    }
    numbers = f"{one.difference:+.1f}, {one.low:+.1f} to {one.high:+.1f}"
    return f" ({stands[one.verdict]} the best setting of LoRA there, {best}: {numbers})"


def _behaviour(study: Sequence[Row]) -> str:
    found = comparisons(study, "full", "lora", [HARD])
    if not found:
        return NOT_YET
    usual = found[HARD]
    best, against = full_against_best(study, HARD)
    if against.verdict == "better":
        return f"Yes: on `{HARD}` full is {against.difference:.1f} points ahead of the best LoRA ({best})."
    if usual.verdict == "better":
        return (
            f"LoRA's usual setting falls {usual.difference:.1f} points behind on `{HARD}`; a better one ({best}) does "
            f"not (full {against.difference:+.1f} points, {against.low:+.1f} to {against.high:+.1f})."
        )
    if usual.verdict == "undecided":
        return f"On `{HARD}`, {usual.in_words('full', 'LoRA')}."
    return f"No: on `{HARD}` full is {usual.difference:+.1f} points ahead ({usual.low:+.1f} to {usual.high:+.1f})."


def _longer(study: Sequence[Row]) -> str:
    told = []
    for task in dict.fromkeys(row["task"] for row in study):
        gaps = by_length(study, task)
        if len(gaps) > 1:
            first, *_, last = gaps.values()
            verdict = CAUGHT_UP[last.verdict] if first.verdict == "better" else "It is not behind in short runs"
            words = ", ".join(f"{one.numbers} points after {steps} steps" for steps, one in gaps.items())
            lora, full = scores_after(study, task, max(gaps))
            told.append(f"{verdict} on `{task}`: full minus LoRA is {words} (then {lora:.0%} and {full:.0%} right).")
    return " ".join(told) or NOT_YET


def _forgetting(study: Sequence[Row]) -> str:
    found = {task: at_equal_score(study, task) for task in comparisons(study, "full", "lora")}
    if not found:
        return NOT_YET
    less = sum(lora.forgetting < full.forgetting for _, lora, full in found.values())
    verdict = {0: "No, it forgets more", len(found): "Yes"}.get(less, f"On {less} of {len(found)} tasks")
    factors = ", ".join(
        f"{_times(lora)} with LoRA and {_times(full)} with full on `{task}`" for task, (_, lora, full) in found.items()
    )
    return (
        f"{verdict}, at rank 8, alpha 32 and in so short a training. Perplexity on other text is, times the base's, "
        f"{factors}: each method at the learning rate that forgets least and keeps {ENOUGH:.0%} of the score that both "
        "reach."
    )


def _times(one: AtRate) -> str:
    """How many times the base's perplexity, and the score that goes with it."""
    return f"{perplexity_in_words(one.forgetting)} ({one.exact_match:.0%} right)"


def _qlora(study: Sequence[Row]) -> str:
    found = comparisons(study, "qlora", "lora")
    if not found:
        return NOT_YET
    worst = min(found, key=lambda task: found[task].difference)
    one = found[worst]
    same = [task for task, each in found.items() if each.verdict == "on par"]
    return (
        f"On par with LoRA on {len(same)} of {len(found)} tasks; at worst {one.difference:+.1f} points "
        f"(`{worst}`, {one.low:+.1f} to {one.high:+.1f})."
    )


def _hybrid(study: Sequence[Row]) -> str:
    found = {
        (task, name): one
        for name in LADDER
        for task, one in comparisons(study, name, "lora").items()
    }  # fmt: skip
    if not found:
        return NOT_YET
    gains = [place for place, one in found.items() if one.verdict == "better"]
    task, name = max(found, key=lambda place: found[place].difference)
    best = found[task, name]
    return (
        f"It beats LoRA in {len(gains)} of {len(found)} comparisons; the largest gain is {best.difference:+.1f} points "
        f"({name}, on `{task}`, {best.low:+.1f} to {best.high:+.1f})."
    )


def _rates(study: Sequence[Row]) -> str:
    ratios = {task: rate_ratio(study, task)[0] for task in comparisons(study, "full", "lora")}
    if not ratios:
        return NOT_YET
    told = ", ".join(f"{ratio:g} on `{task}`" for task, ratio in ratios.items())
    told = f"At rank 8 and alpha 32, {geometric_mean(ratios.values()):.0f} times that of full in the mean: {told}."
    others = [rate_ratio(study, HARD, name)[0] for name in settings_of_lora(study, HARD)] if HARD in ratios else []
    if len(others) > 1:
        told += (
            f" It turns on the factor in front of the update: {min(others):g} to {max(others):g} over {len(others)} "
            f"settings of rank and alpha on `{HARD}`."
        )
    return told


def _ranks(study: Sequence[Row]) -> str:
    found = {
        (task, name): one
        for name in LORA_SETTINGS[1:]
        for task, one in comparisons(study, name, "lora").items()
    }  # fmt: skip
    if not found:
        return NOT_YET
    task, name = max(found, key=lambda place: abs(found[place].difference))
    one = found[task, name]
    return (
        f"{sum(each.verdict in ('better', 'worse') for each in found.values())} of {len(found)} other settings differ "
        f"from rank 8, alpha 32, each at its own rate; most of all {name} on `{task}`, {one.difference:+.1f} points."
    )


def _saving(study: Sequence[Row]) -> str:
    peak, seconds = costs("peak_memory_mb"), costs("step_seconds")
    return (
        f"Here, at 135M parameters in float32, memory by a factor of {peak['full'] / peak['lora']:.1f} and "
        f"{1 - seconds['lora'] / seconds['full']:.0%} of a step's time; at 1B and more lesson 04 computes it."
    )


def _search(study: Sequence[Row]) -> str:
    rows = retrieval_rows()
    if not {BASE, LORA, FULL} <= set(names(rows)):
        return NOT_YET
    gain, gap = compare(rows, LORA, BASE), compare(rows, LORA, FULL)
    return (
        f"At rank 8 it is {STANDS[gain.verdict]} no tuning, {in_words(gain)} NDCG@10, and {STANDS[gap.verdict]} full "
        f"fine-tuning, {in_words(gap)}."
    )


QUESTIONS: dict[str, Callable[[Sequence[Row]], str]] = {
    PARITY: _parity,
    "Is that so for classification and extraction?": _scoped,
    "Does a new format and way of reasoning call for full fine-tuning?": _behaviour,
    "Does LoRA catch up when it trains longer?": _longer,
    "Does LoRA forget less?": _forgetting,
    "What does a 4-bit base (QLoRA) cost in score?": _qlora,
    "Is it worth training a few modules in full beside LoRA?": _hybrid,
    "How much larger is LoRA's best learning rate?": _rates,
    "Do rank, alpha and the variants of LoRA matter once the rate is tuned?": _ranks,
    "What does LoRA save?": _saving,
    "Does LoRA cost an encoder search quality (lesson 09)?": _search,
}
