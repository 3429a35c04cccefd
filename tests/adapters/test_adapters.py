"""Saved adapters are PEFT's own: stock PEFT reads them, and gives the logits that `run.load` gives."""

import json
import re
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from support.small_models import SIZES, write_model
from workbench import RunStore, TrainConfig, evaluate, full, hybrid, load_base, load_task, lora, qlora, train
from workbench.adapters import change, load, merge, spectra
from workbench.adapters.lowrank import best_rank_r
from workbench.errors import AdapterError, RunError
from workbench.models import linear_modules

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


def test_a_run_knows_its_directory_by_another_spelling(small, small_directory, store, monkeypatch):
    run = train(small, load_task("facts"), lora(rank=2), replace(FEW, steps=1, evaluate=False), store)
    monkeypatch.chdir(small_directory)
    assert run.load(load_base(".", dtype="float32"))


@pytest.mark.parametrize("method", [qlora(rank=2), hybrid(["norm"], rank=2)], ids=lambda method: method.name)
def test_what_made_up_for_quantization_does_not_go_without_it(small, small_directory, store, method):
    packed = load_base(str(small_directory), quantization="nf4", dtype="float32")
    run = train(packed, load_task("facts"), method, replace(FEW, steps=1, evaluate=False), store)
    assert run.load(packed)
    with pytest.raises(RunError, match=r"was trained on nf4 weights; load_base\(..., quantization='nf4'\)"):
        run.load(small)


def test_lora_goes_with_a_base_that_is_stored_otherwise(small, small_directory, store):
    run = train(small, load_task("facts"), lora(rank=2), replace(FEW, steps=1, evaluate=False), store)
    assert run.load(load_base(str(small_directory), quantization="nf4", dtype="float32"))  # as AdapterLab does


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


def test_an_adapter_of_more_or_fewer_layers_is_refused(small, base, store, tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "num_hidden_layers", 3)
    deeper = load_base(write_model(tmp_path / "deeper", "llama", base.tokenizer), dtype="float32")
    run = train(deeper, load_task("facts"), lora(rank=2), replace(FEW, steps=1, evaluate=False), store)
    assert load(deeper, run.artifact_dir)
    with pytest.raises(AdapterError, match=r"model\.layers\.2\.mlp\.down_proj\.lora_A\.weight is in the file only"):
        load(small, run.artifact_dir)


def test_a_full_checkpoint_with_a_tensor_missing_is_refused(small, store):
    run = train(small, load_task("facts"), full(1e-4), replace(FEW, steps=1, evaluate=False), store)
    weights = run.artifact_dir / "model.safetensors"
    tensors = load_file(weights)
    name = "model.layers.1.mlp.down_proj.weight"
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, weights, {"format": "pt"})
    with pytest.raises(AdapterError, match=f"is damaged: its weights lack {re.escape(name)}"):
        run.load(small)
    save_file(tensors | {name: tensors[name][:3].clone()}, weights, {"format": "pt"})
    with pytest.raises(AdapterError, match="is damaged"):
        run.load(small)


@pytest.mark.parametrize("content", ["[]", "{}", '{"peft_type": "LORA", "r": "eight"}'])
def test_a_configuration_that_is_none_is_a_sentence(small, tmp_path, content):
    for name in ("config.json", "adapter_config.json"):  # with the second there, the first is not read
        (tmp_path / name).write_text(content)
        with pytest.raises(AdapterError, match="damaged"):
            load(small, tmp_path)


@pytest.mark.filterwarnings("error:Found missing adapter keys")
@pytest.mark.parametrize("method", [lora(rank=2), hybrid(["norm"], rank=2)], ids=lambda method: method.name)
def test_an_adapter_with_tensors_missing_is_refused(small, store, method):
    run = train(small, load_task("facts"), method, replace(FEW, steps=1, evaluate=False), store)
    weights = run.artifact_dir / "adapter_model.safetensors"
    tensors = load_file(weights)
    for name in tensors:
        save_file({other: tensor for other, tensor in tensors.items() if other != name}, weights)
        with pytest.raises(AdapterError, match=re.escape(name)):
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


@pytest.fixture(scope="module")
def tuned(small, tmp_path_factory):
    """A trained rank-8 adapter on the small model, in a stock PEFT wrapper."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    method = lora(rank=8, alpha=12, targets=["q_proj", "v_proj", "down_proj"])
    return train(small, load_task("facts"), method, replace(FEW, evaluate=False), store).load(small).model


def updates(model) -> dict[str, torch.Tensor]:
    """Each adapted layer's dW, from PEFT's own account of it."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {name: layer.get_delta_weight("default") for name, layer in layers.items()}


@pytest.mark.parametrize("rank", [1, 3, 8, 20])
def test_a_truncated_adapter_is_the_nearest_of_its_rank(tuned, rank):
    before, logits = updates(tuned), tuned(IDS).logits
    cut = change(tuned, rank=rank)
    for name, update in updates(cut).items():
        assert torch.allclose(update, best_rank_r(before[name], min(rank, 8)), atol=1e-6)
    assert all(torch.equal(update, before[name]) for name, update in updates(tuned).items())
    assert torch.equal(tuned(IDS).logits, logits)
    assert torch.allclose(cut(IDS).logits, logits, atol=1e-5) == (rank >= 8)


