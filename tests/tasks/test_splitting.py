"""The split of a file without test rows: seeded, of the right size, and near-duplicates on one side."""

import random

import pytest
from hypothesis import given, settings, strategies as st

from workbench.errors import TaskError
from workbench.tasks.splitting import groups, hold_out, near_duplicates

WORDS = [f"word{i}" for i in range(2000)]


def sentence(generator: random.Random, length: int = 12) -> list[str]:
    return generator.sample(WORDS, length)


def test_near_duplicates_are_found_and_others_are_not():
    generator = random.Random(0)
    texts = [sentence(generator) for _ in range(200)]
    copies = [[*text[:-1], "other"] for text in texts[:50]]  # nine of eleven trigrams are in both
    pairs = near_duplicates([" ".join(words) for words in (*texts, *copies)])
    assert set(pairs) == {(place, 200 + place) for place in range(50)}


def test_a_form_that_most_rows_share_makes_no_near_duplicates():
    form = "Below is an instruction that describes a task; write a response that completes it: "
    texts = [f"{form}{' '.join(sentence(random.Random(i), 6))}" for i in range(40)]
    assert near_duplicates(texts) == []
    assert near_duplicates([*texts, texts[3] + " please"]) == [(3, 40)]


def test_many_near_duplicates_are_one_group():
    generator = random.Random(1)
    original = sentence(generator, 20)
    copies = [" ".join([*original, f"end{i}"]) for i in range(30)]
    others = [" ".join(sentence(generator, 20)) for _ in range(100)]
    sizes = sorted(map(len, groups([*copies, *others], range(130))))
    assert sizes == [1] * 100 + [30]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), min_size=2, max_size=60),
    st.floats(0.05, 0.95),
    st.integers(0, 5),
)
def test_every_row_is_on_one_side_and_groups_are_whole(rows, fraction, seed):
    """rows: each a text and a source; equal ones of either kind must not be divided."""
    texts, sources = [f"text {text}" for text, _ in rows], [source for _, source in rows]
    if len(groups(texts, sources)) < 2:
        with pytest.raises(TaskError, match="two different prompts"):
            hold_out(texts, sources, fraction, seed)
        return
    train, test = hold_out(texts, sources, fraction, seed)
    assert train and test and sorted([*train, *test]) == list(range(len(rows)))
    for values in (texts, sources):
        assert {values[place] for place in train}.isdisjoint(values[place] for place in test)
    assert (train, test) == hold_out(texts, sources, fraction, seed)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_the_test_has_its_share_of_the_rows(fraction):
    texts = [f"text {number // 3}" for number in range(300)]
    for seed in range(5):
        _, test = hold_out(texts, range(300), fraction, seed)
        assert fraction * 300 - 2 <= len(test) <= fraction * 300
