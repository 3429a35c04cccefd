"""A last update that is too large, parts without weights, tied tables, what on_step leaves behind, and a caller's own
Accelerator: told, or without effect.
"""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from support.bases_on_disk import few_rows, write_base
from workbench import TrainConfig, full, hybrid, load_base, lora, sweep, train
from workbench.errors import MethodError, TaskError, TrainingError

CONFIG = TrainConfig(steps=2, batch_size=2, evaluate=False)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    write_base(folder / "apart", "llama")
    write_base(folder / "tied", "qwen2", tie_word_embeddings=True)
    return {name: load_base(folder / name, dtype="float32") for name in ("apart", "tied")}


@pytest.mark.parametrize("evaluate", [True, False], ids=["scored", "not scored"])
@pytest.mark.parametrize(
    "method", [lora(rank=2, learning_rate=1e30), full(1e30), hybrid(["norm"], 2, 16, 1e30)], ids=str
)
def test_a_last_update_that_leaves_no_numbers_has_diverged(method, evaluate, bases, store):
    """Nobody has computed the loss after it: what was saved was said to differ from what was trained."""
    config = replace(CONFIG, steps=1, evaluate=evaluate, test_limit=1)
    run = train(bases["apart"], few_rows(), method, config, store)
    assert run.status == "diverged" and "lower the learning rate" in run.advice and run.artifact is None
    assert store.get(run.id).status == "diverged" and bases["apart"].identity == bases["apart"].revision


@pytest.mark.parametrize("name", ["act_fn", "rotary_emb"])
def test_parts_without_weights_are_not_opened(name, bases, store):
    with pytest.raises(MethodError, match=f"{name} holds no weights that could be trained whole"):
        train(bases["apart"], few_rows(), hybrid([name], rank=2), CONFIG, store)


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_one_of_two_tied_tables_that_is_opened_is_told(name, bases, store, capsys, monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    for kind, base in bases.items():
        train(base, few_rows(), hybrid([name], rank=2), CONFIG, store)
        assert ("is trained as a copy of its own" in capsys.readouterr().err) == (kind == "tied")
        assert base.identity == base.revision


def test_a_model_that_on_step_has_scored_drops_as_before(bases, store):
    def losses(on_step):
        run = train(bases["apart"], few_rows(), lora(rank=2, dropout=0.5), replace(CONFIG, steps=4), store, on_step)
        return [entry["loss"] for entry in run.history]

    assert losses(lambda report: report["model"].eval() and None) == losses(None)


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_an_accelerator_of_the_callers_own_goes_on(first, bases, store):
    AcceleratorState._reset_state()
    try:
        own = Accelerator(mixed_precision="bf16") if first == "theirs" else None
        train(bases["apart"], few_rows(), lora(rank=2), CONFIG, store)
        sweep(bases["apart"], few_rows(), [lora(rank=1)], CONFIG, store)
        own = own or Accelerator(mixed_precision="bf16")
        assert own.mixed_precision == "bf16"
        with own.autocast():
            assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    finally:
        AcceleratorState._reset_state()


def test_no_rows_and_what_is_no_function_are_refused_before_anything_is_trained(bases, store):
    task, config = few_rows(), replace(CONFIG, evaluate=True)
    with pytest.raises(TrainingError, match="numbers has no rows to train on"):
        train(bases["apart"], replace(task, train=()), lora(rank=2), config, store)
    with pytest.raises(TaskError, match="numbers has no test rows to score"):
        train(bases["apart"], replace(task, test=()), lora(rank=2), config, store)
    with pytest.raises(TrainingError, match="on_step=3 must be a function"):
        train(bases["apart"], task, lora(rank=2), config, store, on_step=3)
    assert store.all() == []
