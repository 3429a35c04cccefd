"""A few findings for the README, each with its numbers, computed from the reference study and the predictions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from workbench.claims.study import at_equal_score, compared, comparisons, full_against_best, of_choosing_seed
from workbench.commentary.fits_my_gpu import METHODS, need, needs, smallest
from workbench.cost.grid import FULL_BF16
from workbench.cost.roofline import SHARED, WHOLE
from workbench.memory.setup import SetupFields
from workbench.results import reference
from workbench.results.rows import Row, at_best_rate, grouped, mean_of, usable
from workbench.serving.fleet import Fleet
from workbench.study.answers import PARITY, answers
from workbench.study.plan import MORE_SEEDS
from workbench.study.settings import COMPARING

BLOCK = re.compile(r"(?<=<!-- findings -->\n).*?(?=<!-- end of findings -->)", re.DOTALL)
SHARED_WITH_FINDINGS = (
    "Does LoRA cost an encoder search quality (lesson 09)?",
    "Does LoRA catch up when it trains longer?",
    "Does LoRA forget less?",
    "How much larger is LoRA's best learning rate?",
)
SIZE, TOKENS = "8B", 1024  # of the prediction
FLEET = Fleet(20, "llama-3.1-8b", 16, "L4")


def headlines() -> str:
    """The findings as a Markdown list."""
    study = reference.paired_rows()
    answered = dict(answers(study))
    told = [f"**{question}** {answered[question]}" for question in SHARED_WITH_FINDINGS]
    found = (_scores(answered[PARITY]), *told, _memory(), _serving(), _decision(study))
    return "".join(f"- {one}\n" for one in found)


def write_into(document: Path) -> None:
    """Put the findings between the two marks of a Markdown file."""
    document.write_text(BLOCK.sub(lambda _: headlines(), document.read_text(encoding="utf-8")), encoding="utf-8")


def _scores(decided: str) -> str:
    """What both methods score. decided: on which tasks that tells them apart, as the study answers it."""
    told, methods = [], ("lora", "full")
    for task, rows in by_task(reference.study_rows()).items():
        if reference.have_seeds(rows, methods):
            lora, full = (mean_of(at_best(rows, task, name), "exact_match") for name in methods)
            source = " (first study)" if rows[0].get("first_study") else ""
            told.append(f"{lora:.0%} and {full:.0%} on `{task}`{source}")
    scored = f"**Is LoRA as good?** Right answers of LoRA and of full: {', '.join(told)}."
    return " ".join([scored, decided, *seeds_missing()])


def _decision(study: Sequence[Row]) -> str:
    """What follows for the choice of a method: what a wrong rate, 4 bits, and doing without full cost, in points."""
    told = "Prompting if its score is enough; else LoRA on all linear layers, its learning rate swept first"
    if off := {task: lost for task in by_task(study) if (lost := _off_the_best_rate(study, task)) is not None}:
        task = max(off, key=lambda task: off[task])
        told += f": twice or half the best rate cost up to {off[task]:.0f} points on `{task}`"
    told += ". QLoRA where LoRA does not fit"
    if quantized := comparisons(study, "qlora", "lora").values():
        behind = [-one.difference for one in quantized]
        told += f": it scored {min(behind):.1f} to {max(behind):.1f} points less here"
        told += ", which may be luck" if all(one.verdict == "undecided" for one in quantized) else ""
    against = {task: full_against_best(study, task)[1] for task in comparisons(study, "full", "lora")}
    ahead = [f"{one.difference:.1f} points on `{task}`" for task, one in against.items() if one.verdict == "better"]
    lead = f"by {', '.join(ahead)}" if ahead else "it is ahead of the best setting of LoRA on no task"
    told += f". Full where it fits and is better: here {lead}"
    if equal := [at_equal_score(study, task) for task in against]:
        less = sum(full.forgetting < lora.forgetting for _, lora, full in equal)
        told += f"; or where little may be forgotten: it forgot less at equal score on {less} of {len(equal)} tasks"
    return f"**Which one should I use?** {told}. Lesson 10 decides on your own rows."


def _off_the_best_rate(study: Sequence[Row], task: str) -> float | None:
    """Points that LoRA loses at the worse of half and twice its best rate, on the seed that chose the rate.

    None if neither was tried.
    """
    scores = {row["learning_rate"]: row["exact_match"] for row in of_choosing_seed(study, task, "lora")}
    if not scores:
        return None
    best = max(scores, key=lambda rate: scores[rate])
    worse = [scores[rate] for rate in (best / 2, best * 2) if rate in scores]
    return 100 * (scores[best] - min(worse)) if worse else None


def seeds_missing() -> list[str]:
    """A warning for each task whose further seeds are still coming in, and whose comparison is looked at before."""
    planned, rows = len(COMPARING) + len(MORE_SEEDS), reference.paired_rows()
    told = []
    for task in by_task(rows):
        lora, full = (len(compared(rows, task, name)) for name in ("lora", "full"))
        if max(lora, full) > len(COMPARING) and min(lora, full) < planned:
            told.append(
                f"**Preliminary:** on `{task}` LoRA has {lora} and full {full} of {planned} planned seeds. "
                "Whoever looks while seeds come in finds differences too easily."
            )
    return told


def by_task(study: Sequence[Row]) -> dict[str, list[Row]]:
    """Task -> its scored rows."""
    return grouped(usable(study, "exact_match"), lambda row: row["task"])


def at_best(rows: Sequence[Row], task: str, name: str) -> list[Row]:
    """A setting's rows of a task at its best rate: those that are compared, or, of the first study, all."""
    return compared(rows, task, name) or at_best_rate([row for row in rows if row["name"] == name])


def _memory() -> str:
    found = needs(1, TOKENS)[SIZE]
    shape: SetupFields = {"batch_size": 1, "sequence_length": TOKENS, "checkpointing": True}
    needed = {name: found[name].total_bytes for name in METHODS}
    needed["full with float32 weights"] = needed.pop("full")
    needed["full in bfloat16"] = need(SIZE, FULL_BF16, shape).total_bytes
    told = ", ".join(f"{name} {total / 1e9:.0f} GB ({smallest(total)})" for name, total in needed.items())
    return f"**What fits my GPU?** Predicted for a model of {SIZE}, one row of {TOKENS:,} tokens: {told}."


def _serving() -> str:
    ways = FLEET.services
    return (
        f"**What do adapters make cheap?** Many tasks: {FLEET.tasks} fine-tuned versions of {FLEET.model} take "
        f"{ways[SHARED].gpus} {FLEET.gpu} GPUs as adapters on one base, and {ways[WHOLE].gpus} as whole models."
    )
