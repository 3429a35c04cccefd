"""Rows of a simulated reference study, whose true scores are known."""

from typing import Any

import numpy as np

from workbench.scoring.scores import pack_rows

ROWS = 1000
RATES = {"full": 1e-4}
RANDOM = np.random.default_rng(0)
HARDNESS = RANDOM.random(
    ROWS
)  # a row is right where it is easier than the run is good: all runs find the same ones hard


def run(
    task: str, name: str, score: float, seed: int, rate: float | None = None, forgot: float = 0.0, rows: int = ROWS
) -> dict[str, Any]:
    """One row: the easier share `score` of the test rows is right, up to some noise of the seed."""
    rate = rate or RATES.get(name.split(",")[0], 2e-3)
    right = HARDNESS[:rows] + 0.02 * np.random.default_rng(seed).standard_normal(rows) < score
    steps = int(name.split(", ")[1].split()[0]) if "steps" in name else 60
    own = {"task": task, "name": name, "method": name, "seed": seed, "learning_rate": rate, "steps": steps}
    own |= {"status": "finished", "exact_match": float(right.mean()), "loss": 1 - score, "forgetting": forgot}
    return own | {"right": pack_rows(right), "task_sha256": task}


def runs(task: str, name: str, score: float, **options: Any) -> list[dict[str, Any]]:
    """A setting on four seeds, of which the first chose the rate."""
    return [run(task, name, score, seed, **options) for seed in range(4)]
