"""The pilot behind lesson 06: each method at several learning rates, then three seeds at its best one.

    .venv/bin/python benchmarks/pilot.py tickets protocol

Appends one row a run to data/reference/pilot.jsonl and skips what is there already, so it can be stopped and started.
Takes about a minute and a half a run on two cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace

from workbench import RunStore, TrainConfig, full, hybrid, load_base, load_task, lora, qlora, train
from workbench.reference import PILOT, best_learning_rate, pilot, read_rows
from workbench.runs import provenance, table

SEEDS = (0, 1, 2)
STEPS, BATCH, TEST_ROWS = 60, 16, 120
METHODS = {
    "starved": (lambda rate: lora(rank=1, learning_rate=rate, targets=["q_proj"], layers=[15]), (2e-3, 1e-2)),
    "lora": (lambda rate: lora(rank=8, learning_rate=rate), (5e-4, 2e-3, 5e-3)),
    "full": (full, (3e-5, 1e-4, 3e-4)),
    "hybrid": (lambda rate: hybrid(["layers.29.mlp"], rank=8, learning_rate=rate), (1e-3, 2e-3)),
    "qlora": (lambda rate: qlora(rank=8, learning_rate=rate), (1e-3, 2e-3)),
}


def main() -> None:
    tasks = sys.argv[1:] or ["tickets", "protocol"]
    bases = {None: load_base("smollm2-135m", dtype="bfloat16")}
    bases["nf4"] = load_base("smollm2-135m", dtype="bfloat16", quantization="nf4")
    for name, (make, rates) in METHODS.items():
        for task in tasks:
            base = bases["nf4" if name == "qlora" else None]
            for rate in rates:
                measure(base, task, name, make(rate), seed=SEEDS[0])
            best = best_learning_rate(pilot(task), name)
            for seed in SEEDS[1:]:
                measure(base, task, name, make(best), seed)


def measure(base, task_name: str, name: str, method, seed: int) -> None:
    """Train once and append the row, unless the same row is there."""
    key = {"task": task_name, "name": name, "learning_rate": method.learning_rate, "seed": seed, "steps": STEPS}
    if any(all(row[field] == value for field, value in key.items()) for row in rows()):
        return
    with tempfile.TemporaryDirectory() as scratch:
        config = TrainConfig(steps=STEPS, batch_size=BATCH, seed=seed, test_limit=TEST_ROWS, save=False)
        task = replace(load_task(task_name), labels=None)  # scoring twelve labels a row would double the time
        run = train(base, task, method, config, RunStore(scratch))
    row = key | table([run])[0] | provenance(run) | {"base_exact_match": run.before["exact_match"]}
    with PILOT.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{task_name} {name} {method.learning_rate:g} seed {seed}: {row['exact_match']} {run.status}", flush=True)


def rows() -> list[dict]:
    return read_rows(PILOT) if PILOT.exists() else []


if __name__ == "__main__":
    main()
