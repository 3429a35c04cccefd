"""Write data/reference/FINDINGS.md from the rows beside it: what was found for each claim, how large, how certain.

    .venv/bin/python benchmarks/findings.py

No result in that file is typed by hand. A test fails when file or picture is older than the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import hypot
from statistics import mean

from workbench import reference
from workbench.claims import claims, two_standard_errors
from workbench.plots import to_png
from workbench.plots_runs import pareto
from workbench.rank_claims import judge_ranks
from workbench.sweep_rows import grouped
from workbench.tasks import DATA_DIR

FINDINGS, PICTURE = (DATA_DIR / "reference" / name for name in ("FINDINGS.md", "gain_and_forgetting.png"))
TASK = "tickets"  # on which the pilot ran every method
TEST_ROWS = 120  # that the pilot scored
FLOAT32_MB = 4 / 1e6
OPENING = """# Findings

Written by `benchmarks/findings.py` from the rows in this folder; every number below is computed from them. SmolLM2-135M
on a CPU, each method at its best rate of those tried, chosen on seed 0; a range is of three seeds. A difference is the
mean over seeds of the paired difference, with the lowest and highest seed in brackets. It is *within noise* where the
bracket holds 0 or, for exact match, where two standard errors of the test rows are more. In the pilot all best rates
but that of full are the highest that were tried: a better one may lie above. `README.md` says what was run, and what
else to be careful about.

What the study does not have yet is named below the claims; until then the pilot speaks for all methods but LoRA.
"""
CLOSING = """## What a model of 135M parameters on a CPU cannot say

- What LoRA saves at 1B and more, where weights and optimizer states are nearly all of the memory: that is lesson 04's.
- Whether a larger model, with more to lose and more room, forgets as much or as little.
- Anything about time on a GPU. Step times here are of a busy machine and are left out on purpose.
- Whether LoRA meets a ceiling, or only learns more slowly where it is behind: every run is a short one.

## Beside it: what others published

- *QLoRA* (Dettmers et al., 2023, arXiv 2305.14314): NF4 with adapters matches 16-bit fine-tuning on their benchmarks.
- *LoRA Learns Less and Forgets Less* (Biderman et al., 2024, arXiv 2405.09673): on code and mathematics at 7B, LoRA
  learns less than full fine-tuning and forgets less. Compare the line on forgetting above; there each method has its
  own best rate for the task, and nothing holds it back elsewhere.
- *LoRA Without Regret* (Schulman and Thinking Machines, 2025): adapters on all layers and about ten times full's rate
  match full fine-tuning on data of the size of a fine-tuning set. Compare the line on no-regret.
