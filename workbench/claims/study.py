"""Rules on the reference study, method against method, row by row of the test. Lessons 05, 06 and FINDINGS use them.

A method is taken at its best learning rate, with the seeds that did not choose it. A task counts where both methods
have several such seeds; a rule that finds none is not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from workbench.claims.ledger import DEPENDS, NOT_SUPPORTED, SUPPORTED, UNTESTED
from workbench.claims.ranks import NEARLY_ALL, TEN_TIMES
from workbench.claims.rules import NotTested, Outcome, rule
from workbench.results import equal_score
from workbench.results.equal_score import ENOUGH, AtRate
from workbench.results.noise import DOUBLED, perplexity_in_words
from workbench.results.paired import Comparison, compare_rows
from workbench.results.rows import Row, best_rate, mean_of, of_setting, swept_rate, usable

CHOOSING_SEED = 0  # of the study: it chose the learning rates
SCOPED = ("tickets", "docs", "orders")  # classification and extraction
HARD = "protocol"  # an invented format and a way of reasoning, far from pre-training
NEW = "facts"  # invented, so that the base knows none of them
FORGETS = "full at least doubles the perplexity of other text at its best rate; depends: on some tasks"
LENGTHS = {60: "", 200: ", 200 steps", 600: ", 600 steps"}  # steps -> the end of a setting's name
LORA_SETTINGS = ("lora", "lora r=64", "rslora", "alpha=8", "alpha=128", "rank 1", "mlp", "dora", "lora+", "pissa")


def compared(study: Sequence[Row], task: str, name: str) -> list[Row]:
    """The rows of a setting at its best rate that are compared: of the seeds that did not choose the rate.

    None where no rate was chosen, where only one other seed is there, or where it was not stored which rows were right
    (in the first study).
    """
    own = usable((row for row in of_setting(study, task, name) if row.get("right")), "exact_match")
    first = [row for row in own if row["seed"] == CHOOSING_SEED]
    if not first:
        return []
    rate = best_rate(first)
    rows = [row for row in own if swept_rate(row) == rate and row["seed"] != CHOOSING_SEED]
    return rows if len(rows) > 1 else []


def comparisons(
    study: Sequence[Row], first: str, second: str, tasks: Iterable[str] | None = None
) -> dict[str, Comparison]:
    """Task -> the first setting against the second, for the tasks on which both can be compared."""
    found: dict[str, Comparison] = {}
    for task in tasks or dict.fromkeys(row["task"] for row in study):
        pair = compared(study, task, first), compared(study, task, second)
        if all(pair):
            found[task] = compare_rows(*pair)
    return found


def in_words(found: Mapping[str, Comparison], first: str, second: str) -> str:
    """Each task with the verdict on it: "`tickets`: full and LoRA are on par ..."."""
    return "; ".join(f"`{task}`: {one.in_words(first, second)}" for task, one in found.items())


@rule("parity")
def _parity(paired: Sequence[Row]) -> Outcome:
    return _matches_full(paired, None)


@rule("scoped")
def _scoped(paired: Sequence[Row]) -> Outcome:
    return _matches_full(paired, SCOPED)


def _matches_full(study: Sequence[Row], tasks: Iterable[str] | None) -> Outcome:
    """Supported if full is better on none of the tasks: not than LoRA's best setting, nor than the usual one."""
    usual = _required(comparisons(study, "full", "lora", tasks))
    verdict = _judged({task: full_against_best(study, task)[1] for task in usual}, lambda one: one != "better")
    if verdict == SUPPORTED and any(one.verdict == "better" for one in usual.values()):
        verdict = DEPENDS
    told = [f"`{task}`: {one.in_words('full', 'LoRA')}{and_against_best(study, task)}" for task, one in usual.items()]
    condition = "full is better on none of the tasks that decide; depends: on some, or only than rank 8 with alpha 32"
    return verdict, f"{'. '.join(told)}.", condition


@rule("qlora")
def _qlora(paired: Sequence[Row]) -> Outcome:
    found = _required(comparisons(paired, "lora", "qlora"))
    verdict = _judged(found, lambda one: one != "better")
    condition = "it costs no score: LoRA is better on none of the tasks that decide; depends: on some of them"
    return verdict, f"What it costs in score: {in_words(found, 'LoRA', 'QLoRA')}.", condition


@rule("behaviour")
def _behaviour(paired: Sequence[Row]) -> Outcome:
    return _calls_for_full(paired, HARD)


@rule("new-domain")
def _new_domain(paired: Sequence[Row]) -> Outcome:
    verdict, evidence, condition = _calls_for_full(paired, NEW)
    return verdict, f"{evidence} These are invented facts to learn by heart: new, but not complex.", condition


