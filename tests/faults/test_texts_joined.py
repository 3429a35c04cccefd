"""Prompt and completion are read as one text, whatever the tokenizer does where a text begins or ends.

Reported for others as huggingface/transformers#26273 (a space that nobody wrote before each completion).
"""

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers.processors import TemplateProcessing

from support.small_tokenizers import KEEPING, KINDS, make_tokenizer
from workbench.errors import TaskError
from workbench.scoring.evaluation import everyday_facts, fact_rows
from workbench.tasks import Example, encode
from workbench.tasks.joining import prompt_ids

PAIRS = [("Colour:", " red"), ("Reply in JSON: ", "[1]"), ("Class\n", "spam"), ("Then", "\nstop"), ("un", "likely")]
LETTERS = "abe R7.:({\n\té"
TEXTS = st.text(LETTERS, min_size=1, max_size=8).filter(str.strip)


def read(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.fixture(autouse=True)
def spoken(monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return make_tokenizer(request.param)


@pytest.mark.parametrize("kind", KEEPING)
@settings(max_examples=25)
@given(prompt=TEXTS.map("Q{}".format), completion=TEXTS)
def test_the_tokens_of_both_say_their_plain_concatenation(kind, prompt, completion):
    tokenizer = make_tokenizer(kind)
    (row,) = encode([Example(prompt, completion)], tokenizer, 99)
    start = " " if kind == "bytes after a space" else ""  # what this model has always read where a text begins
    assert read(tokenizer, row.ids[: row.prompt_length]) == start + prompt
    assert read(tokenizer, row.ids[:-1]) == start + prompt + completion
    assert row.ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(("prompt", "completion"), PAIRS)
def test_nothing_stands_between_prompt_and_completion_that_nobody_wrote(tokenizer, prompt, completion):
    (row,) = encode([Example(prompt, completion)], tokenizer, 99)
    assert read(tokenizer, row.ids[:-1]) == read(tokenizer, tokenizer(prompt + completion)["input_ids"])
    assert list(row.ids[: row.prompt_length]) == prompt_ids(prompt, tokenizer)  # as `answers` asks


def test_tokens_that_are_dropped_at_random_are_the_same_each_time():
    tokenizer, rows = make_tokenizer("marks with dropout"), [Example("A sentence of some length:", " and its end")]
    assert len({tuple(tokenizer(rows[0].prompt)["input_ids"]) for _ in range(20)}) > 1
    assert len({encode(rows, tokenizer, 99)[0] for _ in range(20)}) == 1


@pytest.mark.parametrize("kind", ["bytes after a space", "t5", "word pieces"])
def test_a_tokenizer_that_does_not_keep_texts_is_named(kind, capsys):
    encode([Example("Class\n", "Spam")], make_tokenizer(kind), 99, what="Train row")
    said = capsys.readouterr().err
    assert "Train rows: this tokenizer does not keep texts as written: 'Class\\nSpam' is read as " in said


def test_nothing_is_said_where_texts_are_kept(capsys, base):
    encode([Example("Class:", " spam")], make_tokenizer("llama 2"), 99)
    encode([Example("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Ho  .")], base.tokenizer, 99)
    assert capsys.readouterr().err == ""


def test_the_packaged_tokenizer_reads_both_sides_apart_as_ever(base):
    """Recorded losses depend on it, also where both together would be other tokens."""
    for prompt, completion in (*PAIRS, ("cafe", "\u0301"), ("12", "34"), ("a  ", "  b"), ("x\n", "\n\ny")):
        (row,) = encode([Example(prompt, completion)], base.tokenizer, 99)
        apart = [base.tokenizer(text)["input_ids"] for text in (prompt, completion)]
        assert row.ids == (*apart[0], *apart[1], base.tokenizer.eos_token_id) and row.prompt_length == len(apart[0])


def test_everyday_facts_are_read_as_their_sentences_are(tokenizer):
    for fact, row in zip(everyday_facts(), fact_rows(tokenizer), strict=True):
        whole = tokenizer(fact.prompt + fact.completion)["input_ids"]
        assert read(tokenizer, row.ids) == read(tokenizer, whole)


# --- the end of a text, and its beginning


@pytest.mark.parametrize("written", ["yes</s>", "yes</s></s>", "yes"])
@pytest.mark.parametrize("kind", ["bytes", "first mark", "t5", "word pieces"])
def test_end_of_text_is_trained_once(kind, written, capsys):
    tokenizer = make_tokenizer(kind)
    (row,) = encode([Example("Well?\n", written)], tokenizer, 99, what="Train row")
    assert row.ids == encode([Example("Well?\n", "yes")], tokenizer, 99)[0].ids
    assert ("1 of 1 completions end in '</s>'" in capsys.readouterr().err) == (written != "yes")


@pytest.mark.parametrize("kind", ["bytes", "first mark", "t5", "word pieces"])
def test_end_of_text_before_the_end_of_an_answer_is_refused(kind):
    rows = [Example("Well?", " yes"), Example("And?", " no</s>\nWell? yes")]
    with pytest.raises(TaskError, match=r"^Train row 2 \('And\?'.*the end-of-text token '</s>' before its end"):
        encode(rows, make_tokenizer(kind), 99, what="Train row")


def test_end_of_text_in_a_prompt_is_told_unless_it_closes_a_turn_of_a_chat(capsys):
    tokenizer = make_tokenizer("bytes")
    encode([Example("Hi.</s>Well?", " yes")], tokenizer, 99)
    assert "1 of 1 prompts hold the end-of-text token '</s>'" in capsys.readouterr().err
    tokenizer.chat_template = "{{ messages }}"
    encode([Example("Hi.</s>Well?", " yes")], tokenizer, 99)
    assert capsys.readouterr().err == ""
    encode([Example("Well?</s>", "yes")], tokenizer, 99)
    assert "1 of 1 prompts" in capsys.readouterr().err


def test_beginning_of_text_is_not_put_before_a_prompt_that_has_it():
    tokenizer = make_tokenizer("bytes")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    without, having = encode([Example("Well?", " yes"), Example("<s>Well?", " yes")], tokenizer, 99)
    assert without == having and without.ids.count(tokenizer.bos_token_id) == 1
    assert prompt_ids("<s>Well?", tokenizer) == list(having.ids[: having.prompt_length])


@pytest.mark.parametrize("kind", ["t5", "word pieces"])
def test_one_row_of_many_with_signs_that_are_not_known_is_told(kind, capsys):
    rows = [Example(f"ask {word}", " yes") for word in ["the", "and", "of", "in"] * 50]
    rows[7] = Example("ask the", " \u4e2d")
    encode(rows, make_tokenizer(kind), 512, what="Train row")
    words = capsys.readouterr().err
    assert "Train rows: 1 of 200 hold characters that this tokenizer does not know" in words
    assert "first row 8." in words
    encode(rows[8:], make_tokenizer(kind), 512)
    assert "does not know" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["bytes", "first mark"])
def test_a_tokenizer_that_knows_every_byte_says_nothing_of_it(kind, capsys):
    encode([Example("ask", " \u4e2d \u2603")], make_tokenizer(kind), 512)
    assert "does not know" not in capsys.readouterr().err
