"""The reference study: each method on each task, its learning rate swept on one seed, then compared on three others.

    .venv/bin/python -m workbench.study.plan [STAGE ...]

Trains one run after the other, appends each as a row to data/reference/study.jsonl and skips the rows that are there,
so it can be stopped and started again at any time. Many hours on two cores. The stages are ordered so that an early
stop leaves something useful.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from workbench import Method, Run, RunStore, TrainConfig, train
from workbench.analysis.forgetting import kl_from_base
from workbench.claims.study import CHOOSING_SEED as CHOOSING, comparisons
from workbench.paths import CHECKOUT
from workbench.results.equal_score import at_equal_score
from workbench.results.noise import rows_scored
from workbench.results.reference import FIRST_STUDY, STUDY, read_rows
from workbench.results.rows import best_rate, of_setting, swept_rate, usable
from workbench.study.settings import COMPARING, LONGER, RATES, SETTINGS, base, config_of, recommended, task_of
from workbench.training.runs import COMPLETE, provenance, table

STORE = CHECKOUT / "build" / "study"
TASKS = ("protocol", "tickets", "facts", "docs", "orders")  # the quickest that tells methods apart comes first
REAL_AND_NEW = ("protocol", "docs")  # where the later stages look
MORE_SEEDS = (4, 5, 6, 7, 8, 9)  # where three seeds differ too much to decide
WIDENED = 3  # times that a grid of rates grows at one end, at most
KL_PROMPTS = 48  # a few dozen are enough to order runs
FIRST_LOSSES = 5  # kept in full, to repeat the beginning of a run


def main_rates(task: str) -> None:
    """LoRA and full fine-tuning: rates on one seed, then three more seeds at the best."""
    tune(task, "lora", "full")


def gentler(task: str) -> None:
    """LoRA and full at lower rates, until the gentlest that reaches the score they share is no longer the lowest tried.

    What is forgotten is compared at these two rates (see `equal_score`), so they get the compared seeds as well. If
    their mean no longer reaches the score, the next rate up gets them.
    """
    names = ("lora", "full")
    for _ in range(2 * WIDENED):
        settings = {name: usable(rows(task, name), "exact_match") for name in names}
        _, least = at_equal_score(settings)
        for name in names:
            rate, tried = least[name].learning_rate, {swept_rate(row) for row in settings[name]}
            if rate == min(tried):
                measure(task, name, method_of(name, task, rate / 2), CHOOSING)
            else:
                for seed in COMPARING:
                    measure(task, name, method_of(name, task, rate), seed)


def others(task: str) -> None:
    """QLoRA, the hybrid, and what `recommend` chooses."""
    tune(task, "qlora", "hybrid")
    for seed in (CHOOSING, *COMPARING):
        measure(task, "auto", recommended(task), seed)


def more_seeds(task: str) -> None:
    """LoRA and full fine-tuning again where three seeds differ too much to tell them apart.

    All further seeds of both, and not until it is decided: to look after each one would find differences that are not
    there.
    """
    found = comparisons(rows(task), "full", "lora").get(task)
    if found is None:
        sys.exit(f"Run main_rates on {task} first: its full and LoRA cannot be compared yet.")
    if found.verdict != "undecided" or found.rows_needed is not None:
        return
    for name in ("full", "lora"):
        for seed in MORE_SEEDS:
            measure(task, name, method_of(name, task, tuned_rate(task, name)), seed)


def ladder(task: str) -> None:
    """The other rungs between LoRA and full fine-tuning."""
    tune(task, "hybrid, norms", "hybrid, last block", "hybrid, largest gradients")


def ranks(task: str) -> None:
    """Rank, alpha, rsLoRA and targets, each at its own best rate."""
    if task in REAL_AND_NEW:
        tune(task, "lora r=64", "rslora", "alpha=8", "alpha=128", "rank 1", "attention", "mlp", "starved")


def neighbours(task: str) -> None:
    """LoRA and full with the compared seeds at all rates tried, and at each other's best: what is forgotten there."""
    if task not in REAL_AND_NEW:
        return
    best = {tuned_rate(task, name) for name in ("lora", "full")}
    for name in ("lora", "full"):
        for rate in sorted({swept_rate(row) for row in rows(task, name)} | best):
            for seed in COMPARING:
                measure(task, name, method_of(name, task, rate), seed)


def longer(task: str) -> None:
    """LoRA and full for more steps: does LoRA catch up, or stay behind?"""
    if task in REAL_AND_NEW:
        tune(task, *(name for name in SETTINGS if any(f" {steps} steps" in name for steps in LONGER)))


def closing(task: str) -> None:
    """What is said to close the gap: DoRA, LoRA+, PiSSA, and smaller or larger batches."""
    if task in REAL_AND_NEW:
        tune(task, "dora", "lora+", "pissa", *(name for name in SETTINGS if "batch" in name))


STAGES = {
    stage.__name__: stage
    for stage in (main_rates, gentler, others, more_seeds, ladder, ranks, neighbours, longer, closing)
}


