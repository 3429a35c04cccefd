"""Evidence of every kind, drawn at random: what the world could look like, in favour of the claims or against them."""

from __future__ import annotations

from itertools import count
from random import Random
from typing import Any

from support.grid_rows import grid_row
from support.records import run
from support.search_rows import search_rows
from support.study_rows import runs as study_runs
from workbench.analysis.places import Cuts
from workbench.cost.gpus import gpus
from workbench.cost.grid import FULL_BF16, FULL_MASTER, LORA, LORA_FEW, QLORA
from workbench.cost.roofline import SHARED, WHOLE, Service
from workbench.retrieval.published import PublishedScore
from workbench.serving.measure import Several

SIZES = {"tiny": 135e6, "one": 1.2e9, "other one": 1.5e9, "three": 3.2e9, "seventy": 70e9}
TASKS = ("tickets", "docs", "orders", "protocol", "facts")
ADAPTERS = ("lora", "qlora", "hybrid", "rank 1", "lora r=64", "alpha=8", "alpha=128", "rslora", "lora, 200 steps")
FEW_ROWS = 200  # of a simulated test: enough to decide, and quick


def evidence(draw: Random) -> dict[str, Any]:
    """All kinds of evidence that rules may need, of a world that favours adapters, full fine-tuning or neither."""
    lean = draw.choice([-1, 0, 1])  # towards full, towards nothing, towards adapters
    return {
        "runs": _runs(draw),
        "grid": _grid(draw),
        "gpus": gpus(),
        "published": {"memory_ratio": 1.7, "speed_ratio": 2.9, "tokens": 10 ** draw.uniform(6, 14)},
        "paired": _paired(draw, lean),
        "study": _chosen(draw),
        **_sweeps(draw, lean),
        "cuts": _cuts(draw),
        "several": _several(draw),
        "services": _services(draw),
        "searches": _searches(draw),
        "published_search": _published_search(draw),
    }


def _runs(draw: Random) -> list[Any]:
    found = []
    for name in ("lora", "qlora", "hybrid", "full"):
        size = 10 ** draw.uniform(6, 10.5)
        changes: dict[str, Any] = {"before": {"exact_match": 0.0}, "artifact_bytes": int(size)}
        changes["task"] = {"name": "t", "source": "t", "sha256": "0", "train_rows": 2, "test_rows": 5000}
        score, memory = draw.choice([0.5, 0.8, 0.81, 1.0]), 10 ** draw.uniform(8, 10)
        found.append(run(name, score, memory, draw.uniform(-0.1, 1), draw.uniform(0.5, 2), **changes))
    return found


def _grid(draw: Random) -> list[dict[str, Any]]:
    rows = []
    much = draw.uniform(0.5, 30)  # bytes a parameter in full
    shares = {LORA_FEW: draw.uniform(0.05, 1.2), QLORA: draw.uniform(0.05, 1.2)}
    shares |= {LORA: draw.uniform(0.05, 1.2), FULL_MASTER: 1.0, FULL_BF16: draw.uniform(0.6, 1)}
    trained, money = 10 ** draw.uniform(6, 8.5), draw.uniform(0.1, 1.2)
    for model, parameters in SIZES.items():
        own = much * draw.choice([0.05, 0.2, 1, 1, 1, 4, 100])
        for setting, share in shares.items():
            size = own * share * parameters * draw.choice([1, 1, 0.5])
            rows.append(grid_row(model, parameters, setting, size, trained, money, a100s=1 + int(size / 80e9)))
    return rows


