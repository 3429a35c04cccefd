"""The reference study: each method on each task with its learning rate swept, then seeds, then ranks and targets.

    .venv/bin/python -m workbench.study.plan [STAGE ...]

Appends one row per run to data/reference/study.jsonl and skips the rows that are there, so it can be stopped and
started again; LoRA runs that are missing train together. Many hours on two cores. The stages are ordered so that an
early stop leaves something useful. build/study/ keeps the finished runs of a sweep that was interrupted, and the next
sweep reuses them: to measure a row again, delete it and that folder.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from typing import Any

from workbench import (
    Base,
    Method,
    RunStore,
    Task,
    TrainConfig,
    full,
    hybrid,
    load_base,
    load_task,
    lora,
    qlora,
    recommend,
    sweep,
)
from workbench.adapters.methods import ATTENTION, MLP, targets_in_words
from workbench.paths import CHECKOUT
from workbench.results.reference import COMPARED, STUDY, read_rows
from workbench.results.rows import Row, best_rate, grouped
from workbench.tasks.tasks import SWEEP_FACTS
from workbench.training.runs import FAILED, provenance, table

STORE = CHECKOUT / "build" / "study"
TASKS = ("protocol", "tickets", "facts", "orders")  # first the one on which settings differ most
SEEDS = (0, 1, 2)
RATES = (5e-4, 1e-3, 2e-3, 4e-3)  # the first rates of every method with adapters
WIDENED = 3  # times that a grid grows at one end, at most
# Name of a setting -> the method at a learning rate, and the first rates.
METHODS: dict[str, tuple[Callable[[float], Method], tuple[float, ...]]] = {
    "lora": (lambda rate: lora(8, 32, rate), RATES),
    "lora r=64": (lambda rate: lora(64, 32, rate), RATES),
    "full": (full, (5e-5, 1e-4, 2e-4)),
    "hybrid": (lambda rate: hybrid(["layers.29.mlp"], rank=8, alpha=32, learning_rate=rate), RATES[1:]),
    "qlora": (lambda rate: qlora(8, 32, rate), RATES[1:]),
    "starved": (lambda rate: lora(1, 32, rate, targets=["q_proj"], layers=[15]), (4e-3, 8e-3, 1.6e-2)),
    "rslora": (lambda rate: lora(64, 32, rate, rslora=True), RATES[:3]),  # at rank 8 it is only a larger alpha
    # At equal parameters: as many as rank 8 on all linear layers.
    "attention": (lambda rate: lora(21, 32, rate, targets=ATTENTION), RATES[1:]),
    "mlp": (lambda rate: lora(13, 32, rate, targets=MLP), RATES[1:]),
    # A quarter of alpha wants about four times the rate.
    "alpha=8": (lambda rate: lora(8, 8, rate), (8e-3, 1.6e-2, 3.2e-2)),
    "alpha=128": (lambda rate: lora(8, 128, rate), (5e-4, 1e-3, 2e-3)),
}
RANKS = (1, 4, 16, 128)
ONE_TASK = ("maps", "neighbours")  # stages of an hour or more a task: on the first task only
OTHERS = dict.fromkeys(TASKS, ("full", "hybrid", "qlora")) | {"orders": ("full",)}  # a run takes 16 minutes there

Named = tuple[str, Method]


def lora_rates(task: str) -> None:
    """LoRA of two ranks over the learning rates, and what `recommend` chooses, all in one pass."""
    measure(task, [*grid("lora"), *grid("lora r=64"), recommended(task)])
    widen(task, "lora")
    widen(task, "lora r=64")


def lora_seeds(task: str) -> None:
    """Further seeds for rank 8 at its best rate and for what `recommend` chooses."""
    for named in (tuned(task, "lora"), recommended(task)):
        measure(task, [named], SEEDS)


def other_rates(task: str) -> None:
    """The learning rate of the other methods."""
    for name in OTHERS[task]:
        measure(task, grid(name))
        widen(task, name)


def other_seeds(task: str) -> None:
    """Further seeds for each of the other methods at its best rate."""
    measure(task, [tuned(task, name) for name in OTHERS[task]], SEEDS)


def maps(task: str) -> None:
    """Other ranks at the best rate of rank 8; attention, MLP, `starved`, alphas and rsLoRA, each at its own best."""
    rate = best_rate(rows(task, "lora"))
    measure(task, [("ranks", lora(rank, 32, rate)) for rank in RANKS], SEEDS)
    others = ("attention", "mlp", "starved", "alpha=8", "alpha=128", "rslora")
    measure(task, [each for name in others for each in grid(name)])
    for name in others:
        widen(task, name)
    measure(task, [tuned(task, name) for name in (*others, "lora r=64")], SEEDS)


def neighbours(task: str) -> None:
    """All seeds at half and at twice the best rate, for the methods that lesson 06 compares."""
    for name in COMPARED:
        make, best = METHODS[name][0], best_rate(rows(task, name))
        tried = {row["learning_rate"] for row in rows(task, name)}
        measure(task, [(name, make(rate)) for rate in (best / 2, best * 2) if rate in tried], SEEDS)


STAGES = {stage.__name__: stage for stage in (lora_rates, lora_seeds, other_rates, other_seeds, maps, neighbours)}


def task_and_config(name: str) -> tuple[Task, TrainConfig]:
    """Half of the facts, to be learnt by heart in more steps; no task is scored by its labels, which is slow."""
    if name == "facts":
        return load_task(name).head(SWEEP_FACTS), TrainConfig(steps=120, batch_size=16, save=False)
    return replace(load_task(name), labels=None), TrainConfig(steps=60, batch_size=16, test_limit=120, save=False)


def recommended(task: str) -> Named:
    """What `recommend` chooses."""
    return "auto", recommend(base(None), *task_and_config(task))


def grid(name: str) -> list[Named]:
    """A setting at each of its first rates."""
    make, rates = METHODS[name]
    return [(name, make(rate)) for rate in rates]


def tuned(task: str, name: str) -> Named:
    """A setting at the best of the rates that were tried so far."""
    return name, METHODS[name][0](best_rate(rows(task, name)))


def widen(task: str, name: str) -> None:
    """Add rates, a factor of two apart, until the best is neither the lowest nor the highest tried; WIDENED at most."""
    for _ in range(WIDENED):
        rates, best = [row["learning_rate"] for row in rows(task, name)], best_rate(rows(task, name))
        if min(rates) < best < max(rates):
            return
        measure(task, [(name, METHODS[name][0](best * 2 if best == max(rates) else best / 2))])


def measure(task: str, wanted: Sequence[Named], seeds: Sequence[int] = SEEDS[:1]) -> None:
    """Train what is not stored yet and append its rows: LoRA in one sweep, QLoRA in another, all else one by one.

    What was trained under another name is not trained again: its row is also stored under this name.
    """
    stored = rows(task)
    done, twins = {identity(row) for row in stored}, {identity(row)[1:]: row for row in stored}
    missing = defaultdict(list)
    for name, method in wanted:
        here = {seed: identity(as_row(name, method, seed)) for seed in seeds}
        absent = [seed for seed in seeds if here[seed] not in done]
        append([twins[here[seed][1:]] | {"name": name} for seed in absent if here[seed][1:] in twins])
        missing[tuple(seed for seed in absent if here[seed][1:] not in twins)].append((name, method))
    for left, named in missing.items():
        kinds = grouped(named, lambda each: each[1].name)
        for kind in ("lora", "qlora"):
            if kind in kinds and left:
                train(task, kinds.pop(kind), left)
        for seed in left:
            for each in chain.from_iterable(kinds.values()):
                train(task, [each], [seed])


def train(task_name: str, named: Sequence[Named], seeds: Sequence[int]) -> None:
    """Run one sweep and append the rows of the runs that finished. If some did not, exits and says how to go on."""
    task, config = task_and_config(task_name)
    methods = [method for _, method in named]
    quantization = "nf4" if methods[0].name == "qlora" else None
    runs = sweep(base(quantization), task, methods, config, RunStore(STORE), seeds=seeds)
    found = {}
    for run, row in zip(runs, table(runs), strict=True):
        if run.status not in FAILED and not (run.status == "finished" and run.metrics):
            continue
        row["losses"] = [round(entry["loss"], 3) for entry in run.history[::5]]
        row["together"] = run.together and run.together["configurations"]
        row["base_exact_match"] = run.before["exact_match"]
        # A stopped sweep returns what there is, so a run is known by its settings, not by its place.
        for name, method in named:
            if identity({"name": name} | row) == identity(as_row(name, method, row["seed"])):
                found[name, run.id] = {"name": name} | row | provenance(run)
    append(list(found.values()))
    if len(found) < len(named) * len(seeds):
        sys.exit(f"{len(found)} of {len(named) * len(seeds)} runs are done; the same command goes on from there.")


def append(found: Sequence[dict[str, Any]]) -> None:
    """Add rows to the file, and print them."""
    with STUDY.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in found))
    for row in found:
        told = f"{row['learning_rate']:g} seed {row['seed']}: {row['exact_match']}"
        print(f"{row['task']} {row['name']} {told}", flush=True)


def identity(row: Row) -> tuple[Any, ...]:
    """What tells two rows of one task apart: the setting's name first, then what was trained."""
    layers = row["layers"] and tuple(row["layers"])
    same = ("rank", "alpha", "learning_rate", "rslora", "targets", "seed")
    # The label of a row ("lora r=8") starts with the method's name.
    return row["name"], row["method"].split()[0].lower(), layers, *(row[name] for name in same)


def as_row(name: str, method: Method, seed: int) -> dict[str, Any]:
    """The part of a row that is known before the run."""
    targets = targets_in_words(method.to_dict()["targets"])
    return method.to_dict() | {"name": name, "method": method.label, "targets": targets, "seed": seed}


def rows(task: str, name: str | None = None) -> list[dict[str, Any]]:
    """The stored rows of a task, of one setting or of all."""
    found = read_rows(STUDY) if STUDY.exists() else []
    return [row for row in found if row["task"] == task and name in (None, row["name"])]


@cache
def base(quantization: str | None) -> Base:
    """The base model, in bfloat16 where `workbench doctor` found it fast, else in float32; every row says which."""
    return load_base("smollm2-135m", quantization)


def main() -> None:
    """Run the stages named on the command line, or all."""
    for stage in sys.argv[1:] or STAGES:
        for task in TASKS[:1] if stage in ONE_TASK else TASKS:
            STAGES[stage](task)


if __name__ == "__main__":
    main()
