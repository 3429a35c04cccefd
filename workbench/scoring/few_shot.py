"""Few-shot prompting as a baseline: the untrained base with worked examples in front of each test row."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from workbench.errors import TaskError
from workbench.models.base import Base
from workbench.models.sharing import in_float32, own_precision, shared_copy
from workbench.scoring.evaluation import score
from workbench.scoring.scores import Scores, pack_rows, unpack_rows
from workbench.tasks.encoding import encode
from workbench.tasks.example import Example
from workbench.tasks.joining import pair_ids
from workbench.tasks.tasks import Task

BETWEEN = "\n\n"  # between the examples; the model shows by writing it that its answer has ended


def few_shot_task(task: Task, shots: int, seed: int = 0) -> Task:
    """The task with `shots` training rows, drawn with `seed`, in front of every test prompt; 0 leaves it as it is.

    Raises TaskError for fewer than 0 or more than there are.
    """
    if not 0 <= shots <= len(task.train):
        raise TaskError(f"shots={shots} must be from 0 to the {len(task.train):,} training rows.")
    prompts = {row.prompt for row in task.test}
    drawn = random.Random(seed).sample(
        [row for row in task.train if row.prompt not in prompts] or list(task.train), shots
    )
    shown = "".join(f"{row.prompt}{row.completion}{BETWEEN}" for row in drawn)
    return replace(task, test=tuple(Example(shown + row.prompt, row.completion) for row in task.test))


@own_precision()
def few_shot_score(
    base: Base, task: Task, shots: int, limit: int | None = None, max_length: int = 2048, seed: int = 0
) -> Scores:
    """Exact match of the untrained base with `shots` examples, on the same first `limit` test rows as `evaluate`.

    A row is right if greedy decoding writes the completion and then ends it, with end-of-text or by beginning BETWEEN:
    a model that was not trained on the task has no reason to prefer the former. The loss is that with the end that more
    rows have. Raises TaskError for rows that do not fit.
    """
    rows = encode(few_shot_task(task, shots, seed).test[:limit], base.tokenizer, max_length, "Few-shot test row")
    # BETWEEN as it is tokenized between two examples: "\n\n" alone may be another token
    following = [BETWEEN + row.prompt for row in task.test[:limit]]
    pairs = pair_ids([row.completion for row in task.test[:limit]], following, base.tokenizer)
    going_on = [replace(row, ids=(*row.ids[:-1], after[0])) for row, (_, after) in zip(rows, pairs, strict=True)]
    model = shared_copy(in_float32(base.model)).eval()
    by_end = [score(model, rows), score(model, going_on)]
    right = np.logical_or.reduce([unpack_rows(scores.right["exact_match"]) for scores in by_end])
    best = max(by_end, key=lambda scores: scores["exact_match"])
    return Scores({**best, "exact_match": float(right.mean())}, {**best.right, "exact_match": pack_rows(right)})