def _paired(draw: Random, lean: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    steps_of_rates = draw.choice([10, 10, 2, 100])  # LoRA's best rate over full's
    for task in draw.sample(TASKS, draw.randint(1, 4)):
        usual = draw.choice([0.5, 0.8])
        for name in ADAPTERS:
            score = usual if lean > 0 else min(0.95, usual + draw.choice([0, 0, 0.15]))
            if draw.random() < 0.3:
                score = draw.choice([0.3, 0.5, 0.8, 0.95])
            rows += study_runs(task, name, score, forgot=draw.uniform(0, 1), rows=FEW_ROWS)
        for name in ("full", "full, 200 steps"):
            score = usual - 0.2 if lean > 0 else usual + 0.19 if lean < 0 else usual
            rows += study_runs(
                task, name, score, rate=2e-3 / steps_of_rates, forgot=draw.uniform(0, 1.5), rows=FEW_ROWS
            )
    return rows


def _row(rank: int | None, exact: float, rate: float, seed: int = 0, alpha: float = 32.0, **changes: Any):
    own = {"rank": rank, "alpha": alpha, "learning_rate": rate, "seed": seed, "exact_match": exact, "loss": 1 - exact}
    own |= {"status": "finished", "targets": "all-linear", "layers": None, "rslora": False}
    return own | changes


def _sweeps(draw: Random, lean: int) -> dict[str, list[dict[str, Any]]]:
    factor, spread = draw.choice([2, 4]), draw.choice([0.01, 0.1])
    rates = [1e-3, 1e-3 * factor]

    def band(values: list[tuple[int, float]], level: float) -> list[dict[str, Any]]:
        return [
            _row(
                rank,
                max(0.0, min(1.0, level + draw.choice([0, 0.3]) * (place > 0) - 0.2 * (rate != rates[0]))),
                rate,
                alpha=alpha,
            )
            for place, (rank, alpha) in enumerate(values)
            for rate in rates
        ]

    level = draw.choice([0.02, 0.4, 0.6])
    ranks = band([(1, 32.0), (8, 32.0)], level)
    best = max(row["exact_match"] for row in ranks if row["rank"] == 8)
    ranks += [_row(8, min(1.0, best + spread * seed / 2), rates[0], seed) for seed in (1, 2)]
    whole = min(1.0, max(0.0, best - 0.2 * lean + 0.02))
    ratio = draw.choice([2, 10, 10, 40])
    return {
        "ranks": ranks,
        "few": band([(1, 32.0), (8, 32.0)], draw.choice([0.02, 0.4])),
        "alphas": band([(8, 8.0), (8, 32.0)], level),
        "full": [_row(None, whole, rates[0] / ratio), _row(None, whole / 2, rates[1] / ratio)],
    }


def _chosen(draw: Random) -> list[dict[str, Any]]:
    rows, number = [], count()
    for _ in range(draw.randint(1, 2)):
        task = f"task {next(number)}"
        for name, rank, level in (("auto", 8, draw.choice([0.5, 0.8])), ("lora", 16, draw.choice([0.5, 0.8]))):
            rows += [_row(rank, level + 0.01 * s, 1e-3, s, name=name, method="lora", task=task) for s in (0, 1)]
    return rows


def _cuts(draw: Random) -> Cuts:
    base, whole = 0.1, draw.choice([0.1, 0.9])
    return Cuts(base, whole, {rank: draw.uniform(base, 1) for rank in (0, 1, 8, 64)}, 1000)


def _several(draw: Random) -> Several:
    sizes = [int(10 ** draw.uniform(6, 10.5)) for _ in range(2)]
    seconds = [10 ** draw.uniform(-3, 1) for _ in range(2)]
    return Several(draw.randint(1, 9), *sizes, *seconds, draw.random() < 0.5, draw.random() < 0.5)


def _services(draw: Random) -> dict[int, dict[str, Service]]:
    return {
        tasks: {way: Service(1e9, draw.randint(1, 9), 100.0) for way in (SHARED, WHOLE)}
        for tasks in draw.sample((1, 10, 100), draw.randint(1, 3))
    }


def _searches(draw: Random) -> list[dict[str, Any]]:
    base, lora, full = (draw.choice([0.4, 0.6, 0.8]) for _ in range(3))
    return search_rows(base, FEW_ROWS, lora=lora, full=full)


def _published_search(draw: Random) -> list[PublishedScore]:
    names = ("base", "lora", "full")
    return [PublishedScore("pages", name, draw.choice([0.4, 0.6, 0.8]), 3000, "s") for name in names]
