"""What lesson 10 says in words: the plan, prompting against training, what to choose, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from workbench import learner
from workbench.adapters.methods import Method
from workbench.advice.decide import Needs, decide
from workbench.advice.measured import measured
from workbench.advice.run_report import report
from workbench.claims.book import as_markdown, book
from workbench.cost.published import published_runs
from workbench.course.lessons import starting_values as starting_values  # for the lesson
from workbench.memory.setup import Setup
from workbench.memory.simulation import simulate
from workbench.memory.steps.real_steps import as_trained
from workbench.models.base import Base
from workbench.results import reference
from workbench.results.paired import Comparison, compare
from workbench.results.rows import Row, grouped, mean_of
from workbench.scoring.scores import Scores, unpack_rows
from workbench.tasks.checks import rows_needed, visible_gap
from workbench.tasks.tasks import Task, load_task
from workbench.training.lifecycle import train
from workbench.training.pace import duration_in_words
from workbench.training.runs import Run
from workbench.training.step import TrainConfig
from workbench.training.store import RunStore

MESSAGES = 200  # of the example file
SENDERS = ("Jörg Müller", "Zoë Brontë", "José Núñez", "Åsa Öberg", "François Lefèvre")
TIMED_STEPS = 3  # of one method, from which the plan is made
TRIES_WORTH = 3  # runs that trying settings takes at most


def example_file(folder: Path) -> Path:
    """A file as people have it: 200 support messages, semicolons, umlauts, the encoding of old spreadsheets.

    The messages are rows of `tickets`, each with the name of its sender.
    """
    rows = load_task("tickets").train[:MESSAGES]
    lines = ["Message;Intent"]
    for number, row in enumerate(rows):
        text = row.prompt.removesuffix("\nIntent:").replace('"', '""')
        lines.append(f'"{text} {SENDERS[number % len(SENDERS)]}";{row.completion.strip()}')
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "messages.csv"
    path.write_bytes("\r\n".join([*lines, ""]).encode("cp1252"))
    return path


def plan(base: Base, task: Task, methods: Sequence[Method], config: TrainConfig, store: RunStore) -> str:
    """A Markdown table before anything trains: predicted peak memory and time of each method here.

    The time is that of TIMED_STEPS steps of the first method, for the others times the ratios of the stored costs. The
    peak of these steps stands below the table, since the prediction is of padded rows and all logits.
    """
    brief = replace(config, steps=TIMED_STEPS, evaluate=False, save=False)
    timed = train(base, task, methods[0], brief, store)
    store.delete(timed.id)
    ratios = step_ratios()
    pace = (timed.step_seconds or 0.0) / ratios[methods[0].name]
    longest = max(len(base.tokenizer(row.prompt + row.completion)["input_ids"]) for row in task.train) + 1
    lines = ["| method | peak memory of a step, at most | time to train |", "|---|---|---|"]
    seconds = 0.0
    for method in methods:
        setup = Setup(method, config.batch_size, longest, dtype=as_trained(base), device="cpu")
        own = pace * ratios[method.name] * config.steps
        seconds += own
        size = simulate(base.name, setup).peak_allocated_bytes
        lines.append(f"| {method.label} | {size / 1e9:.1f} GB | {duration_in_words(own)} |")
    trying = TRIES_WORTH * pace * config.steps
    times = duration_in_words(trying), duration_in_words(seconds + trying)
    lines += ["", f"Trying settings adds about {times[0]} on an idle computer; all of it {times[1]}, and scoring."]
    if timed.peak_memory_bytes:
        lines[-1] += (
            f" The timed steps of {methods[0].label} took {timed.peak_memory_bytes / 1e9:.1f} GB: training here leaves "
            f"out padding and the logits of prompts. The table counts both, with all rows at {longest} tokens."
        )
    return "\n".join(lines)


def step_ratios() -> dict[str, float]:
    """Method -> the time of its step over that of LoRA, in the mean of the stored costs."""
    rows = grouped(reference.read_rows(reference.COSTS), lambda row: row["name"])
    seconds = {name: mean_of(own, "step_seconds") for name, own in rows.items()}
    return {name: own / seconds["lora"] for name, own in seconds.items()}


def prompting_in_words(scores: Mapping[int, Scores]) -> str:
    """A Markdown table: examples in front of each test row, and the rows that the untrained base then gets right."""
    lines = ["| examples shown | exact match | rows right |", "|---|---|---|"]
    for shots, one in scores.items():
        right = unpack_rows(one.right["exact_match"])
        lines.append(f"| {shots} | {one['exact_match']:.0%} | {right.sum()} of {len(right)} |")
    return "\n".join(lines)


def against_prompting(runs: Sequence[Run], best: Scores) -> dict[str, Comparison]:
    """Label -> each scored run minus prompting, on the rows that both were scored on."""
    found = {}
    for run in runs:
        if run.right.get("exact_match"):
            tuned, prompted = unpack_rows(run.right["exact_match"]), unpack_rows(best.right["exact_match"])
            count = min(len(tuned), len(prompted))
            if count < 2:  # one row tells nothing apart
                continue
            found[run.label] = compare(tuned[None, :count], prompted[None, :count])
    return found


def winner(runs: Sequence[Run], prompting: Scores) -> str:
    """Prompting, LoRA or full: which has the highest exact match here, or that they cannot be told apart.

    Two are told apart if their rows are: the 95 % interval of the paired difference excludes 0. Prompting wins if it
    is told apart from the better of the two.
    """
    scores = {run.method["name"]: run for run in runs if "exact_match" in run.metrics}
    if not {"lora", "full"} <= scores.keys():
        return "not measured"
    both = [scores["full"], scores["lora"]]
    best = max(both, key=lambda run: run.metrics["exact_match"])
    against = against_prompting([best], prompting)
    if not against:
        return "too close to call"
    if against[best.label].high < 0:
        return "prompting"
    full, lora = (unpack_rows(run.right["exact_match"])[None] for run in both)
    one = compare(full, lora)
    return ("full" if one.difference > 0 else "LoRA") if one.excludes_zero else "too close to call"


def published_rows() -> list[Row]:
    """Published runs with the measures that they state, for `results.pareto`."""
    return [
        {
            "label": run.label,
            "peak_memory_mb": run.peak_reserved_bytes / 1e6,
            "tokens_per_second": run.tokens_per_second,
        }
        for run in published_runs()
    ]


def share_in_words(prompting: float, trained: float) -> str:
    """What prompting scores, as the lesson's prediction words it."""
    if prompting >= trained:
        return "as many as after training, or more"
    return "fewer than 1 in 10" if prompting < 0.1 else "more, but fewer than after training"


