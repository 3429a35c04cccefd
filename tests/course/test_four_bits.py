"""The numbers and the text of lesson 03 follow what was measured, whichever way it falls."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from support.records import run
from workbench.course import four_bits
from workbench.course.four_bits import Change
from workbench.models import linear_modules

NATS = st.lists(st.floats(1, 500), min_size=3, max_size=12)


@given(NATS, st.floats(-0.5, 0.5))
def test_the_same_gain_on_every_token_is_the_change_without_noise(nats, gain):
    tokens = [100 + place for place in range(len(nats))]
    after = [old + gain * count for old, count in zip(nats, tokens, strict=True)]
    found = four_bits.change(nats, after, tokens)
    assert found.share == pytest.approx(math.expm1(gain), abs=1e-6)
    assert found.give_or_take == pytest.approx(0, abs=1e-6)


def test_the_interval_widens_with_the_spread_between_texts():
    narrow, wide = (four_bits.change([0, 0, 0], [10, 10 - d, 10 + d], [100] * 3) for d in (1, 5))
    assert narrow.low < narrow.share < narrow.high and wide.give_or_take > 4 * narrow.give_or_take
    # Mean 0.1, standard deviation 0.01, Student's t of two degrees of freedom 4.303.
    assert narrow.high == pytest.approx(math.expm1(0.1 + 4.303 * 0.01 / math.sqrt(3)), abs=1e-4)


def test_a_title_names_the_worst_setting_only_if_it_is_worse():
    cost = {"int8": Change(0.001, -0.01, 0.012), "int4": Change(0.5, 0.4, 0.6)}
    assert four_bits.title_of_settings(cost) == "Perplexity rises least with int8 (+0 %), most with int4 (+50 %)"
    assert four_bits.title_of_settings({"int4": cost["int4"]}) == "Perplexity rises least with int4 (+50 %)"


def test_what_to_ship_follows_from_what_each_merge_loses():
    merges = {"bf16": Change(-0.01, -0.05, 0.02), "NF4 again": Change(1114.0, 740.0, 1677.0)}
    assert four_bits.title_of_merges(merges) == "What loses the training: NF4 again"
    words = four_bits.merge_advice(merges)
    assert "No loss is visible for *bf16*: merge in 16 bits. But *NF4 again* has 1,115 times the perplexity" in words
    assert four_bits.title_of_merges({"bf16": merges["bf16"]}) == "No way to merge loses anything for certain"
    assert "But" not in four_bits.merge_advice({"bf16": merges["bf16"]})
    assert "merge in 16" not in four_bits.merge_advice({"NF4 again": merges["NF4 again"]})


@pytest.mark.parametrize(("second", "words"), [(75, "25% less"), (130, "30% more")])
def test_one_number_against_another(second, words):
    assert four_bits.compared(100, second) == words


def answer(base, lora: float, qlora: float) -> str:
    runs = {"lora": run("lora", exact=lora, memory=2e9), "qlora": run("qlora", exact=qlora, memory=1e9)}
    for each in runs.values():
        each.before["exact_match"] = 0.0
    return four_bits.four_bit_answer(Change(0.28, 0.22, 0.34), 4.127, runs, base, 64)


def test_the_answer_says_what_was_lost_learned_and_saved(small):
    text = answer(small, lora=0.55, qlora=0.5)
    assert text.startswith("**The answer:** In NF4 a weight takes 4.13 bits")
    assert "up by 28% (give or take 6 points)" in text and "Yes, it still learns" in text
    assert "from 0% to 50% of 64 test rows" in text and "with LoRA at the same settings to 55%" in text
    assert "50% less in training here" in text
    assert "It has not clearly learned yet" in answer(small, lora=0.5, qlora=0.02)


def test_a_gpu_is_predicted_with_checkpointing_on_and_off(small):
    runs = {"lora": run("lora", memory=2e9), "qlora": run("qlora", memory=1e9)}
    rows = four_bits.here_and_on_a_gpu(runs, small).splitlines()
    assert "2,000 MB | 1,000 MB | 50% less" in rows[2] and "counted in 16 bits" in rows[3]
    on, off = (float(row.split("|")[3].split()[0]) for row in rows[5:])
    assert on < off, "QLoRA with activations recomputed needs less"
    assert len(four_bits.starting_table().splitlines()) == 5


def test_weights_in_float32_are_counted_in_16_bits(small):
    everything = sum(parameter.numel() for parameter in small.model.parameters())
    rest = everything - sum(rows * columns for rows, columns in linear_modules(small.model).values())
    runs = {"lora": run("lora", memory=2e9), "qlora": run("qlora", memory=1e9)}
    assert four_bits.lean_peaks(runs, small) == (2e9 - 2 * everything, 1e9 - 2 * rest)
    halved = replace(small, model=copy.deepcopy(small.model).bfloat16(), dtype=torch.bfloat16)
    assert four_bits.lean_peaks(runs, halved) == (2e9, 1e9)


def test_tables_show_every_form_and_setting():
    scores = {"a": {"exact_match": 0.5, "loss": 0.0}, "b": {"exact_match": 0.0, "loss": math.log(2345)}}
    table = four_bits.merge_table(scores, 64, {"a": 120.4, "b": 111})
    assert "| a | 50% (give or take 12 points) | 1 | 120 MB |" in table and "| 2,345 | 111 MB |" in table
    table = four_bits.table_of_settings({"int4": 111.4}, {"int4": 17.47}, {"int4": "Paris.\n|"})
    assert "| int4 | 111 MB | 17.5 | `Paris. /` |" in table
