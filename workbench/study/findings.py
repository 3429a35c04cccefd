"""Write data/reference/FINDINGS.md from the rows in its folder: what was found for each claim, how large, how certain.

    .venv/bin/python -m workbench.study.findings

No result in that file is typed by hand. A test fails if the file or a picture is older than the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.claims.book import stored_sweeps
from workbench.claims.ledger import UNTESTED, claims
from workbench.claims.retrieval import in_words
from workbench.claims.rules import verdicts
from workbench.claims.study import LENGTHS, compared, comparisons
from workbench.paths import CHECKOUT, DATA
from workbench.plots.runs import pareto
from workbench.plots.style import to_png
from workbench.results import reference
from workbench.results.paired import MARGIN, Comparison
from workbench.results.rows import Row, grouped, mean_and_range, of_setting, swept_rate
from workbench.retrieval.rows import BASE, FULL, at_chosen_rate, compare, names, retrieval_rows
from workbench.study import answers, costs, headlines
from workbench.study.headlines import at_best, by_task

FINDINGS = DATA / "reference" / "FINDINGS.md"
OPENING = """# Findings

Written by `workbench/study/findings.py` from the rows in this folder; every number below is computed from them. The
model is SmolLM2-135M-Instruct, trained on a CPU. The first page answers questions, the rest is the evidence.
"""
ABOUT = f"""## How it was measured

60 steps of 16 rows (`facts`: 120), in float32. The learning rate of each method is swept on seed 0, which is scored on
240 test rows; at the best rate seeds 1 to 3 (and further ones where three differ too much) are trained and scored on
all test rows (1,000; `facts`: 96). Only these are compared: row by row, with a 95 % interval over rows and seeds.
Methods are *on par* if the interval lies within {MARGIN:g} points, one is *better* if the interval excludes 0, and
otherwise it is *undecided*. The interval is for more rows of the same kind: the rows of `protocol` are made of twelve
programs that the training does not hold, and other programs might give another result. Each interval is taken by
itself: of twenty comparisons without a true difference one is expected to show one. The best setting of LoRA is the one
that scores best on seed 0.

Tasks and settings that this study has not reached yet are those of a first one (November 2026): 120 test rows, seeds 0
to 2, some of LoRA of rank 64 in bfloat16. It did not store which rows were right, so nothing there is compared row by
row; two of its scores that are less than ten points apart may be the same.

*Exact match*: the share of test rows whose answer is right to the last token. *Forgetting*: by how much training raised
the loss on twelve pieces of Python's documentation, some 1,500 tokens that no task trains on, in nats a token.
QLoRA's NF4 quantizes the packaged weights a second time: they were stored in 4 bits once (Q4_1). The sweeps on `facts`
are another experiment (75 steps, mostly one seed). `README.md` says what was run, and what else to be careful about.
"""
NAMES = """`lora`, `qlora` (its frozen weights in NF4) and `hybrid` are rank 8, alpha 32, on all linear layers. The
hybrid also trains the last block's MLP in full, whose rate is shown; its adapters train at LoRA's best. (In
the first study both trained at one rate.) `auto` is what `recommend` chooses without trying, its rate included, often
the same run as `lora`. In brackets: the lowest and the highest seed."""
SETTINGS = """All are LoRA: `rslora` is rank 64 with rsLoRA's scaling; `attention` and `mlp` are adapters on these
alone, with about as many parameters as `lora`; `starved` is rank 1 on one matrix of one block."""
LONGER = """`lora` and `full` again, for more steps, each at a rate swept for that length, and compared with LoRA of
the same length."""
METHODS = ("full", "hybrid", "lora", "qlora", "auto")
OF_LORA = ("lora", "lora r=64", "rslora", "alpha=8", "alpha=128", "attention", "mlp", "starved")
OF_LONGER = tuple(f"{name}{end}" for end in LENGTHS.values() for name in ("lora", "full"))
VARIED = "protocol"  # the task on which they were tried
CLOSING = """## What a model of 135M parameters on a CPU cannot say

- What LoRA saves at 1B and more, where weights and optimizer states are nearly all of the memory: that is lesson 04's.
- Whether a larger model, with more to lose and more room, forgets as much or as little.
- Anything about time on a GPU.
- Whether some architectures gain more than others (`architectures`): one pretrained model ships with the course, and an
  untrained one has nothing to adapt. Their memory can be compared: that is lesson 04's.
