"""Scores of bases, kept in the cache folder: the same weights, data, versions and processor give the same scores.

Kept are those of the packaged model and of models from the Hub, whose weights stay as they are.
"""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TypedDict

from workbench import machine
from workbench.console import say
from workbench.errors import DamagedError
from workbench.models.base import Base
from workbench.paths import cache_dir, write_json
from workbench.scoring import evaluation
from workbench.scoring.scores import Scores
from workbench.stored import read_json

# Of this package, what scores are computed with
CODE = ("scoring/*.py", "models/*.py", "tasks/encoding.py", "tasks/joining.py")


class KeptScores(TypedDict):
    """Scores as they are kept; seconds: that they took, measured: when, asked: what they depend on."""

    scores: dict[str, float]
    right: dict[str, str]
    seconds: float
    measured: str
    asked: str


def kept_scores(base: Base, asked: tuple[object, ...]) -> tuple[Scores, float] | None:
    """Scores that this machine has measured before and the seconds that they took, or None.

    asked: all that they depend on but weights, versions, processor and the program's own code. A line on stderr says
    where they are.
    """
    if not _stays_as_it_is(base):
        return None
    file = _file(base, asked)
    try:
        kept: KeptScores = read_json(file, KeptScores)
    except (OSError, DamagedError):
        return None
    say(f"The base's scores were measured here on {kept['measured']}; to measure them again, delete {file}.")
    return Scores(kept["scores"], kept["right"]), kept["seconds"]


def keep_scores(base: Base, asked: tuple[object, ...], scores: Scores, seconds: float) -> None:
    """Keep scores for `kept_scores`, unless one of them is not finite."""
    if not _stays_as_it_is(base) or not all(map(math.isfinite, scores.values())):
        return
    measured = datetime.now().strftime("%Y-%m-%d at %H:%M")
    kept: KeptScores = {
        "scores": dict(scores),
        "right": scores.right,
        "seconds": seconds,
        "measured": measured,
        "asked": repr(asked),
    }
    with suppress(OSError):  # a cache that cannot be written costs time only
        write_json(_file(base, asked), kept)


def _stays_as_it_is(base: Base) -> bool:
    return base.source in ("package", "hub") and bool(base.weights_fingerprint)


def _file(base: Base, asked: tuple[object, ...]) -> Path:
    hardware = machine.hardware()
    place = (str(base.model.device), hardware["processor"], hardware["threads"], hardware["gpu"])
    computed_on = (*place, sorted(machine.versions().items()))
    texts = (evaluation.general_text()[1], evaluation.everyday_facts())
    everything = (asked, base.weights_fingerprint, base.model.config.to_json_string(), computed_on, texts, _code())
    return cache_dir() / "base_scores" / f"{hashlib.sha256(repr(everything).encode()).hexdigest()[:32]}.json"


@cache
def _code() -> str:
    """A hash of the program's files that decide about scores."""
    package = Path(__file__).parents[1]
    files = [file for pattern in CODE for file in sorted(package.glob(pattern))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