def test_another_alpha_weighs_the_update(tuned, small):
    before = updates(tuned)
    for name, update in updates(change(tuned, alpha=3.0)).items():
        assert torch.allclose(update, before[name] / 4)
    assert torch.equal(change(tuned, alpha=0)(IDS).logits, small.model(IDS).logits)
    assert torch.equal(change(tuned, alpha=12)(IDS).logits, tuned(IDS).logits)


def test_only_the_selected_modules_act(tuned, small):
    before = updates(tuned)
    for name, update in updates(change(tuned, targets=["v_proj"])).items():
        assert torch.equal(update, before[name] if name.endswith("v_proj") else torch.zeros_like(update))
    assert torch.equal(change(tuned, targets=[])(IDS).logits, small.model(IDS).logits)
    assert torch.equal(change(tuned, targets=["q_proj", "v_proj", "down_proj"])(IDS).logits, tuned(IDS).logits)


def test_spectra_are_the_singular_values_of_the_updates(tuned):
    for name, values in spectra(tuned).items():
        expected = torch.linalg.svdvals(updates(tuned)[name])
        assert len(values) == 8 and torch.allclose(values, expected[:8], atol=1e-6)
    assert {len(values) for values in spectra(change(tuned, rank=2)).values()} == {2}


def test_a_merged_model_computes_what_the_adapter_does(tuned, small):
    before = [weight.clone() for weight in small.model.parameters()]
    whole = merge(small.model, tuned)
    assert torch.allclose(whole(IDS).logits, tuned(IDS).logits, atol=1e-5)
    assert not torch.allclose(whole(IDS).logits, small.model(IDS).logits, atol=1e-3)
    assert all(torch.equal(*pair) for pair in zip(small.model.parameters(), before, strict=True))
    assert not any(isinstance(module, LoraLayer) for module in whole.modules())
    rounded = merge(small.model, tuned, torch.bfloat16)
    name = "model.layers.0.self_attn.q_proj.weight"
    weight = rounded.get_parameter(name)
    assert weight.dtype == torch.float32 and torch.equal(weight, whole.get_parameter(name).bfloat16().float())
    untouched = "model.layers.0.mlp.up_proj.weight"
    assert rounded.get_parameter(untouched) is small.model.get_parameter(untouched)


@pytest.mark.parametrize("method", [full(1e-3), lora(rank=2)], ids=lambda method: method.name)
def test_a_merged_base_trains_and_is_saved_whole(tuned, small, store, method):
    merged = replace(small, model=merge(small.model, tuned), revision=f"{small.revision} + merged")
    run = train(merged, load_task("facts"), method, FEW, store)
    assert run.before["loss"] == pytest.approx(evaluate(replace(small, model=tuned), load_task("facts"), 4)["loss"])
    assert evaluate(run.load(merged), load_task("facts"), limit=4) == run.metrics


def test_merging_into_4_bit_weights_says_what_to_do(tuned, small):
    packed = load_base(small.name, quantization="nf4", dtype="float32")
    with pytest.raises(AdapterError, match="dequantize_base"):
        merge(packed.model, tuned)


def test_what_cannot_be_cut_or_rescaled_says_so(tuned, small, store):
    for call, words in (
        (lambda: change(tuned, rank=0), "at least 1"),
        (lambda: change(tuned, alpha=-1), "0 or more"),
        (lambda: change(tuned, targets=["k_proj"]), "it has them on .*down_proj"),
    ):
        with pytest.raises(AdapterError, match=words):
            call()
    run = train(small, load_task("facts"), lora(rank=2, dora=True), replace(FEW, evaluate=False), store)
    for wanted in ({"rank": 1}, {"alpha": 0}, {"targets": []}):  # its magnitudes would stay
        with pytest.raises(AdapterError, match="DoRA"):
            change(run.load(small).model, **wanted)
    with pytest.raises(AdapterError, match="merge_and_unload can"):
        merge(small.model, run.load(small).model)
    run = train(small, load_task("facts"), hybrid(["layers.1.mlp"], rank=2), replace(FEW, evaluate=False), store)
    with pytest.raises(AdapterError, match=r"layers\.1\.mlp was trained whole"):
        merge(small.model, run.load(small).model)


def test_a_rank_above_a_layers_smaller_side_can_be_cut_and_told(small, store):
    """A key projection of few heads is narrower than a large rank."""
    narrow = min(min(shape) for shape in linear_modules(small.model).values())
    run = train(small, load_task("facts"), lora(rank=narrow + 8, alpha=8), replace(FEW, steps=1, test_limit=2), store)
    model = run.load(small).model
    values = spectra(model)
    assert {len(each) for each in values.values()} == {narrow + 8}
    cut = change(model, rank=narrow + 4)
    for name, each in spectra(cut).items():
        kept = min(narrow + 4, *linear_modules(small.model)[name.removeprefix("base_model.model.")])
        torch.testing.assert_close(each[:kept], values[name][:kept], rtol=1e-3, atol=1e-5)