def write_report(runs: Sequence[Run], store: RunStore) -> str:
    """Write the report of the finished runs beside the learner's runs; what was written, in words."""
    finished = [run for run in runs if run.status == "finished"]
    if not finished:
        return "No run has finished, so there is nothing to report."
    path = store.path / learner.FOLDER / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report(finished), encoding="utf-8")
    return f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, in the folder of your runs"


def ledger(store: RunStore) -> str:
    """The whole ledger, folded."""
    table = as_markdown(book(store))
    return f"<details><summary>The ledger: every claim of this course</summary>\n\n{table}\n\n</details>"


def best_score(runs: Sequence[Run]) -> float:
    """The highest exact match of the runs, 0 if none was scored."""
    return max((run.metrics.get("exact_match", 0.0) for run in runs), default=0.0)


def answer(needs: Needs, study: Sequence[Row], runs: Sequence[Run], test_rows: int) -> str:
    """The answer of lesson 10, in Markdown. needs: with the measured score of prompting."""
    decision = decide(needs, measured(study))
    best = max(runs, key=lambda run: run.metrics.get("exact_match", 0.0), default=None)
    trained = f"{best.label} reaches {best_score(runs):.0%}" if best else "no run was scored"
    chosen = next((run for run in runs if run.method["name"] == (decision.choice or "").lower()), None)
    if best and chosen and chosen is not best and "exact_match" in chosen.metrics:
        trained = f"{chosen.label} {chosen.metrics['exact_match']:.0%}, {trained}"
    changes = "; ".join(f"{words} ({choice or 'nothing fits'})" for words, choice in list(decision.changes.items())[:3])
    return (
        f"**The answer:** {decision.choice or 'None of them'}, for the needs that you stated: the simplest option that "
        f"no number strikes out. On your rows prompting reaches {needs.few_shot or 0:.0%} and {trained}. With "
        f"{test_rows:,} test rows of the {rows_needed():,} that 5 points take, methods that are closer than "
        f"{100 * visible_gap(test_rows):.0f} points cannot be told apart.\n\n"
        f"What would change it: {changes or 'none of the single changes that were tried'}."
    )
