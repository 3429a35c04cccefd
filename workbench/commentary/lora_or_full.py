"""What lesson 06 says in words: costs, scores row by row, what was forgotten, and the answer. All from its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from workbench.claims.study import and_against_best, comparisons
from workbench.commentary.forgetting import who_forgets_more
from workbench.course.lessons import START_ALPHA, START_MODELS, START_RANK
from workbench.models.base import Base
from workbench.models.sharing import in_float32
from workbench.results.equal_score import AtRate, at_best_score
from workbench.results.noise import times_of_perplexity
from workbench.results.paired import Comparison
from workbench.results.rows import Row, at_best_rate, of_setting
from workbench.results.run_pairs import compare_runs, has_rows
from workbench.scoring.evaluation import answers, everyday_facts, fact_rows, score
from workbench.scoring.scores import unpack_rows
from workbench.tasks.example import Example
from workbench.training.runs import Run

SENTENCES, WORDS = 3, 6  # broken sentences shown, and tokens of each
STORED_AS = {"float32": "32 bits", "bfloat16": "16 bits (bfloat16)", "float16": "16 bits", "nf4": "4 bits (NF4)"}


def runs_in_words(runs: Sequence[Run]) -> str:
    """A Markdown table: what each run trained, how its frozen part was stored, and its learning rate."""
    lines = ["| method | numbers trained | frozen weights | learning rate | status |", "|---|---|---|---|---|"]
    for run in runs:
        whole = run.method["name"] == "full"
        frozen = run.precision.get("frozen", "")
        stored = "none" if whole else STORED_AS.get(frozen, frozen)
        share = f"{run.trainable_parameters / 1e6:.1f} million"
        lines.append(f"| {run.label} | {share} | {stored} | {run.method['learning_rate']:.2g} | {run.status} |")
    return "\n".join(lines)


def row_by_row(runs: Sequence[Run], names: Sequence[str] = ()) -> dict[str, Comparison]:
    """Each other run minus the first LoRA run, on the test rows that both were scored on, by label or by name.

    names: of the runs, in their order, where labels do not tell them apart. Runs with a single row in common with that
    of LoRA are left out, since one row tells nothing apart.
    """
    first = first_lora(runs)
    named = zip(names or [run.label for run in runs], runs, strict=True)
    return compare_runs(first, {name: run for name, run in named if run is not first}) if first else {}


def first_lora(runs: Sequence[Run]) -> Run | None:
    """The first of these runs that is LoRA and can be compared row by row."""
    return next((run for run in runs if run.method["name"] == "lora" and has_rows(run)), None)


def lead_in_words(found: Comparison, first: str = "full", second: str = "LoRA") -> str:
    """A title: who is ahead of whom."""
    if found.verdict in ("on par", "undecided"):
        return f"{first} and {second}: {found.verdict} on {found.rows:,} rows"
    ahead, behind = (first, second) if found.difference > 0 else (second, first)
    return f"{ahead} is ahead of {behind} on {found.rows:,} rows"


def forgotten_in_words(runs: Sequence[Run]) -> str:
    """A Markdown table: loss and perplexity on general text before and after, and everyday facts completed right."""
    before = runs[0].before
    lines = ["| model | loss on other text | perplexity | | everyday facts right |", "|---|---|---|---|---|"]
    scores = {"before training": before} | {run.label: run.metrics for run in runs}
    for label, values in scores.items():
        loss = values["general_loss"]
        times = "" if values is before else f"{times_of_perplexity(loss - before['general_loss']):.2g} times as high"
        perplexity, facts = f"{times_of_perplexity(loss):,.0f}", f"{values['fact_accuracy']:.0%}"
        lines.append(f"| {label} | {loss:.2f} nats | {perplexity} | {times} | {facts} |")
    return "\n".join(lines)


def broken_sentences(base: Base, tuned: Mapping[str, Base]) -> str:
    """A Markdown table of everyday sentences that the base completes right and a tuned model does not."""
    models = {"before training": base, **tuned}
    rows, facts = fact_rows(base.tokenizer), everyday_facts()
    right = {
        name: unpack_rows(score(in_float32(one.model).eval(), rows).right["exact_match"])
        for name, one in models.items()
    }
    broken = [
        sum(not right[name][place] for name in tuned) if right["before training"][place] else 0
        for place in range(len(facts))
    ]
    worst = [place for place in sorted(range(len(facts)), key=lambda place: -broken[place]) if broken[place]]
    if not worst:
        return f"No model broke one of the {sum(right['before training'])} sentences that the base completes right."
    examples = [Example(facts[place].prompt, "") for place in worst[:SENTENCES]]
    written = {name: answers(one, examples, WORDS) for name, one in models.items()}
    lines = [f"| sentence | {' | '.join(models)} |", "|---" * (len(models) + 1) + "|"]
    for number, example in enumerate(examples):
        cells = [" ".join(written[name][number].split()) or "(nothing)" for name in models]
        lines.append(f"| {example.prompt} | {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Gap:
    """Full minus LoRA in the study on one task, each at its best rate, in points; verdict as in `Comparison`.

    further: the end of a sentence on the best of several settings of LoRA, where that is not the usual one.
    """

    points: float
    verdict: str
    words: str
    further: str = ""


def study_gap(study: Sequence[Row], task: str) -> Gap:
    """Full against LoRA in the study: row by row where it stored which rows were right, else by the range of seeds.

    Row by row without the first seed, which chose the rates. By seeds, one is better if its worst seed is above the
    other's best.
    """
    if found := comparisons(study, "full", "lora", [task]):
        one = found[task]
        further = and_against_best(study, task)
        return Gap(one.difference, one.verdict, one.in_words("full", "LoRA") + further, further)
    best = (at_best_rate(of_setting(study, task, name)) for name in ("full", "lora"))
    high, low = ([row["exact_match"] for row in rows] for rows in best)
    verdict = "better" if min(high) > max(low) else "worse" if min(low) > max(high) else "undecided"
    words = (
        f"full {mean(high):.0%} ({min(high):.0%} to {max(high):.0%} over {len(high)} seeds), "
        f"LoRA {mean(low):.0%} ({min(low):.0%} to {max(low):.0%})"
    )
    return Gap(100 * (mean(high) - mean(low)), verdict, words)


def study_in_words(study: Sequence[Row], tasks: Sequence[str]) -> str:
    """A Markdown list: full and QLoRA against LoRA on tasks of the study, each at its best rate."""
    lines = []
    for task in tasks:
        lines.append(f"- Stored study, `{task}`: {study_gap(study, task).words}.")
        if found := comparisons(study, "qlora", "lora", [task]):
            quantized, lora = (at_best_score(of_setting(study, task, name)) for name in ("qlora", "lora"))
            lines.append(
                f"- Stored study, `{task}`: {found[task].in_words('QLoRA', 'LoRA')}; at rates of "
                f"{quantized.learning_rate:g} and {lora.learning_rate:g}, and with "
                f"{math.exp(quantized.forgetting):.2g} and {math.exp(lora.forgetting):.2g} times the base's perplexity "
                "on other text."
            )
    return "\n".join(lines)


def directions_in_words(spectra: Mapping[str, Sequence[float]]) -> str:
    """A title: how LoRA's largest singular value compares with that of full fine-tuning."""
    if not {"LoRA", "full"} <= spectra.keys():
        return "The directions of an update, largest first"
    ratio = spectra["LoRA"][0] / spectra["full"][0]
    if ratio >= 1:
        return f"LoRA moves few directions, {ratio:.2g} times as far as full moves its largest"
    return f"Full moves its largest direction {1 / ratio:.2g} times as far as LoRA"


