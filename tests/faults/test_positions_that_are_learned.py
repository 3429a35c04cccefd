"""Texts longer than a model's table of positions are refused by their row, and scores and answers stay within it."""

import pytest

from support.bases_on_disk import few_rows, write_base
from workbench import TrainConfig, load_base, lora, train
from workbench.analysis.forgetting import perplexity
from workbench.errors import TaskError
from workbench.models.checks import most_tokens
from workbench.scoring.evaluation import answers
from workbench.tasks.example import Example
from workbench.tasks.tasks import Task

MOST = 64  # positions: fewer than the tokens of a piece of general text
OLD_NAMES = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": MOST}
FAMILIES = {
    "gpt2": OLD_NAMES,
    "openai-gpt": OLD_NAMES,
    "gptj": OLD_NAMES | {"rotary_dim": 8},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "biogpt": {},
}
CONFIG = TrainConfig(steps=1, batch_size=2, test_limit=1, max_length=500, save=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_of_positions_bounds_every_text(family, tmp_path, store):
    base = load_base(write_base(tmp_path, family, max_position_embeddings=MOST, **FAMILIES[family]), dtype="float32")
    assert most_tokens(base.model) == MOST
    run = train(base, few_rows(), lora(rank=2), CONFIG, store)
    assert run.status == "finished" and run.metrics["general_loss"] > 0
    long = Example("one two three four five six seven " * 10, " eight")
    for rows, what in (((long, *few_rows().train), "Train row 1"), (few_rows().train, "Test row 1")):
        task = Task("numbers", tuple(rows), (long,), None, "here", "1" * 64)
        with pytest.raises(TaskError, match=f"{what} has .* tokens, and the model knows {MOST} positions"):
            train(base, task, lora(rank=2), CONFIG, store)
    assert len(answers(base, few_rows().test, 500)) == len(few_rows().test)
    assert perplexity(base) > 1


@pytest.mark.parametrize("family", ["llama", "bloom", "mamba"])
def test_positions_that_are_computed_bound_nothing(family, tmp_path):
    base = load_base(write_base(tmp_path, family, max_position_embeddings=MOST), dtype="float32")
    assert most_tokens(base.model) is None
