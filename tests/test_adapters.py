"""Saved adapters are PEFT's own: stock PEFT reads them, and gives the logits that `run.load` gives."""

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from small_models import write_model
from transformers import AutoModelForCausalLM

from workbench import TrainConfig, full, hybrid, load_base, load_task, lora, qlora, train
from workbench.adapters import AdapterError, load
from workbench.runs import RunError

FEW = TrainConfig(steps=3, batch_size=4, test_limit=4)
IDS = torch.arange(100, 140).view(2, 20)
METHODS = [
    lora(rank=2),
    lora(rank=2, rslora=True, targets=["q_proj", "down_proj"], layers=[1]),
    lora(rank=2, dora=True),
    lora(rank=2, dropout=0.2),
    hybrid(["layers.1.mlp", "norm"], rank=2),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_stock_peft_loads_what_was_trained(small, store, method):
    run = train(small, load_task("facts"), method, FEW, store)
    assert run.status == "finished" and run.artifact_bytes == sum(f.stat().st_size for f in run.artifact_dir.iterdir())
    assert (run.artifact_dir / "adapter_model.safetensors").is_file()
    plain = AutoModelForCausalLM.from_pretrained(small.name, dtype=torch.float32)
    with torch.no_grad():
        base_logits = plain(IDS).logits
        expected = PeftModel.from_pretrained(plain, run.artifact_dir).eval()(IDS).logits
        found = run.load(small).model(IDS).logits
    assert torch.equal(found, expected)
    assert not torch.allclose(found, base_logits, atol=1e-4)
    assert type(run.load(small).model).__name__.startswith("PeftModel")


def test_a_full_checkpoint_loads_with_plain_transformers(small, store):
    run = train(small, load_task("facts"), full(1e-3), FEW, store)
    plain = AutoModelForCausalLM.from_pretrained(run.artifact_dir, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(run.load(small).model(IDS).logits, plain(IDS).logits)


def test_scores_after_loading_are_the_recorded_ones(small, small_directory, store):
    from workbench import evaluate

    quantized = load_base(str(small_directory), quantization="nf4", dtype="float32")
    lower = load_base(str(small_directory), dtype="bfloat16")
    opened = hybrid(["layers.1.mlp"], rank=2)  # trained in float32 on a bfloat16 base, and loaded as such
    for base, method in ((small, lora(rank=2)), (quantized, qlora(rank=2)), (lower, opened), (lower, full(1e-3))):
        run = train(base, load_task("facts"), method, FEW, store)
        assert evaluate(run.load(base), load_task("facts"), limit=4) == run.metrics


def test_loading_on_the_wrong_base_says_which_is_right(small, base, store):
    run = train(small, load_task("facts"), lora(rank=2), replace(FEW, evaluate=False), store)
    with pytest.raises(RunError, match="load that base"):
        run.load(base)


def test_a_tuned_base_is_another_base(small, store):
    """What was tuned from it cannot be mistaken for what was tuned from the original."""
    first = train(small, load_task("facts"), full(1e-3), FEW, store)
    second = train(first.load(small), load_task("facts"), lora(rank=2), FEW, store)
    assert second.before["loss"] == pytest.approx(first.metrics["loss"], rel=1e-5)
    with pytest.raises(RunError, match="load that base"):
        second.load(small)
    assert second.load(first.load(small))


def test_a_run_without_an_artifact_says_so(small, store):
    run = train(small, load_task("facts"), lora(rank=2), replace(FEW, evaluate=False, save=False), store)
    assert run.artifact_dir is None
    with pytest.raises(RunError, match="save=True"):
        run.load(small)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_of_another_shape_or_a_damaged_one_is_refused(small, base, store, tmp_path):
    run = train(small, load_task("facts"), lora(rank=2), replace(FEW, evaluate=False), store)
    with pytest.raises(AdapterError, match="damaged or does not fit"):
        load(base, run.artifact_dir)
    with pytest.raises(AdapterError, match="neither"):
        load(small, tmp_path)
    weights = run.artifact_dir / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(AdapterError, match="damaged"):
        load(small, run.artifact_dir)
    (run.artifact_dir / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterError):
        load(small, run.artifact_dir)


def test_the_saved_configuration_is_plain(small, store):
    run = train(small, load_task("facts"), lora(rank=2, alpha=7), replace(FEW, evaluate=False), store)
    saved = json.loads((run.artifact_dir / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"], saved["peft_type"]) == (2, 7, "LORA")
    assert saved["base_model_name_or_path"] == small.name


def test_another_architecture_trains_and_loads(base, tmp_path, store):
    for architecture in ("olmo2", "qwen3", "gemma2"):
        other = load_base(str(write_model(tmp_path / architecture, architecture, base.tokenizer)), dtype="float32")
        run = train(other, load_task("facts"), lora(rank=2), FEW, store)
        assert run.history[-1]["loss"] < run.history[0]["loss"]
        assert run.load(other)
