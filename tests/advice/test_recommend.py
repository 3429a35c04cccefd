"""Bits memorised and to be learnt, the rule for the learning rate, and the recommendation."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from transformers import MixtralConfig, MixtralForCausalLM

from workbench import TrainConfig, full, load_base, load_task, lora, recommend, train
from workbench.adapters.inject import adapter_parameters
from workbench.advice import recommend as module
from workbench.advice.recommend import (
    LARGEST_RANK,
    SMALLEST_RANK,
    bits_to_learn,
    learning_rate_rule,
    memorised_bits,
    rows_with_bits,
)
from workbench.errors import TaskError
from workbench.tasks import Example, encode
from workbench.tasks.tasks import information_bits

FACTS = load_task("facts")


def test_bits_memorised_are_those_no_longer_needed():
    assert memorised_bits(0.0, 100, 300.0) == 300.0
    assert memorised_bits(math.log(2), 100, 300.0) == pytest.approx(200.0)  # a bit a token is still lacking
    assert memorised_bits(50.0, 100, 300.0) == 0.0


def test_the_real_models_parameters(base):
    assert adapter_parameters(base, lora(rank=1)) == 305_280


def test_bits_to_learn_are_the_models_surprise(small):
    """Random weights predict every token alike: log2(vocabulary) bits a token; repeated rows are counted once."""
    expected = math.log2(len(small.tokenizer)) * 6 * len(FACTS.train)
    assert bits_to_learn(small, FACTS) == pytest.approx(expected, rel=0.1)
    doubled = replace(FACTS, train=FACTS.train * 2)
    assert bits_to_learn(small, doubled) == pytest.approx(bits_to_learn(small, FACTS))


@pytest.mark.slow
def test_random_codes_cannot_be_known_beforehand(base):
    """The estimate is an upper bound on the codes' own bits, and less than five times too high."""
    assert information_bits(192) < bits_to_learn(base, FACTS) < 5 * information_bits(192)


def test_the_rate_falls_with_the_hidden_size_and_in_long_runs():
    assert learning_rate_rule(2048, 5000) == pytest.approx(4.9e-4)
    assert learning_rate_rule(576, 5000) == pytest.approx(1.3e-3)
    assert learning_rate_rule(576, 60) == pytest.approx(2e-3)


def test_the_recommendation_gives_its_reasons(small, store):
    config = TrainConfig(steps=2, batch_size=2, evaluate=False, save=False)
    method = recommend(small, FACTS.head(8), config)
    assert method.name == "lora" and method.rank == SMALLEST_RANK and method.targets == "all-linear"
    assert len(method.reasons) == 5 and f"hidden size {64}" in method.reasons[3]
    assert "is a rule, and nothing was tried" in method.reasons[4]
    run = train(small, FACTS, method, config, store)
    assert store.get(run.id).method["reasons"] == list(method.reasons)
    assert "reasons" not in lora(rank=2).to_dict() and replace(method, reasons=()) == method


@pytest.mark.slow
def test_much_to_learn_asks_for_a_higher_rank_and_in_the_end_for_full(small):
    """Random text that no model can predict: rank grows with its length until adapters are too small."""

    def rank_for(count: int):
        rows = tuple(Example(f"{index}:", "x" * 40 + str(index)) for index in range(count))
        return recommend(small, replace(FACTS, train=rows))

    few, many, too_many = (rank_for(count) for count in (10, 300, 100_000))
    assert few.rank < many.rank < too_many.rank == LARGEST_RANK
    assert "full fine-tuning" in too_many.reasons[-1] and not any("full fine" in reason for reason in few.reasons)


def test_a_quantized_base_gets_qlora(small_directory):
    base = load_base(str(small_directory), quantization="nf4", dtype="float32")
    assert recommend(base, FACTS).name == "qlora"


def test_a_row_that_is_too_long_is_said_to_be_one_of_the_sample(small):
    """Every second row is sampled, so the eleventh of the sample is not the eleventh of the task."""
    rows = [Example(f"{number}:", " 1") for number in range(128)]
    rows[20] = Example("long " * 60, " 1")
    with pytest.raises(TaskError, match=r"^Sampled train row 11 \('long long"):
        recommend(small, replace(FACTS, train=tuple(rows)), TrainConfig(max_length=50))


def test_rows_carry_their_bits(small, store):
    config = TrainConfig(steps=1, batch_size=2, test_limit=8, save=False)
    scored = train(small, FACTS, lora(rank=1), config, store)
    unscored = train(small, FACTS, full(), replace(config, evaluate=False), store)
    learnt = replace(scored, metrics=scored.metrics | {"loss": 0.01})
    rows = rows_with_bits([scored, unscored, learnt], small.tokenizer, FACTS)
    assert rows[0]["memorised_bits"] == 0.0 and rows[1]["memorised_bits"] is None
    tokens = sum(row.completion_tokens for row in encode(FACTS.test, small.tokenizer, 512))
    lacking = 0.01 / math.log(2) * tokens
    assert rows[2]["memorised_bits"] == pytest.approx(information_bits(len(FACTS.test)) - lacking, rel=1e-6)


@pytest.mark.parametrize("rows", [3, 64, 96, 127, 191])
def test_the_sample_reaches_from_the_first_row_to_the_last(small, rows, monkeypatch):
    """The 96 facts of lesson 05 are one and a half samples: the later third must not be left out."""
    seen = []
    real = module.encode
    monkeypatch.setattr(module, "encode", lambda sample, *rest: seen.extend(sample) or real(sample, *rest))
    task = load_task("facts")
    task = replace(task, train=(task.train * 2)[:rows] if rows > len(task.train) else task.train[:rows])
    bits_to_learn(small, task)
    places = [list(task.train).index(row) for row in seen]
    assert len(seen) == min(64, rows) and places[0] == 0 and places[-1] >= rows - 1 - rows // 64
    gaps = {b - a for a, b in pairwise(places)}
    assert max(gaps) - min(gaps) <= 1


def test_the_recommendation_says_which_matrices_cannot_have_an_adapter(base, tmp_path):
    """The experts of a mixture are tensors of three dimensions and no linear layers."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=4, vocab_size=len(base.tokenizer))
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    reasons = recommend(load_base(tmp_path, dtype="float32"), FACTS.head(8)).reasons
    assert re.search(
        r"all \d linear layers, .* 8\d% of the blocks' matrices are no linear layers and get none", reasons[0]
    )


def test_nothing_is_left_out_of_a_plain_model(small):
    assert "no linear layers" not in recommend(small, FACTS.head(8)).reasons[0]
