"""Write data/reference/FINDINGS.md from the rows in its folder: what was found for each claim, how large, how certain.

    .venv/bin/python -m workbench.study.findings

No result in that file is typed by hand. A test fails if the file or a picture is older than the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from workbench.claims.book import stored_sweeps
from workbench.claims.ledger import UNTESTED, claims
from workbench.claims.rules import verdicts
from workbench.paths import CHECKOUT, DATA
from workbench.plots.runs import pareto
from workbench.plots.style import to_png
from workbench.results import reference
from workbench.results.paired import MARGIN
from workbench.results.rows import Row, by_best_rate, grouped
from workbench.study import answers, costs, headlines
from workbench.study.sentences import (
    METHODS,
    VARIANTS,
    at_equal_score,
    at_one_rate,
    at_own_rates,
    by_task,
    difference,
    full_and_best_adapter,
    levels,
    one_step_off,
    rate_ratios,
    recalls,
    spread,
    with_little_room,
)

FINDINGS = DATA / "reference" / "FINDINGS.md"
OPENING = """# Findings

Written by `workbench/study/findings.py` from the rows in this folder; every number below is computed from them. The
model is SmolLM2-135M-Instruct, trained on a CPU. The first page answers ten questions, the rest is the evidence.
"""
ABOUT = f"""## How it was measured

60 steps of 16 rows (`facts`: 120), in float32. The learning rate of each method is swept on seed 0, which is scored on
240 test rows; at the best rate seeds 1 to 3 are trained and scored on all test rows (1,000; `facts`: 96). Only these
three are compared: row by row, with a 95 % interval over rows and seeds. Methods are *on par* if the interval lies
within {MARGIN:g} points, one is *better* if the interval excludes 0, and otherwise it is *undecided*. The interval is
for more rows of the same kind: the rows of `protocol` are made of twelve programs that the training does not hold, and
other programs could tell otherwise.

On tasks that this study has not reached yet the rows are those of a first one (November 2026): 120 test rows, seeds 0
to 2, LoRA of rank 64 in bfloat16. Its differences are means over seeds, lowest and highest seed in brackets, *within
noise* where the bracket holds 0 or where they are below two standard errors of the test rows.

*Exact match*: the share of test rows whose answer is right to the last token. *Forgetting*: what the loss on twelve
pieces of Python's documentation, some 1,500 tokens that no task trains on, has gained by training, in nats a token.
QLoRA's NF4 quantizes the packaged weights a second time: they were stored in 4 bits once (Q4_1). The sweeps on `facts`
are another experiment (75 steps, mostly one seed). `README.md` says what was run, and what else to be careful about.
"""
NAMES = """`lora`, `qlora` (its frozen weights in NF4) and `hybrid` are rank 8, alpha 32, on all linear layers; `auto`
is what `recommend` chooses, its rate included, often the same run as `lora`. The others are LoRA as well: `rslora` is
rank 64 with rsLoRA's scaling; `attention` and `mlp` are adapters on these alone, with about as many parameters as
`lora`; `starved` is rank 1 on one matrix of one block."""
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
  against forgetting; in instruction tuning a high rank closes most of the gap. Compare the lines on
  forgetting, at an equal score and at each method's best rate.
- *LoRA Without Regret* (Schulman and Thinking Machines, 2025): adapters on all layers match full fine-tuning as long as
  they have room for the data and batches are not large, at about ten times full's rate, about fifteen in short runs;
  attention alone does worse than the MLP. Compare the line on no-regret.
- *rsLoRA* (Kalajdzievski, 2023, arXiv 2312.03732): dividing by the root of the rank lets high ranks learn more. Compare
  `rslora` with `lora r=64`, which divides by the rank, on `protocol`.
"""


def main() -> None:
    """Write the file and its pictures, and the findings that the README shows."""
    FINDINGS.write_text(findings(), encoding="utf-8")
    headlines.write_into(CHECKOUT / "README.md")
    for task in complete():
        picture_file(task).write_bytes(picture(task))
    print(FINDINGS.relative_to(DATA.parent))


def complete() -> list[str]:
    """The tasks on which the study has every method."""
    names = {task: {row["name"] for row in rows} for task, rows in by_task().items()}
    return [task for task, found in names.items() if found.issuperset(reference.COMPARED)]


def picture_file(task: str) -> Path:
    """Where the picture of a task is stored."""
    return FINDINGS.with_name(f"gain_and_forgetting_{task}.png")


def picture(task: str) -> bytes:
    """A PNG of every run of the study on one task: exact match and forgetting."""
    rows = reference.compared(task)
    return to_png(pareto({"exact_match": rows[0]["base_exact_match"]}, [], "exact_match", rows))