def _calls_for_full(study: Sequence[Row], task: str) -> Outcome:
    """Supported if full is better on the task than LoRA's best setting."""
    usual = _required(comparisons(study, "full", "lora", [task]))[task]
    _, against_best = full_against_best(study, task)
    verdict = DEPENDS if usual.verdict == "better" else UNTESTED if usual.verdict == "undecided" else NOT_SUPPORTED
    verdict = SUPPORTED if against_best.verdict == "better" else verdict
    evidence = f"`{task}`: {usual.in_words('full', 'LoRA of rank 8')}{and_against_best(study, task)}."
    return verdict, evidence, "full is better than the best setting of LoRA; depends: than rank 8 alone"


def best_setting(study: Sequence[Row], task: str) -> str:
    """The setting of LoRA that scores best on the seed that chose the rates.

    The compared seeds have no say in it: of several settings that are equally good, one is the luckiest on them.
    """

    def first(name: str) -> tuple[float, float]:
        return max((row["exact_match"], -row["loss"]) for row in of_choosing_seed(study, task, name))

    return max(settings_of_lora(study, task), key=first)


def full_against_best(study: Sequence[Row], task: str) -> tuple[str, Comparison]:
    """The best setting of LoRA on a task that has both methods, and full fine-tuning against it."""
    best = best_setting(study, task)
    return best, comparisons(study, "full", best, [task])[task]


def and_against_best(study: Sequence[Row], task: str) -> str:
    """The end of a sentence: full against the best setting of LoRA; nothing where that is the usual one."""
    best, one = full_against_best(study, task)
    if best == "lora":
        return ""
    tried = len(settings_of_lora(study, task))
    return f"; of {tried} settings of LoRA {best} scores best, and {one.in_words('full', best)}"


def settings_of_lora(study: Sequence[Row], task: str) -> list[str]:
    """The settings of LoRA that can be compared on a task."""
    return [name for name in LORA_SETTINGS if compared(study, task, name)]


def of_choosing_seed(study: Sequence[Row], task: str, name: str) -> list[Row]:
    """The scored rows of a setting on the seed that chose its learning rate."""
    place = (task, name, CHOOSING_SEED)
    return usable((row for row in study if (row["task"], row["name"], row["seed"]) == place), "exact_match")


@rule("ceiling")
def _ceiling(paired: Sequence[Row]) -> Outcome:
    found: dict[str, Comparison] = {}
    solved = []
    for task in dict.fromkeys(row["task"] for row in paired):
        gaps = by_length(paired, task)
        if len(gaps) < 2:
            continue
        steps = max(gaps)
        lora, full = scores_after(paired, task, steps)
        if min(lora, full) > NEARLY_ALL:
            solved.append(f"`{task}` after {steps} steps (LoRA {lora:.1%}, full {full:.1%})")
        else:
            found[f"`{task}` after {steps} steps"] = gaps[steps]
    both_can = f"Both all but solve {' and '.join(solved)}, and a task that both can do shows no ceiling."
    if solved and not found:
        raise NotTested(both_can)
    evidence = "; ".join(f"{place}: {one.in_words('full', 'LoRA')}" for place, one in _required(found).items())
    return (
        _judged(found, lambda one: one == "better"),
        f"{evidence}.{f' {both_can}' if solved else ''}",
        "full is better in the longest runs; depends: on some tasks",
    )


def by_length(study: Sequence[Row], task: str) -> dict[int, Comparison]:
    """Steps of the training -> full against LoRA of that length, in rising order; those that can be compared."""
    found = {steps: comparisons(study, f"full{end}", f"lora{end}", [task]) for steps, end in LENGTHS.items()}
    return {steps: one[task] for steps, one in found.items() if one}


def scores_after(study: Sequence[Row], task: str, steps: int) -> tuple[float, float]:
    """Mean exact match of LoRA and of full over the compared seeds, after so many steps."""
    lora, full = (mean_of(compared(study, task, f"{name}{LENGTHS[steps]}"), "exact_match") for name in ("lora", "full"))
    return lora, full


@rule("hybrid")
def _hybrid(paired: Sequence[Row]) -> Outcome:
    over_lora = _required(comparisons(paired, "hybrid", "lora"))
    under_full = comparisons(paired, "full", "hybrid", over_lora)
    verdict = _judged(over_lora, lambda one: one == "better")
    evidence = f"{in_words(over_lora, 'hybrid', 'LoRA')}. {in_words(under_full, 'full', 'hybrid')}."
    return verdict, evidence, "hybrid is better than LoRA on every task that decides; depends: on some"


