"""What lesson 07 says in words: what an update holds, what was forgotten, the ways back, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.analysis.places import Cuts, Place
from workbench.claims.study import comparisons
from workbench.commentary.forgetting import NAMES
from workbench.results.noise import CLEAR_FORGETTING, noise_of_difference, perplexity_in_words, rows_of, times_in_words
from workbench.results.paired import Comparison, compare
from workbench.results.rows import Row, at_best_rate, mean_of, of_setting
from workbench.scoring.scores import unpack_rows
from workbench.training.runs import Run

Ways = Mapping[str, Mapping[str, Place]]
UNDONE = 0.5  # of what was forgotten, that a repair has to undo
THIRDS = ("less than a third", "a third to two thirds", "more than two thirds")
NOBODY = "too close to call"
PAIR = ("hybrid", "lora")
NO_HYBRIDS = "The study has not reached the hybrids yet."
REPAIRS = (
    "keep a part of the whole update",
    "keep its largest directions",
    "drop it in some layers",
)


def third(share: float) -> str:
    """Which of THIRDS a share lies in."""
    return THIRDS[0] if share < 1 / 3 else THIRDS[1] if share <= 2 / 3 else THIRDS[2]


def measured_in_words(base: Place, models: Mapping[str, Place], runs: Sequence[Run]) -> str:
    """A Markdown table: score, and forgetting by three measures, of the base and of tuned models.

    models: method -> place. runs: of these methods; they hold the everyday facts.
    """
    facts = {"base": runs[0].before["fact_accuracy"]}
    facts |= {run.method["name"]: run.metrics["fact_accuracy"] for run in runs}
    lines = [
        "| model | task: exact match | other text: perplexity | everyday facts right | KL on the task's prompts |",
        "|---|---|---|---|---|",
    ]
    for name, one in {"base": base, **models}.items():
        times = "1" if one is base else times_in_words(one.times)
        cells = [f"{one.exact_match:.0%}", f"{times} times the base's", f"{facts[name]:.0%}", f"{one.kl:.2g} nats"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def intruders_in_words(found: Mapping[str, Mapping[str, Sequence[int]]], top: int) -> str:
    """How many intruders there are. found: method -> layer -> places of the intruders among its `top` largest."""
    parts = []
    for method, layers in found.items():
        count = sum(map(len, layers.values()))
        hit = sum(bool(places) for places in layers.values())
        parts.append(f"- {NAMES[method]}: {count} of {top * len(layers)} directions, in {hit} of {len(layers)} layers")
    return "Intruders among the largest directions:\n\n" + "\n".join(parts)


def pushed_title(found: Mapping[str, Mapping[float, tuple[int, float]]]) -> str:
    """From which factor on the updates have intruders.

    found: method -> {factor: (intruders, perplexity as a multiple of the base's)}, in rising order of the factors.
    """
    parts = []
    for method, own in found.items():
        first = next((f"first intruder at {factor:g} times" for factor, (count, _) in own.items() if count), None)
        parts.append(f"{NAMES[method]}: {first or f'none up to {max(own):g} times'} the update")
    return "; ".join(parts)


@dataclass(frozen=True)
class Repair:
    """The setting of a way that keeps the highest score among those that undo half of the forgetting."""

    way: str
    setting: str
    place: Place


def repairs(tuned: Place, ways: Ways) -> list[Repair]:
    """The best repair of each way, highest score first; a way without one is left out."""
    found = []
    for way, settings in ways.items():
        enough = {name: one for name, one in settings.items() if one.forgotten <= (1 - UNDONE) * tuned.forgotten}
        if enough:
            name = max(enough, key=lambda each: (enough[each].exact_match, -enough[each].forgotten))
            found.append(Repair(way, name, enough[name]))
    return sorted(found, key=lambda one: (-one.place.exact_match, one.place.forgotten))


def against(first: Place, second: Place) -> Comparison:
    """The first model against the second, row by row."""
    one, two = (unpack_rows(each.right)[None] for each in (first, second))
    return compare(one, two)


def winner(tuned: Place, ways: Ways) -> str:
    """The way whose repair keeps clearly more right answers than those of all others, else "too close to call"."""
    found = repairs(tuned, ways)
    if tuned.forgotten < CLEAR_FORGETTING:
        return "nothing to repair"
    if not found:
        return "none of them"
    best, *others = found
    return best.way if all(against(best.place, one.place).low > 0 for one in others) else NOBODY


def repairs_in_words(tuned: Mapping[str, Place], ways: Mapping[str, Ways]) -> str:
    """A Markdown table: of each run and way the best repair that undoes half of the forgetting."""
    lines = ["| run | way | setting | right answers | perplexity, times the base's |", "|---|---|---|---|---|"]
    for run, own in ways.items():
        lines.append(f"| {run} | as trained | | {tuned[run].exact_match:.0%} | {times_in_words(tuned[run].times)} |")
        best = {one.way: one for one in repairs(tuned[run], own)}
        for way in own:
            if way in best:
                one = best[way].place
                lines.append(
                    f"| {run} | {way} | {best[way].setting} | {one.exact_match:.0%} | {times_in_words(one.times)} |"
                )
            else:
                lines.append(f"| {run} | {way} | no setting tried undoes half | | |")
    return "\n".join(lines)


def hybrids_in_words(study: Sequence[Row]) -> str:
    """A Markdown table: what opening modules beside LoRA has brought in the study, and what it costs in bytes."""
    lines = [
        "| task | trained | MB in float32 | exact match | over LoRA | perplexity, times the base's |",
        "|---|---|---|---|---|---|",
    ]
    shown = ("lora", "lora r=64", "full")
    for task in dict.fromkeys(row["task"] for row in study):
        own = [row for row in study if row["task"] == task]
        names = [name for name in dict.fromkeys(row["name"] for row in own) if name in shown or _opened(name)]
        best = {name: at_best_rate([row for row in own if row["name"] == name]) for name in names}
        best = {name: rows for name, rows in best.items() if rows}
        if "lora" not in best or not any(map(_opened, best)):
            continue
        for name in sorted(best, key=lambda each: best[each][0]["trainable_parameters"]):
            size = 4 * best[name][0]["trainable_parameters"] / 1e6
            score, forgot = mean_of(best[name], "exact_match"), mean_of(best[name], "forgetting")
            lead = "" if name == "lora" else _lead(own, task, name)
            label = f"LoRA + {name.removeprefix('hybrid').removeprefix(', ') or 'last MLP'}" if _opened(name) else name
            lines.append(f"| {task} | {label} | {size:.0f} | {score:.0%} | {lead} | {perplexity_in_words(forgot)} |")
    return "\n".join([*lines, "", _hybrids_counted(study)]) if len(lines) > 2 else NO_HYBRIDS


def _hybrids_counted(study: Sequence[Row]) -> str:
    """Where a hybrid scores better than LoRA, and where it forgets less, each at its best rate."""
    names = [name for name in dict.fromkeys(row["name"] for row in study) if _opened(name)]
    paired = [one for name in names for one in comparisons(study, name, "lora").values()]
    less = []
    for task in dict.fromkeys(row["task"] for row in study):
        pair = [at_best_rate(of_setting(study, task, name)) for name in PAIR]
        if all(pair):
            less.append([mean_of(rows, "forgetting") for rows in pair])
    better, gentler = sum(one.low > 0 for one in paired), sum(one < lora for one, lora in less)
    return (
        f"In score a hybrid is ahead of LoRA in {better} of {len(paired)} comparisons row by row. With the last MLP "
        f"opened it forgets less than LoRA on {gentler} of {len(less)} tasks."
    )


def _opened(name: str) -> bool:
    return name == "hybrid" or name.startswith("hybrid, ")


def _lead(study: Sequence[Row], task: str, name: str) -> str:
    """Points of exact match over LoRA: with the paired interval, or in the first study with two standard errors."""
    if paired := comparisons(study, name, "lora", [task]):
        return f"{paired[task].numbers} points"
    first, second = (at_best_rate([row for row in study if row["name"] == each]) for each in (name, "lora"))
    samples = [(mean_of(rows, "exact_match"), min(map(rows_of, rows))) for rows in (first, second)]
    lead, noise = samples[0][0] - samples[1][0], noise_of_difference(*samples)
    return f"{100 * lead:+.0f} points (give or take {100 * noise:.0f})"


def update_title(cuts: Cuts, rank: int) -> str:
    """A title: what the largest directions of full's update keep of the score."""
    if cuts.whole <= cuts.base:
        return "The full run has learned nothing that a cut could take away"
    return f"{rank} directions a weight keep {cuts.kept(rank):.0%} of what full fine-tuning gained"


def update_answer(cuts: Cuts, rank: int) -> str:
    """One sentence on whether a full update is low rank in what matters."""
    if cuts.whole <= cuts.base:
        return "The full run has learned nothing, so that its update cannot be judged"
    return (
        f"Cut to its {rank} largest directions in each weight, full fine-tuning's update keeps {cuts.kept(rank):.0%} "
        f"of what it gained on the task ({cuts.by_rank[rank]:.0%} of {cuts.rows} rows right, uncut {cuts.whole:.0%})"
    )


def answer(cuts: Cuts, rank: int, tuned: Mapping[str, Place], ways: Mapping[str, Ways]) -> str:
    """The answer of lesson 07, in Markdown. tuned, ways: run -> its place, and the ways back from it."""
    who = max(tuned, key=lambda name: tuned[name].forgotten)
    broke = ", ".join(
        f"{times_in_words(one.times)} times the base's after {NAMES[name]}" for name, one in tuned.items()
    )
    found = repairs(tuned[who], ways[who])
    if tuned[who].forgotten < CLEAR_FORGETTING:
        repair = "That is hardly any damage, and nothing has to be repaired"
    elif found:
        best = found[0]
        repair = (
            f"The best repair of {NAMES[who]} that undoes half of the damage is to {best.way} ({best.setting}), which "
            f"leaves {best.place.exact_match:.0%} of the rows right, of {tuned[who].exact_match:.0%}"
        )
        others = [one.way for one in found[1:] if against(best.place, one.place).low <= 0]
        repair += f" (too close to tell from it: {', '.join(others)})" if others else ""
    else:
        repair = f"No way back that was tried undoes half of what {NAMES[who]} forgot"
    return (
        f"**The answer:** {update_answer(cuts, rank)}. What broke is other text: its perplexity is {broke}. "
        f"{repair}.\n\n"
        "What would change it: a lower rate breaks less to begin with (section 4); longer training on varied data "
        "makes updates of higher rank; a larger model is moved less by the same task."
    )
