"""What `recommend` chooses by trying, against its rule: scores on test rows that neither has seen, and the cost.

    .venv/bin/python benchmarks/recommend.py [TASK ...] [--seed 1] [--dtype float32]

At the length of the reference study, of which its best setting is named beside both. It prints a Markdown row a task.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace

from workbench import RunStore, TrainConfig, load_base, load_task, sweep
from workbench.adapters.methods import Method
from workbench.advice.recommend import by_rule
from workbench.advice.trying import settings_around, try_settings
from workbench.claims.study import LORA_SETTINGS
from workbench.results import reference
from workbench.results.paired import compare_rows
from workbench.results.rows import by_best_rate, mean_and_range, mean_of
from workbench.tasks.tasks import LIVE_ROWS, SWEEP_FACTS
from workbench.training.runs import comparable_row

TASKS = ("tickets", "docs", "orders", "protocol", "facts")
STEPS = {"facts": 120}  # as in the study; 60 on the other tasks
NO_LIMIT = 24 * 60.0  # minutes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS, metavar="TASK")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    base = load_base("smollm2-135m", dtype=options.dtype)
    print("| task | rule | tried | tried minus rule | best of the study | cost, in runs |\n" + "|---" * 6 + "|")
    for name in options.tasks:
        print(row(base, name, options.seed), flush=True)


def row(base, name: str, seed: int) -> str:
    """The task's row: both settings with their exact match, the paired difference, and the study's best setting."""
    task = load_task(name)
    task = task.head(SWEEP_FACTS) if name == "facts" else task
    config = TrainConfig(steps=STEPS.get(name, 60), seed=seed, test_limit=LIVE_ROWS, save=False)
    rule = by_rule(base, task, config)
    found = try_settings(base, task, settings_around(rule), config, NO_LIMIT)
    methods = list(dict.fromkeys([replace(rule, reasons=()), found.chosen.method]))
    with tempfile.TemporaryDirectory() as folder:
        runs = sweep(base, task, methods, config, RunStore(folder))
    first, last = (comparable_row(run) for run in (runs[0], runs[-1]))
    gap = "the same setting" if len(runs) == 1 else compare_rows([last], [first]).in_words("tried", "rule")
    scores = [
        f"{in_words(method)}: {one['exact_match']:.0%}" for method, one in zip(methods, (first, last), strict=False)
    ]
    return f"| `{name}` | {scores[0]} | {scores[-1]} | {gap} | {best_of_study(name)} | {found.runs_worth:.1f} |"


def best_of_study(name: str) -> str:
    """The setting of LoRA with the highest mean over seeds, and that mean with its range."""
    rows = [one for one in reference.study_rows(*LORA_SETTINGS) if one["task"] == name]
    settings = by_best_rate(rows, "name")
    if not settings:
        return "not measured"
    best = max(settings, key=lambda setting: mean_of(settings[setting], "exact_match"))
    other = ", first study, other rows" if settings[best][0].get("first_study") else ""
    return f"{best}: {mean_and_range([one['exact_match'] for one in settings[best]])}{other}"


def in_words(method: Method) -> str:
    return f"r={method.rank}, alpha={method.alpha:g}, rate {method.learning_rate:g}"


if __name__ == "__main__":
    main()
