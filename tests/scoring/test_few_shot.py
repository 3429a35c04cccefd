"""Few-shot prompting on the same rows as the tuned model: what is shown, and when an answer counts as right."""

from dataclasses import replace

import pytest

from workbench import load_task
from workbench.errors import TaskError
from workbench.scoring.evaluation import answers
from workbench.scoring.few_shot import BETWEEN, few_shot_score, few_shot_task
from workbench.scoring.scores import pack_rows
from workbench.tasks import Example

TICKETS = load_task("tickets")


def test_training_rows_stand_in_front_of_each_test_row_and_the_rows_stay_the_same():
    shown = few_shot_task(TICKETS, 3)
    assert [row.completion for row in shown.test] == [row.completion for row in TICKETS.test]
    before, last = shown.test[0].prompt.rsplit(BETWEEN, 1)
    assert last == TICKETS.test[0].prompt and before.count(BETWEEN) == 2
    train = {row.prompt + row.completion for row in TICKETS.train}
    assert all(part in train for part in before.split(BETWEEN))
    assert shown.test[1].prompt.startswith(before) and few_shot_task(TICKETS, 0) == TICKETS
    assert few_shot_task(TICKETS, 3, seed=1).test[0] != shown.test[0]


@pytest.mark.parametrize("shots", [-1, 10_000])
def test_more_shots_than_rows_are_refused(shots):
    with pytest.raises(TaskError, match=f"shots={shots} must be from 0 to"):
        few_shot_task(TICKETS, shots)


def test_the_answer_to_recall_is_not_shown():
    facts = load_task("facts")
    shown = few_shot_task(replace(facts, test=facts.test[:20]), 5)
    assert not any(row.prompt in shown.test[0].prompt.rsplit(BETWEEN, 1)[0] for row in facts.test[:20])


def test_the_score_is_that_of_greedy_decoding(base):
    """Teacher forcing against generation: the text up to the first blank line is the reference."""
    rows = tuple(Example(f"{a} and {a + 1} is", f" {2 * a + 1}") for a in range(1, 9))
    task = replace(TICKETS, train=rows[:4], test=rows[4:], labels=None)
    scores = few_shot_score(base, task, 4)
    written = answers(base, few_shot_task(task, 4).test, max_new_tokens=12)
    right = [
        text.split(BETWEEN)[0].strip() == row.completion.strip() for text, row in zip(written, rows[4:], strict=True)
    ]
    assert scores["exact_match"] == pytest.approx(sum(right) / len(right))


def test_each_row_may_end_in_its_own_way(base):
    """The model closes two of these with end-of-text, the third with a blank line."""
    chat = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    rows = (
        Example(chat.format("What is the capital of France? Answer with one word."), "The capital of France is Paris."),
        Example(chat.format("What is 2 + 2? Answer with a number only."), "The answer is 4."),
        Example("One, two,\n\nOne, two,\n\nOne,", " two,"),
    )
    scores = few_shot_score(base, replace(TICKETS, test=rows, labels=None), 0)
    assert scores["exact_match"] == 1 and scores.right["exact_match"] == pack_rows([True] * 3)