@rule("no-regret")
def _no_regret(paired: Sequence[Row]) -> Outcome:
    verdict, evidence, _ = _matches_full(paired, None)
    ratios = {task: rate_ratio(paired, task) for task in comparisons(paired, "full", "lora")}
    about_ten = all(TEN_TIMES[0] <= ratio <= TEN_TIMES[1] for ratio, _, _ in ratios.values())
    verdict = DEPENDS if verdict == SUPPORTED and not about_ten else verdict
    told = "; ".join(f"`{task}` {ratio:g} ({low:g} to {high:g})" for task, (ratio, low, high) in ratios.items())
    condition = f"full is better on no task and each ratio is {TEN_TIMES[0]} to {TEN_TIMES[1]}; depends: one of the two"
    evidence += f" LoRA's best rate over full's, and over the rates that cannot be told from the best: {told}."
    return verdict, evidence, condition


def rate_ratio(study: Sequence[Row], task: str, lora: str = "lora") -> tuple[float, float, float]:
    """The best rate of a setting of LoRA over full's, and the lowest and highest ratio of rates that come close.

    These are not clearly worse than the best: a rate is, if the paired 95 % interval on the choosing seed excludes 0.
    """
    best, alike = {}, {}
    for name in (lora, "full"):
        first = [row for row in of_choosing_seed(study, task, name) if row.get("right")]
        best[name] = best_rate(first)
        top = [row for row in first if swept_rate(row) == best[name]]
        others = [row for row in first if swept_rate(row) != best[name]]
        alike[name] = [best[name]] + [swept_rate(row) for row in others if not compare_rows(top, [row]).low > 0]
    low, high = min(alike[lora]) / max(alike["full"]), max(alike[lora]) / min(alike["full"])
    return best[lora] / best["full"], low, high


@rule("rank-alpha")
def _rank_alpha(paired: Sequence[Row]) -> Outcome:
    found: dict[str, Comparison] = {}
    for name in ("rank 1", "lora r=64", "alpha=8", "alpha=128", "rslora"):
        found |= {f"{task}, {name}": one for task, one in comparisons(paired, name, "lora").items()}
    found = _required(found)
    evidence = "; ".join(
        f"`{place}`: {one.in_words(place.split(', ')[1], 'rank 8, alpha 32')}" for place, one in found.items()
    )
    return (
        _judged(found, lambda one: one in ("better", "worse")),
        f"{evidence}.",
        "every other rank and alpha scores otherwise at its own best rate; depends: some",
    )


@rule("forgetting")
def _forgetting(paired: Sequence[Row]) -> Outcome:
    tasks = list(_required(comparisons(paired, "full", "lora")))
    best = {task: [mean_of(compared(paired, task, name), "forgetting") for name in ("full", "lora")] for task in tasks}
    equal = {task: at_equal_score(paired, task) for task in tasks}
    at_best = "; ".join(f"`{task}`: {_perplexities(full, lora)}" for task, (full, lora) in best.items())
    gentle = "; ".join(
        f"`{task}` ({full.exact_match:.0%} and {lora.exact_match:.0%} right): "
        f"{_perplexities(full.forgetting, lora.forgetting)}"
        for task, (_, lora, full) in equal.items()
    )
    evidence = (
        f"Perplexity on general text, times the base's, each at its best rate: {at_best}. At the gentlest rate that "
        f"keeps {ENOUGH:.0%} of what both reach: {gentle}."
    )
    return _all_or_some([full > DOUBLED for full, _ in best.values()]), evidence, FORGETS


def _perplexities(full: float, lora: float) -> str:
    return f"{perplexity_in_words(full)} after full, {perplexity_in_words(lora)} after LoRA"


def at_equal_score(study: Sequence[Row], task: str) -> tuple[float, AtRate, AtRate]:
    """A score that LoRA and full both reach, and for each the rate that forgets least among those that reach it.

    The score is ENOUGH of the lower of their best ones.
    """
    settings = {name: [row for row in of_setting(study, task, name) if row.get("right")] for name in ("lora", "full")}
    score, least = equal_score.at_equal_score(settings)
    return score, least["lora"], least["full"]


def _required(found: dict[str, Comparison]) -> dict[str, Comparison]:
    if not found:
        raise NotTested("The study has no task on which these can be compared row by row yet.")
    return found


def _judged(found: Mapping[str, Comparison], holds: Callable[[str], bool]) -> str:
    """The verdict on a claim from those of the comparisons that decide. holds: whether one of them agrees with it."""
    return _all_or_some([holds(one.verdict) for one in found.values() if one.verdict != "undecided"])


def _all_or_some(true: Sequence[bool]) -> str:
    """Supported if all of what decides is true, not supported if nothing is."""
    if not true:
        return UNTESTED
    return SUPPORTED if all(true) else DEPENDS if any(true) else NOT_SUPPORTED
