"""Write data/reference/FINDINGS.md from the rows beside it: what was found for each claim, how large, how certain.

    .venv/bin/python benchmarks/findings.py

No result in that file is typed by hand. A test fails when file or picture is older than the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from math import hypot
from pathlib import Path
from statistics import mean

import costs
import study

from workbench import reference
from workbench.claims import claims, two_standard_errors
from workbench.plots import to_png
from workbench.plots_runs import pareto
from workbench.rank_claims import best_by, judge_ranks
from workbench.sweep_rows import at_best_rate, grouped, mean_of, usable
from workbench.tasks import DATA_DIR

FINDINGS = DATA_DIR / "reference" / "FINDINGS.md"
SETTINGS = ("full", "hybrid", "lora", "lora r=64", "auto", "qlora")  # of the study, in the table's order
OPENING = """# Findings

Written by `benchmarks/findings.py` from the rows in this folder; every number below is computed from them.
SmolLM2-135M-Instruct on a CPU, 60 steps of 16 rows (`facts`: 120), each method at its best rate of those tried: the
best on seed 0 (of equals, the one of lower loss), or by the mean where another rate has as many seeds (LoRA on
`tickets`, which so has two chances). A range is of three seeds. The packaged weights were stored in 4 bits once
(Q4_1): QLoRA's NF4 quantizes them a second time. No prompt names labels or format, so a base's 0 % says little. The
sweeps on `facts` are another experiment (75 steps; full has one seed). `README.md` says what was run, and what else to
be careful about.

*Exact match*: the share of test rows whose answer is right to the last token. *Forgetting*: what the loss on twelve
pieces of Python's documentation, some 1,500 tokens that no task trains on, has gained by training, in nats a token.

A difference is the mean over seeds of the paired difference, with the lowest and highest seed in brackets. In exact
match it is *within noise* where the bracket holds 0, or where it is below two standard errors of the test rows (the
share behind it), which are taken as independent though both methods have the same: that is cautious. *All seeds
agree* is weak by itself: three do by chance one time in four. Seed 0 chose the rate and is in the mean, which flatters
a method with more rates.
"""
NAMES = """`lora`, `qlora` (its frozen weights in NF4) and `hybrid` are rank 8, alpha 32; `auto` is what `recommend`
chooses, its rate included, often the same run as `lora`."""
HYBRID_RATE = (
    "Its opened MLP trains at the adapters' rate, several times that at which full does best; a rate of its own was "
    "not tried, so the forgetting may be that choice's and not the method's."
)
CLOSING = """## What a model of 135M parameters on a CPU cannot say

- What LoRA saves at 1B and more, where weights and optimizer states are nearly all of the memory: that is lesson 04's.
- Whether a larger model, with more to lose and more room, forgets as much or as little.
- Anything about time on a GPU.
- Whether some architectures gain more than others (`architectures`): one pretrained model ships with the course, and an
  untrained one has nothing to adapt. Their memory can be compared: that is lesson 04's.
- Whether LoRA meets a ceiling, or only learns more slowly where it is behind: every run is a short one.

## Beside it: what others published

- *QLoRA* (Dettmers et al., 2023, arXiv 2305.14314): NF4 with adapters matches 16-bit fine-tuning on their benchmarks.
- *LoRA Learns Less and Forgets Less* (Biderman et al., 2024, arXiv 2405.09673): on code and mathematics at 7B, LoRA of
  the usual low ranks learns less than full fine-tuning and forgets less, and both lie on about one curve of learning
  against forgetting; in instruction tuning a high rank closes most of the gap. Compare the lines on forgetting: here
  adapters need high rates to get there in so few steps, and forget more than full at an equal score.
- *LoRA Without Regret* (Schulman and Thinking Machines, 2025): adapters on all layers match full fine-tuning as long as
  they have room for the data and batches are not large, at about ten times full's rate, about fifteen in short runs;
  attention alone does worse than the MLP. Compare the line on no-regret, and the targets in lesson 05.
- *rsLoRA* (Kalajdzievski, 2023, arXiv 2312.03732): dividing by the root of the rank lets high ranks learn more. Every
  run here divides by the rank itself, which holds high ranks back if their rate is not raised.