"""


def main() -> None:
    FINDINGS.write_text(findings(), encoding="utf-8")
    PICTURE.write_bytes(picture())
    print(FINDINGS.relative_to(DATA_DIR.parent))


def picture() -> bytes:
    """Every run of the pilot: what it won and what it forgot."""
    pilot = reference.pilot(TASK)
    return to_png(pareto({"exact_match": pilot[0]["base_exact_match"]}, [], "exact_match", pilot))


def findings() -> str:
    """The whole file."""
    told, pilot = by_claim(), reference.pilot(TASK)
    studied = reference.study_rows("lora", "lora r=64", "auto", "full")
    lines = [f"- **{claim}** ({claims()[claim].text}) {words}" for claim, words in told.items()]
    missing = [claim for claim in claims() if claim in TRAINED and claim not in told]
    parts = [
        OPENING,
        f"## Every method on `{TASK}` (the pilot; LoRA of rank 8, alpha 16)\n\n{method_table(pilot)}",
        f"Each rate, seed 0:\n\n{rate_table(pilot)}",
        f"![Exact match against loss gained on general text, every run of the pilot]({PICTURE.name})",
        f"## On each task (the study; alpha 32, `lora` is rank 8)\n\n{task_table(studied)}",
        "## By claim\n\n" + "\n".join(lines),
        f"Not measured yet: {', '.join(missing)}.",
        CLOSING,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


# The claims that training can test on a model of this size.
TRAINED = (
    *("parity", "ceiling", "no-regret", "rank-alpha", "update", "auto", "behaviour", "scoped", "small-models"),
    *("forgetting", "hybrid", "qlora", "speed", "memory-ratio", "artifact", "new-domain", "architectures"),
)


def by_claim() -> dict[str, str]:
    pilot = reference.pilot(TASK)
    exact, forgotten = (paired(pilot, measure) for measure in ("exact_match", "forgetting"))
    peak = {name: mean(values) for name, values in reference.at_best_rate(pilot, "peak_memory_mb").items()}
    size = {row["name"]: row["trainable_parameters"] * FLOAT32_MB for row in pilot}
    told = {
        "parity": f"On `{TASK}`, full less LoRA in exact match: {exact('full', 'lora', '{:+.1%}')}.",
        "forgetting": f"Loss on general text, nats a token, full less LoRA: {forgotten('full', 'lora', '{:+.2f}')}.",
        "hybrid": f"Exact match, hybrid less LoRA: {exact('hybrid', 'lora', '{:+.1%}')}; full less hybrid: "
        f"{exact('full', 'hybrid', '{:+.1%}')}. Peak memory {peak['hybrid'] / peak['lora']:.2f} times LoRA's.",
        "qlora": f"Exact match, QLoRA less LoRA: {exact('qlora', 'lora', '{:+.1%}')}. Peak memory "
        f"{1 - peak['qlora'] / peak['lora']:.0%} lower.",
        "memory-ratio": f"Full needed {peak['full'] / peak['lora']:.1f} times LoRA's peak memory, and "
        f"{peak['full'] / peak['qlora']:.1f} times QLoRA's (full in float32, frozen weights in bfloat16 and NF4).",
        "artifact": f"What trains is {size['lora']:.1f} MB for LoRA of rank 8 and {size['full']:,.0f} MB for full, in "
        "float32.",
        "small-models": f"At 135M parameters the memory that LoRA saves is {peak['full'] - peak['lora']:,.0f} MB, of "
        "what any laptop has; the ratio is under memory-ratio.",
    }
    rows = reference.sweep_rows
    ranks, full = rows("rate", "seeds"), rows("full")
    few = [row for row in rows("few") if row["targets"] == "down_proj"]  # on one matrix of one block
    for verdict in judge_ranks(ranks, few, rows("alpha"), full, reference.study_rows()):
        told[verdict.claim] = f"{verdict.verdict.capitalize()}: {verdict.evidence}"
    for claim, words in full_beside_lora().items():
        told[claim] = f"{told[claim]} {words}" if claim in told else words
    return told


def full_beside_lora() -> dict[str, str]:
    """What the study adds on the tasks where it has full fine-tuning at its best rate with several seeds."""
    found = {}
    for task, rows in grouped(reference.study_rows("lora", "full"), lambda row: row["task"]).items():
        best = {name: reference.rows_at_best_rate(rows, name) for name in names(rows)}
        if "full" not in best or len(best["full"]) < 2:
            continue
        gap = f"full less LoRA in exact match: {paired(rows, 'exact_match')('full', 'lora', '{:+.1%}')}."
        found["parity"] = f"{found.get('parity', '')} On `{task}` (the study) {gap}".strip()
        ratio = best["lora"][0]["learning_rate"] / best["full"][0]["learning_rate"]
        found["no-regret"] = (
            f"{found.get('no-regret', '')} On `{task}` LoRA's best rate is {ratio:g} times full's.".strip()
        )
        if task == "protocol":
            found["behaviour"] = f"On `protocol`, an invented format and way of reasoning, {gap}"
            found["ceiling"] = f"On `protocol`, where both have room above them, {gap}"
            forgotten = paired(rows, "forgetting")("full", "lora", "{:+.2f}")
            found["forgetting"] = f"On `protocol` (the study): {forgotten}."
    return found


def paired(rows: Sequence[Mapping], measure: str) -> Callable[[str, str, str], str]:
    """How to say the difference of two methods, each at its best rate, seed by seed."""
    share = measure == "exact_match"
    values = {
        name: {row["seed"]: row[measure] for row in reference.rows_at_best_rate(rows, name)} for name in names(rows)
    }

    def difference(first: str, second: str, form: str) -> str:
        gaps = [values[first][seed] - values[second][seed] for seed in sorted(values[first]) if seed in values[second]]
        both = [mean(values[name].values()) for name in (first, second)]
        sampling = hypot(*(two_standard_errors(value, TEST_ROWS) for value in both)) if share else 0.0
        within = min(gaps) <= 0 <= max(gaps) or abs(mean(gaps)) < sampling
        noise = "within noise" if within else "beyond noise"
        if share:
            noise += f" (two standard errors of the rows: {sampling:.0%})"
        told = (form.format(value) for value in (mean(gaps), min(gaps), max(gaps)))
        return "{} ({} to {}), {}".format(*told, noise)

    return difference


def method_table(rows: Sequence[Mapping]) -> str:
    head = "| method | rate | exact match | forgetting, nats a token | peak MB | trains, MB in float32 |"
    lines = [head, "| --- | --- | --- | --- | --- | --- |"]
    for name in names(rows):
        own = reference.rows_at_best_rate(rows, name)
        lines.append(
            f"| {name} | {own[0]['learning_rate']:g} | {spread(own, 'exact_match', '{:.0%}')} "
            f"| {spread(own, 'forgetting', '{:+.2f}')} | {mean(row['peak_memory_mb'] for row in own):,.0f} "
            f"| {own[0]['trainable_parameters'] * FLOAT32_MB:,.2f} |"
        )
    return "\n".join(lines)


def rate_table(rows: Sequence[Mapping]) -> str:
    lines = ["| method | rate | exact match | forgetting, nats a token |", "| --- | --- | --- | --- |"]
    for row in sorted((row for row in rows if row["seed"] == 0), key=lambda row: (row["name"], row["learning_rate"])):
        told = f"{row['exact_match']:.0%} | {row['forgetting']:+.2f}"
        lines.append(f"| {row['name']} | {row['learning_rate']:g} | {told} |")
    return "\n".join(lines)


def task_table(rows: Sequence[Mapping]) -> str:
    head = (
        "| task | setting | best rate | exact match | forgetting | seeds, by precision of the frozen weights | base |"
    )
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- |"]
    for task in dict.fromkeys(row["task"] for row in rows):
        here = [row for row in rows if row["task"] == task]
        for name in names(here):
            own = reference.rows_at_best_rate(here, name)
            lines.append(
                f"| {task} | {name} | {own[0]['learning_rate']:g} | {spread(own, 'exact_match', '{:.0%}')} "
                f"| {spread(own, 'forgetting', '{:+.2f}')} | {seeds_in_words(own)} | {own[0]['base_exact_match']:.0%} |"
            )
    return "\n".join(lines)


def seeds_in_words(rows: Sequence[Mapping]) -> str:
    """Which seeds in which precision: "0 bfloat16; 1, 2 float32"."""
    precisions = grouped(sorted(rows, key=lambda row: row["seed"]), lambda row: row["precision"])
    return "; ".join(f"{', '.join(str(row['seed']) for row in own)} {name}" for name, own in precisions.items())


def spread(rows: Sequence[Mapping], measure: str, form: str) -> str:
    values = [row[measure] for row in rows]
    low, middle, high = (form.format(value) for value in (min(values), mean(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def names(rows: Sequence[Mapping]) -> list[str]:
    return list(dict.fromkeys(row["name"] for row in rows))


if __name__ == "__main__":
    main()
