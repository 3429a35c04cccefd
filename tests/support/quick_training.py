"""A training of a second: a random base of any family with a tokenizer, some rows, and few steps."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

from support.random_bases import random_base
from support.small_tokenizers import KINDS, make_tokenizer
from workbench import TrainConfig
from workbench.models.base import Base
from workbench.tasks.example import Example
from workbench.tasks.tasks import Task

CONFIG = TrainConfig(steps=4, batch_size=4, test_limit=2, evaluate=False, save=False)


@cache
def readable_base(family: str = "llama", **fields: float) -> Base:
    """A random base of this family that reads text."""
    base = random_base(family, vocab_size=800, max_position_embeddings=512, **fields)
    return replace(base, tokenizer=make_tokenizer(next(iter(KINDS))))


def rows(count: int = 12) -> Task:
    """A task of short rows."""
    examples = tuple(Example(f"The number after {n} is", f" {n + 1}") for n in range(count))
    return Task("numbers", examples, examples[:4], None, "here", f"{count:064d}")


def losses(run) -> list[float]:
    return [entry["loss"] for entry in run.history]


def edited(file: Path, change) -> None:
    """Change the JSON of a file in place."""
    record = json.loads(file.read_text(encoding="utf-8"))
    change(record)
    file.write_text(json.dumps(record), encoding="utf-8")