def starting_values() -> str:
    """A Markdown table of settings to start from."""
    lines = ["| model | rank r, alpha | LoRA and QLoRA rate | full rate | then try |", "|---|---|---|---|---|"]
    for name, rate in START_MODELS.items():
        lines.append(
            f"| {name} | {START_RANK}, {START_ALPHA} | {rate:g} | {rate / 10:g} | half and twice the rate, first |"
        )
    return "\n".join(lines)


def answer(
    task: str,
    found: Comparison | None,
    lora: float,
    full: float,
    at_equal: Mapping[str, AtRate],
    elsewhere: tuple[str, Gap],
    longer: str = "",
) -> str:
    """The answer of lesson 06, in Markdown.

    found: full minus LoRA, live, None without both runs. lora, full: nats lost on general text. at_equal: the study's
    LoRA and full fine-tuning at rates that score alike. elsewhere: another task and the study's gap on it. longer: of
    `after_longer_training`.
    """
    if found is None:
        return "**The answer:** there is none yet: both a LoRA run and a full run must finish. Run section 3 again."
    size = f"{found.difference:+.1f} points, 95 % interval {found.low:.1f} to {found.high:.1f}"
    by_verdict = {
        "on par": f"LoRA matches full fine-tuning on `{task}` (full minus LoRA: {size})",
        "undecided": f"On `{task}` nobody could tell LoRA from full fine-tuning with {found.rows} rows (full minus "
        f"LoRA: {size})",
        "better": f"Full fine-tuning beats LoRA on `{task}` ({size})",
        "worse": f"LoRA beats full fine-tuning on `{task}` (full minus LoRA: {size})",
    }
    times = math.exp(abs(lora - full))
    who = who_forgets_more(lora, full)
    forgot = "Each at its best rate, both forget about as much"
    if who != "both about the same":
        less = "full fine-tuning" if who == "LoRA" else "LoRA"
        forgot = (
            f"Each at its best rate, {who} forgets more: perplexity on other text is {times:.2g} times that of {less}"
        )
    gentle = {name: math.exp(at_equal[name].forgetting) for name in ("lora", "full")}
    forgot += (
        f"; in the study, at rates that score alike, LoRA has {gentle['lora']:.2g} times the base's perplexity and "
        f"full {gentle['full']:.2g} times"
    )
    other, gap = elsewhere
    there = {
        "better": f"full fine-tuning is ahead of LoRA's usual setting by {gap.points:.1f} points",
        "worse": f"LoRA is ahead by {-gap.points:.1f} points",
        "on par": f"the two are on par ({gap.points:+.1f} points)",
        "undecided": f"the difference of {gap.points:+.1f} points is undecided",
    }[gap.verdict]
    parts = [
        f"**The answer:** {by_verdict[found.verdict]}. {forgot}. In the stored study's `{other}`, "
        f"{there}{gap.further}.",
        "What would change it: a lower rate forgets less and may score less (section 7); a larger model is moved less "
        "by either; training on millions of rows favours full fine-tuning, until the rank is raised; and another alpha "
        "can close much of a gap, at a price in forgetting (lesson 05 has both).",
        longer,
    ]
    return "\n\n".join(part for part in parts if part)