def tune(task: str, *names: str) -> None:
    """Sweep the learning rate of each setting on the choosing seed, then train the compared seeds at the best rate.

    The grid grows by factors of two until its best rate is neither the lowest nor the highest, WIDENED times at most.
    """
    for name in names:
        for rate in first_rates(task, name):
            measure(task, name, method_of(name, task, rate), CHOOSING)
        for _ in range(WIDENED):
            rates, best = {swept_rate(row) for row in rows(task, name)}, tuned_rate(task, name)
            if min(rates) < best < max(rates):
                break
            further = best * 2 if best == max(rates) else best / 2
            measure(task, name, method_of(name, task, further), CHOOSING)
        for seed in COMPARING:
            measure(task, name, method_of(name, task, tuned_rate(task, name)), seed)


def first_rates(task: str, name: str) -> tuple[float, ...]:
    """The rates that are tried first: around the first study's best where it has one, else those of the setting."""
    earlier = of_setting(read_rows(FIRST_STUDY), task, name)
    if not usable(earlier, "exact_match") or name.startswith("hybrid"):  # whose one rate was another
        return SETTINGS[name].rates
    best = best_rate(earlier)
    return best / 2, best, best * 2


def tuned_rate(task: str, name: str) -> float:
    """The best rate of a setting on the choosing seed."""
    return best_rate([row for row in rows(task, name) if row["seed"] == CHOOSING])


def method_of(name: str, task: str, rate: float) -> Method:
    """A setting at a learning rate. A hybrid's adapters have LoRA's best rate, which is swept before."""
    of_adapters = tuned_rate(task, "lora") if name.startswith("hybrid") else RATES[0]
    return SETTINGS[name].make(rate, task, of_adapters)


def measure(task: str, name: str, method: Method, seed: int) -> None:
    """Train what is not stored yet and append its row.

    What was trained under another name is not trained again: its row is also stored under this name.
    """
    config = config_of(task, name, seed)
    settings = settings_of(method, config)
    stored = [row for row in rows(task) if row["settings"] == settings and row["task_sha256"] == task_of(task).sha256]
    if any(row["name"] == name for row in stored):
        return
    if stored:
        append({**stored[0], "name": name, "id": row_id(task, name, settings)})
        return
    store = RunStore(STORE)
    run = train(base(method.base_quantization), task_of(task), method, config, store)
    if run.status not in COMPLETE or (run.status == "finished" and not run.metrics):
        sys.exit(f"{run.label} on {task} is {run.status}; the same command goes on from there.")
    append(as_row(run, name, settings) | {"kl": kl_on_prompts(run, task, method)})
    store.delete(run.id)  # the weights of a full run take half a gigabyte


def kl_on_prompts(run: Run, task: str, method: Method) -> float | None:
    """KL(base || tuned) on the first KL_PROMPTS test prompts, nats a token; None for a run that was not scored."""
    if not run.metrics:
        return None
    start = base(method.base_quantization)
    return kl_from_base(start, run.load(start), [example.prompt for example in task_of(task).test[:KL_PROMPTS]])


def settings_of(method: Method, config: TrainConfig) -> dict[str, Any]:
    """All that is needed to train a row again, beside its task: the method and the training configuration."""
    described = method.to_dict()
    described.pop("reasons", None)
    return {
        "method": described,
        "config": {name: getattr(config, name) for name in ("steps", "batch_size", "seed", "test_limit")},
    }


def row_id(task: str, name: str, settings: dict[str, Any]) -> str:
    """Eight characters that stand for a row, for `workbench study --row`."""
    return hashlib.sha256(json.dumps([task, name, settings], sort_keys=True).encode()).hexdigest()[:8]


def as_row(run: Run, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The row of a run, with its whole provenance."""
    (row,) = table([run])
    losses = [entry["loss"] for entry in run.history]
    return {
        "id": row_id(run.task["name"], name, settings),
        "name": name,
        **row,
        "full_learning_rate": run.method.get("full_learning_rate"),
        "test_rows": rows_scored(run.task["test_rows"], run.config["test_limit"]),
        "losses": [round(loss, 3) for loss in losses[::5]],
        "first_losses": [float(f"{loss:.7g}") for loss in losses[:FIRST_LOSSES]],
        "base_exact_match": run.before.get("exact_match"),
        "fact_accuracy_lost": run.forgetting.get("fact_accuracy"),
        "base_general_loss": run.before.get("general_loss"),
        "tokens": run.tokens,
        "settings": settings,
        "quantization": run.base["quantization"],
        **provenance(run),
    }


def append(row: dict[str, Any]) -> None:
    """Add a row to the file, and print it."""
    with STUDY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{row['task']} {row['name']} {swept_rate(row):g} seed {row['seed']}: {row['exact_match']}", flush=True)


def rows(task: str, name: str | None = None) -> list[dict[str, Any]]:
    """The stored rows of a task, of one setting or of all."""
    found = read_rows(STUDY) if STUDY.exists() else []
    return [row for row in found if row["task"] == task and name in (None, row["name"])]


def main() -> None:
    """Run the stages named on the command line, or all, each on all tasks before the next one."""
    for stage in sys.argv[1:] or STAGES:
        for task in TASKS:
            STAGES[stage](task)


if __name__ == "__main__":
    main()
