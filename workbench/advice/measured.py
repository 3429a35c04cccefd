"""What the reference study measured on each kind of task, as the decision uses it: with its rows named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.claims.study import compared, full_against_best
from workbench.commentary.lora_or_full import study_gap
from workbench.results import equal_score
from workbench.results.rows import Row, at_best_rate, usable

# What is to be learnt -> the tasks of the study that come nearest.
KINDS: dict[str, tuple[str, ...]] = {
    "labels or fields from a text": ("tickets", "docs", "orders"),
    "a new format or way of reasoning": ("protocol",),
    "facts by heart": ("facts",),
}
SHORT = {"lora": "LoRA", "qlora": "QLoRA", "hybrid": "hybrid", "full": "full"}


@dataclass(frozen=True)
class Lead:
    """How far full fine-tuning is ahead of LoRA on a task, in points of exact match.

    better: whether it is certain that it is ahead at all. source: the rows that say so.
    """

    task: str
    points: float
    better: bool
    sentence: str
    source: str


@dataclass(frozen=True)
class Measured:
    """What the study says on each of KINDS: full's leads, and the least forgetting at equal score of each method."""

    leads: Mapping[str, list[Lead]]
    forgetting: Mapping[str, dict[str, float]]


def measured(study: Sequence[Row]) -> Measured:
    """The study's rows (of `reference.study_rows`) as the decision uses them."""
    return Measured(
        {kind: lead_of_full(study, tasks) for kind, tasks in KINDS.items()},
        {kind: forgetting_of(study, tasks) for kind, tasks in KINDS.items()},
    )


def lead_of_full(study: Sequence[Row], tasks: Sequence[str]) -> list[Lead]:
    """One lead for each of these tasks on which both methods were measured with several seeds.

    Row by row where it is stored which rows were right, against the best setting of LoRA; else by the ranges of seeds.
    """
    found = [_by_row(study, task) or _by_range(study, task) for task in tasks]
    return [lead for lead in found if lead]


def _by_row(study: Sequence[Row], task: str) -> Lead | None:
    if not (compared(study, task, "lora") and compared(study, task, "full")):
        return None
    best, one = full_against_best(study, task)
    words = f"`{task}`: {one.in_words('full', f'LoRA ({best})')}"
    source = f"study, `{task}`: full and {best}, {one.rows:,} test rows"
    return Lead(task, one.difference, one.verdict == "better", words, source)


def _by_range(study: Sequence[Row], task: str) -> Lead | None:
    rows = {name: at_best_rate(_of(study, task, name)) for name in ("lora", "full")}
    if min(map(len, rows.values())) < 2:
        return None
    gap = study_gap(study, task)
    seeds = " and ".join(f"{len(own)} of {SHORT[name]}" for name, own in rows.items())
    source = f"first study, `{task}`: {seeds}, not row by row"
    return Lead(task, gap.points, gap.verdict == "better", f"`{task}`: {gap.words}", source)


def forgetting_of(study: Sequence[Row], tasks: Sequence[str]) -> dict[str, float]:
    """Method, as `SHORT` calls it -> loss gained on general text at equal score, nats a token; the mean over tasks.

    Only tasks on which LoRA and full were measured, and methods that were measured on all of these.
    """
    by_task: list[dict[str, float]] = []
    for task in tasks:
        settings = {name: _of(study, task, name) for name in SHORT}
        settings = {name: rows for name, rows in settings.items() if rows}
        if {"lora", "full"} <= settings.keys():
            _, least = equal_score.at_equal_score(settings)
            by_task.append({SHORT[name]: one.forgetting for name, one in least.items()})
    names = [name for name in SHORT.values() if by_task and all(name in found for found in by_task)]
    return {name: sum(found[name] for found in by_task) / len(by_task) for name in names}


def _of(study: Sequence[Row], task: str, name: str) -> list[Row]:
    return usable((row for row in study if (row["task"], row.get("name")) == (task, name)), "exact_match")
