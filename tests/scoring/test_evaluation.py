"""Scores against slow and obvious ways to get them: real generation, one label at a time, torch's own loss."""

import random
from copy import deepcopy
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings, strategies as st
from transformers import GenerationConfig

from support.labels import chosen, label_accuracy
from workbench import load_task
from workbench.errors import TaskError
from workbench.scoring.evaluation import (
    answers,
    evaluate,
    everyday_facts,
    fact_rows,
    forgetting,
    general_rows,
    general_text,
    label_choices,
    score,
)
from workbench.scoring.label_scores import Choice, chosen_right, label_likelihoods
from workbench.scoring.progress import ScoringProgress
from workbench.scoring.row_scores import PLACES_A_BATCH, TOKENS_A_BATCH, RowScores, in_batches
from workbench.scoring.scores import pack_rows, unpack_rows
from workbench.tasks import Encoded, Example, Task, encode

PROMPTS = ("The capital of France is", "One two three four", "def add(a, b):\n    return", "Water is made of", "Then,")


def generated(base, prompt: str, count: int) -> tuple[list[int], list[int]]:
    ids = base.tokenizer(prompt)["input_ids"]
    out = base.model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=0)
    return ids, out[0, len(ids) :].tolist()


@pytest.mark.slow
def test_teacher_forced_exact_match_is_greedy_decoding(base):
    """References that greedy decoding writes count as exact; with one token changed anywhere they do not."""
    rows, expected = [], 0
    for index, prompt in enumerate(PROMPTS):
        ids, written = generated(base, prompt, 6 + index)
        rows.append(Encoded((*ids, *written), len(ids)))
        expected += 1
        for position in (0, len(written) // 2, len(written) - 1):
            changed = list(written)
            changed[position] = (changed[position] + 1) % 49152
            rows.append(Encoded((*ids, *changed), len(ids)))
    assert score(base.model, rows)["exact_match"] == expected / len(rows)


@given(st.lists(st.booleans()))
def test_rows_are_unpacked_as_they_were_packed(right):
    packed = pack_rows(right)
    assert unpack_rows(packed).tolist() == right and len(packed) <= len(right) / 4 + 8


def test_the_rows_that_were_right_are_in_the_order_of_the_rows(small):
    """Rows of several lengths, of which every third has the answer that greedy decoding writes."""
    rows, expected = [], []
    for place in range(12):
        ids, written = generated(small, PROMPTS[place % 5], 9 - place % 4)
        expected.append(place % 3 == 0)
        answer = written if expected[-1] else [*written[:-1], (written[-1] + 1) % 1000]
        rows.append(Encoded((*ids, *answer), len(ids)))
    scores = score(small.model, rows)
    assert unpack_rows(scores.right["exact_match"]).tolist() == expected
    assert scores["exact_match"] == 4 / 12


def test_evaluation_says_which_rows_and_which_labels_were_right(small):
    task = load_task("tickets")
    scores = evaluate(small, task, limit=6)
    assert {name: unpack_rows(packed).mean() for name, packed in scores.right.items()} == {
        name: scores[name] for name in ("exact_match", "label_accuracy")
    }
    rows = encode(task.test[:6], small.tokenizer, 512)
    right = chosen(small.model, rows, label_choices(small.tokenizer, task, rows, 6))
    assert unpack_rows(scores.right["label_accuracy"]).tolist() == right


@pytest.mark.slow
def test_loss_is_a_mean_over_tokens_whatever_the_batches(base):
    rows = encode(load_task("facts").test[:3] + load_task("orders").test[:3], base.tokenizer, 512)
    total = count = 0
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([row.ids])
            logits = base.model(ids).logits[0, row.prompt_length - 1 : -1]
            total += F.cross_entropy(logits, ids[0, row.prompt_length :], reduction="sum").item()
            count += len(row.ids) - row.prompt_length
    assert score(base.model, rows)["loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.slow
def test_label_accuracy_is_the_most_likely_whole_label(base):
    """Against one plain forward for every row and label, labels of several lengths."""
    labels = ("Paris", "Rome", "New York City", "water")
    rows = [
        Example("The capital of France is", " Paris"),
        Example("The capital of Italy is", " Rome"),
        Example("My house is in", " New York City"),
        Example("We drink", " Rome"),
        Example("We all drink", " water"),
    ]
    task = Task("cities", tuple(rows), tuple(rows), labels, "test", "0")
    right = 0
    with torch.no_grad():
        for example in rows:
            likelihood = []
            for label in labels:
                row = encode([Example(example.prompt, f" {label}")], base.tokenizer, 64)[0]
                ids = torch.tensor([row.ids])
                logits = base.model(ids).logits[0, row.prompt_length - 1 : -1].log_softmax(-1)
                likelihood.append(logits.gather(1, ids[0, row.prompt_length :, None]).sum().item())
            right += labels[likelihood.index(max(likelihood))] == example.completion.strip()
    assert 0 < right < len(rows)
    assert label_accuracy(base.model, base.tokenizer, task) == right / len(rows)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2"])
def test_a_limit_that_is_not_a_number_of_rows_is_refused(small, limit):
    with pytest.raises(TaskError, match=f"limit={limit!r} must be a whole number"):
        evaluate(small, load_task("tickets"), limit=limit)


def test_labels_stay_to_choose_from_when_all_their_examples_are_cut_off(small):
    task, asked = load_task("tickets"), []

    for few in (task, task.head(4)):
        rows = encode(few.test[:1], small.tokenizer, 512)
        asked += [choice.labels for choice in label_choices(small.tokenizer, few, rows, limit=1)]
    assert asked[0] == asked[1] and len(asked[0]) == 12


def plain_likelihood(model, prompt, label) -> float:
    ids = torch.tensor([[*prompt, *label]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logits.gather(1, ids[0, len(prompt) :, None]).sum().item()


@settings(max_examples=15)
@given(st.data())
def test_labels_as_branches_of_their_prompt_score_as_one_by_one(small, data):
    ids = st.integers(2, 900)
    prompts = data.draw(st.lists(st.lists(ids, min_size=1, max_size=12), min_size=1, max_size=4))
    labels = [
        data.draw(st.lists(st.lists(ids, min_size=1, max_size=4).map(tuple), min_size=1, max_size=5)) for _ in prompts
    ]
    found = label_likelihoods(small.model, prompts, labels)
    with torch.no_grad():
        for prompt, own, likely in zip(prompts, labels, found, strict=True):
            assert likely == pytest.approx([plain_likelihood(small.model, prompt, each) for each in own], abs=1e-3)


def test_labels_that_cannot_win_are_left_out_and_change_no_choice(small, monkeypatch):
    """As if all labels of all rows were scored; the right one is made likely in some of the rows."""
    draw, choices = random.Random(0), []
    labels = tuple((first, 30 + first, 1) for first in range(5, 17))
    with torch.no_grad():
        for _ in range(24):
            prompt = tuple(draw.randrange(2, 900) for _ in range(draw.randrange(3, 9)))
            likely = [plain_likelihood(small.model, prompt, label) for label in labels]
            best = max(range(12), key=likely.__getitem__)
            choices.append((Choice(prompt, labels, draw.choice([best, draw.randrange(12)])), best))
    rows = [Encoded((*each.prompt, *each.labels[each.right]), len(each.prompt)) for each, _ in choices]
    right = chosen(small.model, rows, [each for each, _ in choices])
    assert right == [each.right == best for each, best in choices] and 0 < sum(right) < 24


def test_a_label_whose_first_token_is_unlikely_is_not_scored(small):
    """The right label is taken to be certain, so nothing is left to score."""
    choice = Choice((5, 6), ((7, 1), (8, 1)), 0)
    none = SimpleNamespace(config=None)
    assert chosen_right(none, [choice], RowScores([0.0], [True], [[-1.0, -2.0]])) == [True]


@given(st.lists(st.integers(1, 600), max_size=120))
def test_batches_have_all_rows_longest_first_and_similar_sizes(lengths):
    batches = in_batches(lengths)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    flat = [lengths[place] for batch in batches for place in batch]
    assert flat == sorted(lengths, reverse=True)
    assert all(sum(lengths[place] for place in batch) <= TOKENS_A_BATCH for batch in batches)
    assert all(len(batch) * lengths[batch[0]] <= PLACES_A_BATCH for batch in batches)


@pytest.mark.parametrize(("seconds", "said"), [(0.1, False), (9.0, True)])
def test_a_log_tells_once_how_long_a_scoring_takes_unless_it_is_short(capsys, monkeypatch, seconds, said):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    now = iter([0.0, seconds / 10, seconds / 5])
    monkeypatch.setattr("workbench.scoring.progress.time.perf_counter", lambda: next(now))
    with ScoringProgress("1,000 test rows", 900) as progress:
        progress.expect(100)
        for _ in range(2):
            progress.advance(100)
    assert capsys.readouterr().err == ("1,000 test rows: about 9 s\n" if said else "")


def test_a_terminal_shows_a_bar(monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    now = iter([0.0, 1.0])
    monkeypatch.setattr("workbench.scoring.progress.time", SimpleNamespace(perf_counter=lambda: next(now)))
    monkeypatch.setattr("workbench.scoring.progress.on_terminal", lambda: True)
    shown = StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    with ScoringProgress("1,000 test rows", 1000) as progress:
        progress.advance(100)
        progress.advance(900)
    assert "1,000 test rows" in shown.getvalue() and "left" in shown.getvalue()


@pytest.mark.slow
def test_the_base_fails_the_tasks_but_knows_the_world(base):
    model, tokenizer = base.model, base.tokenizer
    assert score(model, encode(load_task("orders").test[:2], tokenizer, 512))["exact_match"] == 0
    assert label_accuracy(model, tokenizer, load_task("tickets"), limit=6) < 0.5
    assert score(model, fact_rows(tokenizer))["exact_match"] > 0.5
    assert 1.5 < score(model, general_rows(tokenizer)[:4])["loss"] < 3.5


def test_evaluating_changes_nothing(small):
    before = [parameter.clone() for parameter in small.model.parameters()]
    first = evaluate(small, load_task("facts"), limit=4)
    assert evaluate(small, load_task("facts"), limit=4) == first
    assert all(torch.equal(a, b) for a, b in zip(before, small.model.parameters(), strict=True))
    assert not small.model.training


def test_forgetting_is_positive_when_something_was_lost():
    before = {"general_loss": 2.0, "fact_accuracy": 0.8}
    assert forgetting(before, {"general_loss": 2.5, "fact_accuracy": 0.6}) == pytest.approx(
        {"general_loss": 0.5, "fact_accuracy": 0.2}
    )


def test_general_text_is_pythons_own_and_spread_over_all_of_it(base):
    text, digest = general_text()
    assert len(text) > 400_000 and len(digest) == 64
    rows = general_rows(base.tokenizer)
    assert len({row.ids for row in rows}) == len(rows) == 12 and {len(row.ids) for row in rows} == {128}


def test_everyday_facts_end_where_the_answer_ends(base):
    facts, rows = everyday_facts(), fact_rows(base.tokenizer)
    assert len(facts) == len(rows) >= 30
    assert all(fact.completion.startswith(" ") and not fact.prompt.endswith(" ") for fact in facts)
    for fact, row in zip(facts, rows, strict=True):
        assert base.tokenizer.decode(row.ids[row.prompt_length :]) == fact.completion


def test_answers_stop_by_themselves_or_at_the_limit(base):
    asked = [Example("The capital of France is", "")]
    (written,) = answers(base, asked, max_new_tokens=4)
    assert written.startswith("Paris") and 2 <= len(base.tokenizer(written)["input_ids"]) <= 4
    impatient = deepcopy(base.tokenizer)
    impatient.eos_token = impatient.convert_ids_to_tokens(impatient(" Paris")["input_ids"][0])
    assert answers(replace(base, tokenizer=impatient), asked, max_new_tokens=4) == ["Paris"]


def test_answers_are_greedy_whatever_the_models_own_generation_settings(small, monkeypatch):
    asked = [Example(prompt, "") for prompt in PROMPTS[:2]]
    expected = []
    for example in asked:
        ids = small.tokenizer(example.prompt)["input_ids"]
        count = len(ids) + 6
        with torch.no_grad():
            while len(ids) < count:
                ids.append(small.model(torch.tensor([ids])).logits[0, -1].argmax().item())
        expected.append(small.tokenizer.decode(ids[-6:], skip_special_tokens=True).strip())
    first = small.tokenizer(expected[0])["input_ids"][0]
    own = GenerationConfig(repetition_penalty=5.0, num_beams=3, no_repeat_ngram_size=2, suppress_tokens=[first])
    monkeypatch.setattr(small.model, "generation_config", own)
    assert answers(small, asked, max_new_tokens=6) == expected