- Whether LoRA meets a ceiling on tasks that take many more steps to learn.

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
SEARCH = """
The encoder all-MiniLM-L6-v2 tuned on 1,280 rows of documentation, scored on 1,200 queries over 3,000 documents of other
modules. Each rate is chosen on seed 0 and other queries; seeds 1 to 3 are compared, with 95 % intervals over queries
and seeds. `hybrid` also trains the MLP of the last block in full, at the rate shown. *Other text kept* is the rank
correlation of the similarities of 300 customer messages with the base's.
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
    rows_of = by_task(reference.study_rows(needed=reference.COMPARED))
    names = {task: {row["name"] for row in rows} for task, rows in rows_of.items()}
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
    measured = table(reference.study_rows(), METHODS)
    parts = [
        OPENING,
        f"## Answers\n\n{answers.page(reference.paired_rows())}",
        *headlines.seeds_missing(),
        ABOUT,
        f"## On each task\n\n{NAMES}\n\n{measured}",
        *pictures,
        f"## Settings of LoRA\n\n{SETTINGS}\n\n{table(of_lora(), OF_LORA)}",
        f"## Longer training\n\n{LONGER}\n\n{table(of_longer(), OF_LONGER)}",
        f"## Search with an encoder\n{SEARCH}\n{search_table()}",
        f"## Costs, each method alone on `{costs.TASK}`\n\n{costs.cost_table()}",
        "## By claim\n\n" + "\n".join(lines),
        CLOSING,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def of_lora() -> list[Row]:
    """The rows of each of these settings on VARIED: of the study where it can be compared, else of the first one."""
    study = reference.paired_rows()
    done = [name for name in OF_LORA if compared(study, VARIED, name)]
    rows = [row for row in study if row["name"] in done]
    rows += [row for row in reference.study_rows(*OF_LORA, needed=OF_LORA) if row["name"] not in done]
    return [row for row in rows if row["task"] == VARIED]


def of_longer() -> list[Row]:
    """The rows of the tasks on which longer runs were trained."""
    study = reference.paired_rows()
    trained = {row["task"] for row in study if row["name"] in OF_LONGER and row["name"] not in METHODS}
    return [row for row in study if row["task"] in trained]


def by_claim() -> dict[str, str]:
    """Claim -> what the rows say about it."""
    varied = reference.study_rows(needed=reference.RANKS_AND_ALPHAS)
    told: dict[str, list[str]] = {}
    for where, found in (
        ("In the study", verdicts(study=varied, paired=reference.paired_rows())),
        ("On `facts`, in the sweeps", verdicts(**stored_sweeps())),
        ("In search", verdicts(searches=retrieval_rows())),
    ):
        for one in found:
            verdict = "no verdict" if one.verdict == UNTESTED else one.verdict
            told.setdefault(one.claim, []).append(f"{where} ({verdict}): {one.evidence}")
    for claim, words in costs.costs_by_claim().items():
        told.setdefault(claim, []).append(words)
    return {claim: " ".join(words) for claim, words in told.items()}


def table(study: Sequence[Row], names: Sequence[str]) -> str:
    """A Markdown table of these settings on every task, at their best rates; the first study's rows say so.

    Each is compared with LoRA of rank 8, alpha 32, trained for as many steps.
    """
    head = "| task | setting | best rate | rates tried | exact match | minus LoRA, points | forgetting | seeds |"
    lines = [head, "| --- " * 8 + "|"]
    for task, rows in by_task(study).items():
        lines.append(f"| {task} | base | | | {rows[0]['base_exact_match']:.0%} | | | |")
        for name in names:
            if not (own := at_best(rows, task, name)):
                continue
            rival = next((f"lora{end}" for end in LENGTHS.values() if end and name.endswith(end)), "lora")
            found = comparisons(rows, name, rival, [task]) if name != rival else {}
            lines.append(
                f"| {task} | {name} | {rate_in_words(study, own[0])} | {rates_tried(study, task, name)} "
                f"| {spread(own, 'exact_match', '{:.0%}')} | {interval(found[task]) if found else ''} "
                f"| {spread(own, 'forgetting', '{:+.2f}')} | {seeds_in_words(own)} |"
            )
    return "\n".join(lines)


def search_table() -> str:
    """A Markdown table of the settings of lesson 09's study, each at its best rate."""
    rows = retrieval_rows()
    known = names(rows)

    def minus(name: str, other: str) -> str:
        return in_words(compare(rows, name, other)) if name not in (BASE, other) and other in known else ""

    lines = ["| setting | rate | NDCG@10 | minus base | minus full | other text kept |", "| --- " * 6 + "|"]
    for name in known:
        own = at_chosen_rate(rows, name)
        rate = f"{own[0]['rate']:g}" if name != BASE else ""
        lines.append(
            f"| {name} | {rate} | {spread(own, 'ndcg', '{:.3f}')} | {minus(name, BASE)} | {minus(name, FULL)} "
            f"| {spread(own, 'kept', '{:.3f}')} |"
        )
    return "\n".join(lines)


def rate_in_words(study: Sequence[Row], row: Row) -> str:
    """The best rate, and whether it is an end of those tried, so that a further one might be better."""
    rate, rates = swept_rate(row), all_rates(study, row["task"], row["name"])
    end = "lowest" if rate == min(rates) else "highest" if rate == max(rates) else ""
    return f"{rate:g} ({end} tried)" if end and len(rates) > 1 else f"{rate:g}"


def rates_tried(study: Sequence[Row], task: str, name: str) -> str:
    """How many rates were tried, and the lowest and highest, diverged ones included: "4, 0.0005 to 0.004"."""
    rates = all_rates(study, task, name)
    return f"{len(rates)}, {min(rates):g} to {max(rates):g}" if len(rates) > 1 else "as chosen"


def all_rates(study: Sequence[Row], task: str, name: str) -> set[float]:
    """Every rate at which a setting was trained on a task."""
    return {swept_rate(row) for row in of_setting(study, task, name)}


def spread(rows: Sequence[Row], measure: str, form: str) -> str:
    """The mean of a measure over seeds, with the lowest and the highest."""
    return mean_and_range([row[measure] for row in rows], form)


def interval(found: Comparison) -> str:
    """A difference with its 95 % interval and verdict: "+2.9 (-1.1 to +6.8), undecided"."""
    return f"{found.numbers}, {found.verdict}"


def seeds_in_words(rows: Sequence[Row]) -> str:
    """The seeds by precision, and whether they are the first study's: "0 bfloat16; 1, 2 float32 (first study)"."""
    precisions = grouped(sorted(rows, key=lambda row: row["seed"]), lambda row: row["precision"])
    told = "; ".join(f"{', '.join(str(row['seed']) for row in own)} {name}" for name, own in precisions.items())
    return f"{told} (first study)" if rows[0].get("first_study") else told


if __name__ == "__main__":
    main()
