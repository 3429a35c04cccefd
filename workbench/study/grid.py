"""The rank sweeps of lesson 05: ranks, learning rates, alphas and targets on 96 of the `facts`.

    .venv/bin/python -m workbench.study.grid [GROUP ...]

Writes one row per run to data/reference/sweeps.jsonl. build/grid/ keeps the passes that are done, so it can be stopped
and started again. About an hour on two cores.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from workbench import Method, RunStore, full, load_base, load_task, lora, sweep
from workbench.adapters.methods import ATTENTION, MLP
from workbench.advice.recommend import rows_with_bits
from workbench.paths import CHECKOUT
from workbench.results.reference import SWEEP_CONFIG, SWEEPS, read_rows
from workbench.results.rows import by_best_rate
from workbench.tasks.tasks import SWEEP_FACTS
from workbench.training.runs import COMPLETE, provenance

RANKS = (1, 4, 16, 64)
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
ALPHA_RATES = (1.25e-4, 5e-4, 2e-3, 8e-3, 3.2e-2)
MORE_SEEDS = (1, 2)


def few() -> list[Method]:
    """Adapters on one matrix of one block, or at rank 1 on one to twenty whole blocks: small enough to fill."""
    one = [lora(rank, 32, rate, targets=["down_proj"], layers=[15]) for rank in (1, 8, 64) for rate in (4e-3, 1.6e-2)]
    blocks = ([15], [14, 15, 16], range(12, 18), range(10, 20), range(5, 25))
    return one + [lora(1, 32, rate, layers=layers) for layers in blocks for rate in (1e-3, 2e-3, 4e-3)]


def at_equal_parameters() -> list[Method]:
    """Attention only, MLP only, all: ranks such that each has about 81,000 parameters a block."""
    choices = ((8, "all-linear"), (21, ATTENTION), (13, MLP))
    return [lora(rank, 32, best_rates()[4], targets=targets) for rank, targets in choices]


def best_rates() -> dict[int, float]:
    """The best learning rate of each rank, on seed 0."""
    swept = by_best_rate(row for row in rows() if row["group"] == "rate")
    return {rank: own[0]["learning_rate"] for rank, own in swept.items()}


# Name of a group -> its methods and seeds.
GROUPS: dict[str, Callable[[], tuple[list[Method], Sequence[int]]]] = {
    "rate": lambda: ([lora(rank, 32, rate) for rank in RANKS for rate in RATES], (0,)),
    "seeds": lambda: ([lora(rank, 32, rate) for rank, rate in best_rates().items()], MORE_SEEDS),
    "few": lambda: (few(), (0,)),
    "targets": lambda: (at_equal_parameters(), (0, 1, 2)),
    "full": lambda: ([full(rate) for rate in (5e-5, 1e-4, 2e-4, 4e-4)], (0,)),
    "alpha": lambda: ([lora(8, alpha, rate) for alpha in (4, 32, 256) for rate in ALPHA_RATES], (0,)),
}


def main() -> None:
    """Train the groups named on the command line, or all, and replace their rows."""
    base, task = load_base("smollm2-135m", dtype="bfloat16"), load_task("facts").head(SWEEP_FACTS)
    store = RunStore(CHECKOUT / "build" / "grid")
    for group in sys.argv[1:] or GROUPS:
        methods, seeds = GROUPS[group]()
        runs = sweep(base, task, methods, SWEEP_CONFIG, store, seeds=seeds)
        if len(runs) < len(methods) * len(seeds) or any(run.status not in COMPLETE for run in runs):
            sys.exit(f"{group} is not complete, so {SWEEPS.name} stays as it was; the same command goes on from there.")
        kept = [row for row in rows() if row["group"] != group]
        for run, row in zip(runs, rows_with_bits(runs, base.tokenizer, task), strict=True):
            row["losses"] = [round(entry["loss"], 3) for entry in run.history[::5]]
            row["together"] = run.together and run.together["configurations"]
            kept.append({"group": group} | row | provenance(run))
        SWEEPS.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        print(f"{group}: {len(runs)} runs", flush=True)


def rows() -> list[dict[str, Any]]:
    """All rows that are stored."""
    return read_rows(SWEEPS) if SWEEPS.exists() else []


if __name__ == "__main__":
    main()
