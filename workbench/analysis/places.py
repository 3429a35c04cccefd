"""Where a model stands between learning and forgetting: its score on a task, on general text, and KL from the base."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from workbench.analysis.forgetting import kl_from_base
from workbench.errors import TaskError
from workbench.models.base import Base
from workbench.models.checks import most_tokens
from workbench.models.sharing import in_float32, own_precision, shared_copy
from workbench.scoring.evaluation import answers, general_rows, score
from workbench.scoring.scores import Scores
from workbench.tasks.encoding import Encoded, encode
from workbench.tasks.example import Example
from workbench.tasks.tasks import Task

ANSWER_TOKENS = 6
LONGEST = 512  # tokens of a test row


@dataclass(frozen=True)
class Yardstick:
    """What every model of a comparison is scored on, and the base's own loss on general text.

    rows: of the task's test. general: pieces of general text. prompts: of the task, for KL. sentence: to be completed.
    """

    base: Base
    rows: Sequence[Encoded]
    general: Sequence[Encoded]
    prompts: Sequence[str]
    sentence: str
    base_loss: float


@dataclass(frozen=True)
class Place:
    """The scores of one model.

    exact_match: share of the task's rows; right: which ones, packed. forgotten: loss gained on general text over the
    base, nats a token. kl: KL(base || model) on the task's prompts, nats a token. answer: how the model completes the
    yardstick's sentence.
    """

    exact_match: float
    right: str
    forgotten: float
    kl: float
    answer: str

    @property
    def times(self) -> float:
        """The perplexity on general text as a multiple of the base's."""
        return math.exp(self.forgotten)


def yardstick(base: Base, task: Task, rows: int, prompts: int, sentence: str, pieces: int = 12) -> Yardstick:
    """The first test rows of a task, the prompts of some of them, and pieces of general text (12 at most).

    Raises TaskError for a task with fewer test rows.
    """
    if not 0 < prompts <= rows <= len(task.test):
        raise TaskError(
            f"rows={rows} must be at most the {len(task.test)} test rows of {task.name}, and prompts={prompts} from 1 "
            "to rows."
        )
    encoded = encode(task.test[:rows], base.tokenizer, LONGEST, what="Test row")
    general = general_rows(base.tokenizer, most_tokens(base.model))[:pieces]
    loss = _loss(base, general)
    texts = [example.prompt for example in task.test[:prompts]]
    return Yardstick(base, encoded, general, texts, sentence, loss)


def place_of(measure: Yardstick, model: Base) -> Place:
    """Score one model; the base itself has forgotten 0 and has a KL of 0."""
    scores, general = _scores(model, measure.rows, measure.general)
    forgotten = general["loss"] - measure.base_loss
    kl = kl_from_base(measure.base, model, measure.prompts)
    (answer,) = answers(model, [Example(measure.sentence, "")], ANSWER_TOKENS)
    return Place(scores["exact_match"], scores.right["exact_match"], forgotten, kl, answer)


def times_of(measure: Yardstick, model: Base) -> float:
    """The model's perplexity on general text alone, as a multiple of the base's."""
    return math.exp(_loss(model, measure.general) - measure.base_loss)


OnPlace = Callable[[Mapping[str, Mapping[str, Place]], int], None]  # what there is so far, and how many are left


def along(
    measure: Yardstick, ways: Mapping[str, Mapping[str, Callable[[], Base]]], on_place: OnPlace | None = None
) -> dict[str, dict[str, Place]]:
    """Way -> setting -> the place of the model there.

    ways: the same with functions that make the models, called one at a time. on_place: called after each.
    """
    found: dict[str, dict[str, Place]] = {}
    left = sum(map(len, ways.values()))
    for way, models in ways.items():
        for setting, make in models.items():
            found.setdefault(way, {})[setting] = place_of(measure, make())
            left -= 1
            if on_place:
                on_place(found, left)
    return found


@own_precision()
def _scores(model: Base, *parts: Sequence[Encoded]) -> list[Scores]:
    own = shared_copy(in_float32(model.model)).eval()
    return [score(own, rows) for rows in parts]


def _loss(model: Base, rows: Sequence[Encoded]) -> float:
    return _scores(model, rows)[0]["loss"]


@dataclass(frozen=True)
class Cuts:
    """Exact match on the same `rows` of a base, of a full run of it (whole), and of the run cut to some ranks.

    by_rank: rank -> share; at rank 0 all linear layers have the base's weights.
    """

    base: float
    whole: float
    by_rank: Mapping[int, float]
    rows: int

    def kept(self, rank: int) -> float:
        """What a rank keeps of the gain of training: 0 to 1, or beyond. Raises ValueError where nothing was gained."""
        if self.whole <= self.base:
            raise ValueError("The run has gained nothing over its base, so that there is no gain to keep.")
        return (self.by_rank[rank] - self.base) / (self.whole - self.base)
