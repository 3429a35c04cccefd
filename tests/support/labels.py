"""Which test rows have their right label, without the rest of an evaluation."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.scoring.evaluation import label_choices, right_labels
from workbench.scoring.label_scores import Choice
from workbench.scoring.row_scores import score_rows
from workbench.tasks import Encoded, Task, encode


def chosen(model: PreTrainedModel, rows: list[Encoded], choices: list[Choice]) -> list[bool]:
    """For each row, whether the right one of its labels is the most likely."""
    firsts = [[label[0] for label in choice.labels] for choice in choices]
    return right_labels(model, rows, choices, score_rows(model, rows, firsts))


def label_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, limit: int | None = None
) -> float:
    """The share of test rows whose right label is the most likely."""
    rows = encode(task.test[:limit], tokenizer, 512)
    right = chosen(model, rows, label_choices(tokenizer, task, rows, limit))
    return sum(right) / len(right)