"""


def main() -> None:
    FINDINGS.write_text(findings(), encoding="utf-8")
    for task in complete():
        picture_file(task).write_bytes(picture(task))
    print(FINDINGS.relative_to(DATA_DIR.parent))


def complete() -> list[str]:
    """The tasks on which the study has every method."""
    names = {task: {row["name"] for row in rows} for task, rows in by_task().items()}
    return [task for task, found in names.items() if found.issuperset(reference.COMPARED)]


def picture_file(task: str) -> Path:
    return FINDINGS.with_name(f"gain_and_forgetting_{task}.png")


def picture(task: str) -> bytes:
    """Every run of the study on one task: what it won and what it forgot."""
    rows = reference.compared(task)
    return to_png(pareto({"exact_match": rows[0]["base_exact_match"]}, [], "exact_match", rows))


def findings() -> str:
    """The whole file."""
    told = by_claim()
    lines = [f"- **{claim}** ({claims()[claim].text}) {told[claim]}" for claim in claims() if claim in told]
    pictures = [
        f"![Exact match on {task} against loss gained on general text, every run]({picture_file(task).name})"
        for task in complete()
    ]
    parts = [
        OPENING,
        f"## On each task\n\n{NAMES}\n\n{task_table()}",
        *pictures,
        f"## Costs, each method alone on `{costs.TASK}`\n\n{costs.cost_table()}",
        "## By claim\n\n" + "\n".join(lines),
        CLOSING,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def by_claim() -> dict[str, str]:
    """Claim -> what the rows say of it."""
    rows = reference.stored_sweeps
    few = [row for row in rows("few") if row["targets"] == "down_proj"]  # on one matrix of one block
    verdicts = judge_ranks(rows("rate", "seeds"), few, rows("alpha"), rows("full"), reference.study_rows())
    told = {}
    for found in verdicts:
        where = "On all tasks" if found.claim == "auto" else "On `facts`, in the sweeps"
        told[found.claim] = f"{where} ({found.verdict}): {found.evidence}"
    for claim, words in chain(scores_by_claim().items(), costs.costs_by_claim().items()):
        told[claim] = f"{told[claim]} {words}" if claim in told else words
    return told


def scores_by_claim() -> dict[str, str]:
    """What the study's scores say, on the tasks where both methods have several seeds."""
    full, gained, forgotten = ("full", "lora", "exact_match"), "exact_match", "forgetting"
    return {
        "parity": difference(*full),
        "scoped": "Classification (`tickets`) and extraction (`orders`). " + difference(*full, "tickets", "orders"),
        "behaviour": "`protocol` is an invented format and way of reasoning. "
        f"{levels('protocol')} {difference(*full, 'protocol')}",
        "new-domain": "Hardly tested: codes by heart (`facts`) are new, but neither complex nor a domain. "
        f"{recalls()} {difference(*full, 'facts')}",
        "ceiling": "For `protocol` see parity; whether it is a ceiling or slowness, a short run cannot tell.",
        "forgetting": f"{at_equal_score()} Each at its best rate instead, which is the one that scores highest however "
        f"much it forgets: {difference('full', 'lora', forgotten)}",
        "no-regret": f"{rate_ratios()} For the scores at these rates see parity.",
        "hybrid": f"{difference('hybrid', 'lora', gained)} {difference('full', 'hybrid', gained)} "
        f"{difference('hybrid', 'lora', forgotten)} {HYBRID_RATE}",
        "qlora": f"{difference('qlora', 'lora', gained)} {difference('qlora', 'lora', forgotten)} QLoRA's is counted "
        "from its own 4-bit base; what 4 bits cost before any training is lesson 03's.",
    }


def difference(first: str, second: str, measure: str, *tasks: str) -> str:
    """By how much the first method is above the second on the named tasks, or on all that have both."""
    unit = {"exact_match": "in exact match", "forgetting": "in loss gained on general text, nats a token"}[measure]
    found = []
    for task, rows in by_task().items():
        if all(len(at_best(rows, name)) > 1 for name in (first, second)) and task in (tasks or by_task()):
            found.append(f"`{task}` {paired(rows, measure, first, second)}")
        elif task in tasks:
            found.append(f"`{task}` not measured")
    sentence = f"{spoken(first)} less {spoken(second)} {unit}: {'; '.join(found)}."
    return sentence[0].upper() + sentence[1:]


def levels(task: str) -> str:
    """The scores themselves: a difference does not say whether anything was learnt."""
    rows = by_task()[task]
    told = (f"{spoken(name)} {spread(at_best(rows, name), 'exact_match', '{:.0%}')}" for name in ("lora", "full"))
    return f"From {rows[0]['base_exact_match']:.0%} to: {', '.join(told)}."


def at_equal_score() -> str:
    """How often full does at least as well as a run with adapters and forgets less, all on seed 0."""
    found = []
    for task, rows in by_task().items():
        first = [row for row in rows if row["seed"] == 0]
        full = [row for row in first if row["name"] == "full"]
        adapted = [row for row in first if row["name"] in ("lora", "qlora", "hybrid")]
        bettered = [row for row in adapted if any(betters(other, row) for other in full)]
        found += [f"`{task}` {len(bettered)} of {len(adapted)}"] if full else []
    return (
        "At equal score, on seed 0: runs of LoRA, QLoRA and hybrid, at whichever rate, that some run of full matches "
        f"or beats in exact match while forgetting less: {'; '.join(found)}."
    )


def betters(full: Mapping, adapted: Mapping) -> bool:
    return full["exact_match"] >= adapted["exact_match"] and full["forgetting"] < adapted["forgetting"]


