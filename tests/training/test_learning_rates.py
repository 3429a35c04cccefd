"""The learning rate of each parameter: PEFT's LoRA+ optimizer and two optimizers side by side are the oracles."""

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer

from workbench import TrainConfig, full, hybrid, load_task, lora, train
from workbench.adapters.inject import apply
from workbench.errors import MethodError
from workbench.training.step import adamw

QUICK = TrainConfig(steps=3, batch_size=4, evaluate=False, save=False)


def rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    return {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}


@pytest.mark.parametrize("options", [{}, {"dora": True}, {"rslora": True}, {"layers": [1]}])
def test_the_rates_of_lora_plus_are_those_of_pefts_own_optimizer(small, options):
    method = lora(rank=2, learning_rate=1e-3, lora_plus=16, **options)
    model = apply(small, method)
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16)
    assert rates(adamw(model, method, QUICK)) == rates(theirs)


def test_what_a_hybrid_opens_has_a_rate_of_its_own(small):
    method = hybrid(["layers.1.mlp", "norm"], rank=2, learning_rate=1e-3, full_learning_rate=3e-5)
    model = apply(small, method)
    found = rates(adamw(model, method, QUICK))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert found[id(parameter)] == (1e-3 if "lora_" in name else 3e-5)


def test_a_hybrids_opened_modules_train_at_a_tenth_of_the_rate_unless_told_otherwise():
    assert hybrid(["norm"], learning_rate=2e-3).full_learning_rate == pytest.approx(2e-4)
    assert hybrid(["norm"], learning_rate=2e-3, full_learning_rate=5e-4).full_learning_rate == 5e-4


@pytest.mark.parametrize("rate", [1e-5, 1e-3])
def test_opened_modules_move_by_their_own_rate(small, store, rate):
    """AdamW's first update of a weight is as large as its rate; a warm-up over the one step halves it."""
    method = hybrid(["layers.1.mlp"], rank=2, learning_rate=1e-3, full_learning_rate=rate)
    run = train(small, load_task("facts"), method, TrainConfig(steps=1, batch_size=4, evaluate=False), store)
    tuned, name = run.load(small).model, "model.layers.1.mlp.down_proj"
    opened = tuned.base_model.model.get_submodule(name.removesuffix(".down_proj")).modules_to_save["default"]
    moved = (opened.down_proj.weight - small.model.get_submodule(name).weight).abs().max()
    assert moved.item() == pytest.approx(rate * run.history[0]["learning_rate"] / 1e-3, rel=0.05)


@pytest.mark.parametrize("method", [lora(rank=2), full(1e-3)], ids=lambda each: each.name)
def test_other_methods_have_one_rate(small, method):
    assert {group["lr"] for group in adamw(apply(small, method), method, QUICK).param_groups} == {method.learning_rate}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lora(lora_plus=0), "lora_plus=0 must be above 0"),
        (lambda: lora(lora_plus="16"), "lora_plus='16' must be a number"),
        (lambda: hybrid(["norm"], full_learning_rate=-1), "full_learning_rate=-1 must be above 0"),
        (lambda: lora(full_learning_rate=1e-4), "belong to hybrid"),
    ],
)
def test_a_rate_that_makes_no_sense_is_refused(make, words):
    with pytest.raises(MethodError, match=words):
        make()


def test_fields_at_their_defaults_leave_a_record_as_it_was():
    assert not {"full_learning_rate", "lora_plus"} & lora().to_dict().keys()
    assert lora(lora_plus=16).to_dict()["lora_plus"] == 16


@pytest.mark.parametrize("options", [{"pissa": True}, {"lora_plus": 16}, {"pissa": True, "rslora": True}], ids=str)
def test_what_these_variants_train_is_what_is_saved_and_loaded(small, store, options):
    run = train(
        small, load_task("facts"), lora(rank=2, **options), TrainConfig(steps=2, batch_size=4, evaluate=False), store
    )
    again = train(
        small, load_task("facts"), lora(rank=2, **options), TrainConfig(steps=2, batch_size=4, evaluate=False), store
    )
    assert run.status == "finished" and run.artifact and "compared" not in (run.advice or "")
    assert [entry["loss"] for entry in run.history] == [entry["loss"] for entry in again.history]
    assert run.load(small).model is not small.model
