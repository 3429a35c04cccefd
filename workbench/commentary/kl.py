"""What lesson 07 asks of KL: does KL(base || tuned) on the task's own prompts tell what was forgotten elsewhere?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scipy.stats import spearmanr

from workbench.analysis.places import Place, Yardstick, place_of
from workbench.models.base import Base
from workbench.results.rows import Row
from workbench.training.runs import Run
from workbench.training.store import RunStore

OTHER_RUNS = 6  # of the learner's, the latest


def correlation(models: Mapping[str, Sequence[Place]]) -> float:
    """Spearman's rank correlation of KL and forgetting over all models; nan where all are alike."""
    places = [one for own in models.values() for one in own]
    kls, forgotten = [one.kl for one in places], [one.forgotten for one in places]
    if len(set(kls)) == 1 or len(set(forgotten)) == 1:
        return math.nan
    return float(spearmanr(kls, forgotten).statistic)


def kl_title(models: Mapping[str, Sequence[Place]]) -> str:
    """Whether KL tells which of these models have forgotten more."""
    rank, count = correlation(models), sum(map(len, models.values()))
    if math.isnan(rank):
        return f"KL and forgetting of {count} models"
    words = "orders" if rank > 0.9 else "roughly orders" if rank > 0.6 else "does not order"
    return f"KL {words} {count} models by what they forgot (rank correlation {rank:.2f})"


def other_runs(store: RunStore, known: Sequence[Run], base: Base, measure: Yardstick) -> dict[str, list[Place]]:
    """Method -> the places of the learner's other runs of the same task, the latest few whose files are there.

    QLoRA, and whatever else was trained on other weights of the base, is left out.
    """
    ids = {run.id for run in known}
    others = [
        run
        for run in store.all()
        if run.id not in ids
        and run.status == "finished"
        and run.method["name"] in ("lora", "hybrid", "full")
        and _origin(run) == _origin(known[0])
        and run.artifact_dir
        and run.artifact_dir.is_dir()
    ]
    found: dict[str, list[Place]] = {}
    for run in others[-OTHER_RUNS:]:
        found.setdefault(run.method["name"], []).append(place_of(measure, run.load(base)))
    return found


def _origin(run: Run) -> tuple[object, ...]:
    """The task and the weights that a run began with."""
    return run.task["sha256"], *(run.base[name] for name in ("name", "revision", "quantization"))


def stored_runs(study: Sequence[Row], task: str) -> dict[str, list[Place]]:
    """Method -> the places of the study's LoRA and full runs of a task whose KL was measured."""
    found: dict[str, list[Place]] = {}
    for row in study:
        if row["task"] == task and row["name"] in ("lora", "full") and row.get("kl") is not None:
            place = Place(row["exact_match"], row["right"], row["forgetting"], row["kl"], answer="")
            found.setdefault(row["name"], []).append(place)
    return found