def findings() -> str:
    """The text of FINDINGS.md."""
    told = by_claim()
    lines = [f"- **{claim}** ({claims()[claim].text}) {told[claim]}" for claim in claims() if claim in told]
    pictures = [
        f"![Exact match on {task} against loss gained on general text, every run]({picture_file(task).name})"
        for task in complete()
    ]
    parts = [
        OPENING,
        f"## Ten answers\n\n{answers.page(reference.paired_rows())}",
        ABOUT,
        f"## On each task\n\n{NAMES}\n\n{task_table()}",
        *pictures,
        f"## Costs, each method alone on `{costs.TASK}`\n\n{costs.cost_table()}",
        "## By claim\n\n" + "\n".join(lines),
        CLOSING,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def by_claim() -> dict[str, str]:
    """Claim -> what the rows say about it."""
    sweeps = verdicts(**stored_sweeps())
    told: dict[str, list[str]] = {}
    study = verdicts(study=reference.study_rows(), paired=reference.paired_rows())
    decided = [one for one in study if one.verdict != UNTESTED]
    for where, found in (("In the study", decided), ("On `facts`, in the sweeps", sweeps)):
        for one in found:
            told.setdefault(one.claim, []).append(f"{where} ({one.verdict}): {one.evidence}")
    for claim, words in chain(scores_by_claim().items(), costs.costs_by_claim().items()):
        told.setdefault(claim, []).append(words)
    return {claim: " ".join(words) for claim, words in told.items()}


def scores_by_claim() -> dict[str, str]:
    """Claim -> sentences on the study's scores, on the tasks where both methods have several seeds."""
    full, gained, forgotten = ("full", "lora", "exact_match"), "exact_match", "forgetting"
    places = (("attention", "lora"), ("mlp", "lora"), ("mlp", "attention"))
    return {
        "update": f"{at_one_rate('protocol')} {with_little_room('protocol')}",
        "rank-alpha": f"{at_own_rates('protocol')} {one_step_off('protocol')}",
        "parity": f"{difference(*full)} LoRA's rate was swept for this, its rank and alpha were not: see ceiling.",
        "scoped": "Classification (`tickets`) and extraction (`orders`). " + difference(*full, "tickets", "orders"),
        "behaviour": "`protocol` is an invented format and way of reasoning. "
        f"{levels('protocol')} {full_and_best_adapter('protocol')}",
        "new-domain": "Hardly tested: codes by heart (`facts`) are new, but neither complex nor a domain. "
        f"{recalls()} {difference(*full, 'facts')}",
        "ceiling": f"{full_and_best_adapter('protocol')} Being the best of several flatters it; of full only the "
        "rate was swept. What full is ahead by may be slowness and no ceiling: a short run cannot tell.",
        "forgetting": f"{at_equal_score()} Each at its best rate instead, which is the one that scores highest however "
        f"much it forgets: {difference('full', 'lora', forgotten)}",
        "no-regret": f"{rate_ratios()} For the scores at these rates see parity. With about as many parameters, each "
        f"at its own best rate: {' '.join(difference(*pair, gained) for pair in places)} "
        f"{difference('rslora', 'lora r=64', gained)}",
        "hybrid": f"{difference('hybrid', 'lora', gained)} {difference('full', 'hybrid', gained)} "
        f"{difference('hybrid', 'lora', forgotten)} {HYBRID_RATE}",
        "qlora": f"{difference('qlora', 'lora', gained)} {difference('qlora', 'lora', forgotten)} QLoRA's is counted "
        "from its own 4-bit base; what 4 bits cost before any training is lesson 03's.",
    }


def task_table() -> str:
    """A Markdown table of every setting on every task, at its best rate."""
    head = "| task | setting | best rate | rates tried | exact match | forgetting | seeds, by precision |"
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- |"]
    for task, rows in by_task().items():
        lines.append(f"| {task} | base | | | {rows[0]['base_exact_match']:.0%} | | |")
        at_best = by_best_rate(rows, "name")
        for name in (name for name in (*METHODS, *VARIANTS) if name in at_best):
            own = at_best[name]
            lines.append(
                f"| {task} | {name} | {own[0]['learning_rate']:g} | {rates_tried(task, name)} "
                f"| {spread(own, 'exact_match', '{:.0%}')} | {spread(own, 'forgetting', '{:+.2f}')} "
                f"| {seeds_in_words(own)} |"
            )
    return "\n".join(lines)


def rates_tried(task: str, name: str) -> str:
    """How many rates were tried, and the lowest and highest, diverged ones included: "4, 0.0005 to 0.004"."""
    rates = {row["learning_rate"] for row in reference.study_rows(name) if row["task"] == task}
    return f"{len(rates)}, {min(rates):g} to {max(rates):g}" if len(rates) > 1 else "as chosen"


def seeds_in_words(rows: Sequence[Row]) -> str:
    """The seeds by precision: "0 bfloat16; 1, 2 float32"."""
    precisions = grouped(sorted(rows, key=lambda row: row["seed"]), lambda row: row["precision"])
    return "; ".join(f"{', '.join(str(row['seed']) for row in own)} {name}" for name, own in precisions.items())


if __name__ == "__main__":
    main()
