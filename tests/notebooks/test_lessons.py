"""What the first lessons say follows their numbers, whichever way they fall."""

import pytest

from workbench.course import lessons
from workbench.scoring.scores import Scores, pack_rows
from workbench.tasks.example import Example

WANTED = '{"item": "skirt"}'


def lora_answer(exact=(0.0, 0.75), losses=(2.0, 0.1), right=(False, True)):
    scores = tuple({"exact_match": e, "loss": loss} for e, loss in zip(exact, losses, strict=True))
    return lessons.lora_answer((2_442_240, 134_515_008), 60, scores, 48, right)


def test_the_answer_of_lesson_02_holds_its_numbers():
    words = lora_answer()
    assert words.startswith("**The answer:** LoRA leaves every weight W as it is")
    assert (
        "trains 1.8% of the model's numbers. After 60 steps the order e-mail that the model got wrong is now" in words
    )
    assert "0 % were exactly right before and 75 % after (give or take 12 points)" in words
    assert "went from 7.39 to 1.11" in words


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ((False, False), "is still answered wrong"),
        ((True, True), "right before and after"),
        ((True, False), "that was right is now wrong"),
    ],
)
def test_an_e_mail_that_did_not_turn_out_well_is_told_as_it_is(right, words):
    assert words in lora_answer(right=right)


def test_the_answer_of_lesson_00_says_what_trains_and_how_fast():
    words = lessons.first_answer(134_515_008, 2_442_240, 0.8612, right=False)
    assert "2.4 million numbers next to this model's 135 million (1.8%)" in words
    assert "takes 0.86 seconds, and 200 of them about 3 minutes" in words
    assert "gets the order e-mail wrong" in words and "0.3% of Llama-3.1-8B" in words
    assert "already answers" in lessons.first_answer(134_515_008, 2_442_240, 15.2, right=True)


def test_answers_are_compared_without_white_space_at_the_ends_and_shown_in_one_line():
    table = lessons.same_mail(
        "Five skirts.\nJSON:", WANTED, [("before", '\n{\n  "a|b`": 1'), ("after", f" {WANTED}\n")]
    )
    assert table.startswith("> Five skirts.\n") and "JSON:" not in table
    assert '| before | `{ "a/b\'": 1` | wrong |' in table and f"| after | `{WANTED}` | right |" in table
    assert lessons.as_quote(" \n") == "(nothing)"
    assert lessons.as_quote("x" * 200) == f"`{'x' * 120} ...`"


def test_starting_values_count_the_adapters_of_each_model():
    table = lessons.starting_values()
    assert "| llama-3.1-8b | 16 | 32 | 2e-4 | 41.9 million | 168 MB |" in table
    assert lessons.adapter_size("smollm2-135m", 8) == 2_442_240


def test_the_steadier_rule_is_the_one_that_changes_less():
    sizes = {"alpha / r": [0.4, 0.2, 0.1], "alpha / sqrt(r), rsLoRA": [0.1, 0.5, 0.2]}
    words = lessons.scaling_answer(16, (1, 8, 64), sizes, {16: 0.1, 32: 0.19, 128: 0.7})
    assert (
        "with alpha / r it is multiplied by 0.25" in words and "with alpha / sqrt(r), rsLoRA, you can change" in words
    )
    assert "at rank 8 alone it moves the output 2.5 times as far" in words
    assert "alpha 32 at rank 64 moves the output 19.0%, about as far as alpha 16 at rank 8 (20.0%)" in words
    assert "The same factor, alpha 128, moves it 70.0%" in words


def test_two_answers_that_went_wrong_are_shown(small):
    examples = [Example(f"e-mail {n}\nJSON:", " {}") for n in range(4)]
    scores = Scores({"exact_match": 0.25}, {"exact_match": pack_rows([True, False, False, False])})
    table = lessons.two_misses(small, examples, scores).splitlines()
    assert table[2] == "| wanted | written |" and len(table) == 6 and table[4].startswith("| `{}` | ")
    right = Scores({"exact_match": 1.0}, {"exact_match": pack_rows([True] * 4)})
    assert lessons.two_misses(small, examples, right) == "All of them are right."


def test_claims_of_lesson_02_say_whether_the_weights_changed():
    modules = {"0.q_proj": (576, 576), "0.up_proj": (1536, 576)}
    words = lessons.lora_claims(modules, 8, (100, 1000), unchanged=True)
    assert "**supported here**" in words and "it would be 9,216" in words
    assert "**not supported here**" in lessons.lora_claims(modules, 8, (100, 1000), unchanged=False)