def rate_ratios() -> str:
    """The best rate of LoRA over that of full, and over the rates that one seed cannot tell from the best."""
    found = []
    for task, rows in by_task().items():
        best = {name: at_best(rows, name) for name in ("lora", "full")}
        if all(len(own) > 1 for own in best.values()):
            ratio = best["lora"][0]["learning_rate"] / best["full"][0]["learning_rate"]
            alike = [rates_alike(rows, name) for name in ("lora", "full")]
            low, high = min(alike[0]) / max(alike[1]), max(alike[0]) / min(alike[1])
            found.append(f"`{task}` {ratio:g} ({low:g} to {high:g} over rates that seed 0 cannot tell from the best)")
    return f"LoRA's best rate over full's: {'; '.join(found)}."


def rates_alike(rows: Sequence[Mapping], name: str) -> list[float]:
    """The rates whose first seed is within two standard errors of the best one's."""
    first = [row for row in rows if row["name"] == name and row["seed"] == 0]
    top = max(row["exact_match"] for row in first)
    return [
        row["learning_rate"] for row in first if top - row["exact_match"] <= sampling(rows, top, row["exact_match"])
    ]


def sampling(rows: Sequence[Mapping], *shares: float) -> float:
    """Two standard errors of the difference of two shares of the test rows that the study scored."""
    count = rows_scored(rows[0]["task"])
    return hypot(*(two_standard_errors(share, count) for share in shares))


@cache
def rows_scored(task_name: str) -> int:
    task, config = study.task_and_config(task_name)
    return min(config.test_limit or len(task.test), len(task.test))


def recalls() -> str:
    """What full and the best rank of LoRA recall in the sweeps."""
    full = mean_of(at_best_rate(reference.stored_sweeps("full")), "exact_match")
    lora = max(best_by(reference.stored_sweeps("rate", "seeds"), "rank").values())
    return f"In the sweeps full recalls {full:.0%}, the best rank of LoRA {lora:.0%}."


def spoken(name: str) -> str:
    return {"lora": "LoRA", "qlora": "QLoRA"}.get(name, name)


def by_task() -> dict[str, list[dict]]:
    return grouped(usable(reference.study_rows(*SETTINGS), "exact_match"), lambda row: row["task"])


def at_best(rows: Sequence[Mapping], name: str) -> list[Mapping]:
    """The rows of one method at its best rate, or none."""
    return at_best_rate([row for row in rows if row["name"] == name])


def paired(rows: Sequence[Mapping], measure: str, first: str, second: str) -> str:
    """The difference of two methods, each at its best rate, seed by seed, and whether it counts."""
    a, b = ({row["seed"]: row[measure] for row in at_best(rows, name)} for name in (first, second))
    gaps = [a[seed] - b[seed] for seed in sorted(a) if seed in b]
    form, agree = "{:+.2f}", "all seeds agree" if min(gaps) > 0 or max(gaps) < 0 else "within noise"
    if measure == "exact_match":
        error = sampling(rows, mean(a.values()), mean(b.values()))
        clear = agree != "within noise" and abs(mean(gaps)) >= error
        form, agree = "{:+.1%}", f"{'beyond' if clear else 'within'} noise ({error:.0%})"
    told = (form.format(value) for value in (mean(gaps), min(gaps), max(gaps)))
    return "{} ({} to {}), {}".format(*told, agree)


def task_table() -> str:
    head = "| task | setting | best rate | rates tried | exact match | forgetting | seeds, by precision |"
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- |"]
    for task, rows in by_task().items():
        lines.append(f"| {task} | base | | | {rows[0]['base_exact_match']:.0%} | | |")
        for name in (name for name in SETTINGS if at_best(rows, name)):
            own = at_best(rows, name)
            lines.append(
                f"| {task} | {name} | {own[0]['learning_rate']:g} | {rates_tried(task, name)} "
                f"| {spread(own, 'exact_match', '{:.0%}')} | {spread(own, 'forgetting', '{:+.2f}')} "
                f"| {seeds_in_words(own)} |"
            )
    return "\n".join(lines)


def rates_tried(task: str, name: str) -> str:
    """How many rates, from which to which, diverged ones among them: "4, 0.0005 to 0.004"."""
    rates = {row["learning_rate"] for row in reference.study_rows(name) if row["task"] == task}
    return f"{len(rates)}, {min(rates):g} to {max(rates):g}" if len(rates) > 1 else "as chosen"


def seeds_in_words(rows: Sequence[Mapping]) -> str:
    """Which seeds in which precision: "0 bfloat16; 1, 2 float32"."""
    precisions = grouped(sorted(rows, key=lambda row: row["seed"]), lambda row: row["precision"])
    return "; ".join(f"{', '.join(str(row['seed']) for row in own)} {name}" for name, own in precisions.items())


def spread(rows: Sequence[Mapping], measure: str, form: str) -> str:
    values = [row[measure] for row in rows]
    low, middle, high = (form.format(value) for value in (min(values), mean(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


if __name__ == "__main__":
    main()
