"""GPT-2 and its kin store a linear layer's weight as (in, out), in a Conv1D: adapters go on it as on any other layer.

huggingface/peft#3009: the public report of a merge that took one orientation for the other.
"""

import warnings
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from support.bases_on_disk import few_rows, write_base
from support.random_bases import logits, random_base, stock_adapter
from support.tuned_bases import full_run
from workbench import RunStore, TrainConfig, adapters, load_base, lora, qlora, sweep, train
from workbench.adapters.carriers import injected
from workbench.adapters.inject import adapter_parameters, apply, target_modules, trainable_parameters
from workbench.adapters.methods import full, hybrid
from workbench.adapters.quantized_models import dequantize_base, fake_quantize
from workbench.analysis import cut, decompose, find_intruders, keep_directions, updates
from workbench.models import linear_modules
from workbench.models.base import linear_weight
from workbench.training.loop import fits_a_slice

FAMILIES = {
    "gpt2": {},
    "gpt2 with cross scores": {"reorder_and_upcast_attn": True},
    "gpt2 with an inner size": {"n_inner": 48},
    "openai-gpt": {},
}
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "summary_first_dropout": 0.0}
METHODS = {
    "lora": lora(rank=3),
    "one block": lora(rank=3, layers=[1]),
    "square layers": lora(rank=3, targets=["attn.c_proj"]),
    "dora": lora(rank=3, dora=True),
    "rslora": lora(rank=3, rslora=True),
    "pissa": lora(rank=3, pissa=True),
    "hybrid": hybrid(["h.1.mlp"], rank=3),
}


def base_of(family, **fields):
    return random_base(family.split()[0], **FAMILIES[family], **NO_DROPOUT, **fields)


def moved(model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_are_found_with_their_sizes(family):
    base = base_of(family)
    found = linear_modules(base.model)
    assert len(found) == 8 and all(isinstance(base.model.get_submodule(name), Conv1D) for name in found)
    for name, shape in found.items():
        layer = base.model.get_submodule(name)
        assert layer(torch.ones(1, shape[1])).shape == (1, shape[0]) and linear_weight(layer).shape == shape


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_trained_is_saved_and_loaded_and_peft_reads_it(family, method, tmp_path):
    base, method = base_of(family), METHODS[method]
    before = logits(base.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = apply(base, method)
        assert injected(model) == set(target_modules(base, method))
        start = logits(model.eval())
        torch.testing.assert_close(start, before, rtol=0, atol=1e-4)
        if not (method.dora or method.full_modules):
            assert trainable_parameters(model) == adapter_parameters(base, method)
        wanted = logits(moved(model))
        adapters.save(model, tmp_path)
        loaded = adapters.load(base, tmp_path)
    assert not torch.allclose(wanted, before, atol=1e-3)
    torch.testing.assert_close(logits(loaded), wanted, rtol=0, atol=1e-5)
    own = AutoModelForCausalLM.from_config(base.model.config)
    own.load_state_dict(base.model.state_dict())
    stock = PeftModel.from_pretrained(own, tmp_path).eval()
    torch.testing.assert_close(logits(stock), wanted, rtol=0, atol=1e-5)
    assert torch.equal(logits(base.model), before)


@pytest.mark.parametrize("method", ["lora", "square layers", "rslora", "pissa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_trained_is_merged(family, method, tmp_path):
    base = base_of(family)
    model = moved(apply(base, METHODS[method]))
    adapters.save(model, tmp_path)
    merged = adapters.merge(base.model, adapters.load(base, tmp_path))
    torch.testing.assert_close(logits(merged), logits(model), rtol=0, atol=1e-5)
    assert all(isinstance(merged.get_submodule(name), Conv1D) for name in linear_modules(base.model))


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "openai-gpt"])
def test_a_configuration_that_says_the_wrong_orientation_does_no_harm(family, declared, tmp_path, recwarn):
    """PEFT looks at the layers themselves; what an adapter's file says of them is often a default."""
    base = random_base(family)
    target = "q_proj" if family in ("llama", "qwen2") else "attn.c_proj"  # square
    wanted = stock_adapter(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=[target]), tmp_path)
    file = tmp_path / "adapter_config.json"
    text = file.read_text()
    assert '"fan_in_fan_out": ' in text
    other = text.replace('"fan_in_fan_out": true', '"fan_in_fan_out": false')
    file.write_text(other.replace('"fan_in_fan_out": false', '"fan_in_fan_out": true') if declared else other)
    recwarn.clear()
    tuned = adapters.load(base, tmp_path)
    assert not [each for each in recwarn if "fan_in" in str(each.message)]
    torch.testing.assert_close(logits(tuned), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(adapters.merge(base.model, tuned)), wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "openai-gpt"])
def test_it_trains_alone_and_together_alike(family, tmp_path):
    base = load_base(write_base(tmp_path / "base", family, **NO_DROPOUT), dtype="float32")
    methods = [lora(rank=2), lora(rank=3, targets=["c_fc", "attn.c_proj"])]
    assert all(fits_a_slice(base, method) for method in methods)
    config = TrainConfig(steps=2, batch_size=2, evaluate=False)
    together = sweep(base, few_rows(), methods, config, RunStore(tmp_path / "together"))
    alone = [train(base, few_rows(), method, config, RunStore(tmp_path / "alone")) for method in methods]
    for one, two in zip(together, alone, strict=True):
        found, wanted = ([entry["loss"] for entry in run.history] for run in (one, two))
        assert found == pytest.approx(wanted, rel=1e-4) and one.method["adapted_share"] == two.method["adapted_share"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "openai-gpt"])
def test_an_adapter_trained_in_4_bits_is_merged_into_either_base(family, tmp_path):
    """bitsandbytes holds the weights as (out, in); attn.c_proj is square, so that no shape tells the two apart."""
    folder = write_base(tmp_path / "base", family, **NO_DROPOUT)
    packed, plain = load_base(folder, "nf4", dtype="float32"), load_base(folder, dtype="float32")
    run = train(packed, few_rows(), qlora(rank=2), TrainConfig(steps=2, evaluate=False), RunStore(tmp_path / "runs"))
    tuned = adapters.load(packed, run.artifact_dir)
    for onto in (plain, dequantize_base(packed)):
        merged = adapters.merge(onto.model, tuned)
        wanted = adapters.load(onto, run.artifact_dir)
        torch.testing.assert_close(logits(merged), logits(wanted), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_simulated_quantization_takes_the_blocks_along_the_inputs_as_bitsandbytes_does(family):
    base = base_of(family)
    fake, twin = fake_quantize(base, "nf4"), replace(base, model=plain_twin(base.model))
    name = next(iter(linear_modules(base.model)))
    assert not torch.equal(fake.model.get_submodule(name).weight, base.model.get_submodule(name).weight)
    torch.testing.assert_close(logits(fake.model), logits(fake_quantize(twin, "nf4").model), rtol=0, atol=1e-5)


def plain_twin(model):
    """The same model with nn.Linear in place of every Conv1D."""
    twin = AutoModelForCausalLM.from_config(model.config)
    twin.load_state_dict(model.state_dict())
    for name, (out, into) in linear_modules(model).items():
        old, new = twin.get_submodule(name), nn.Linear(into, out)
        new.weight, new.bias = nn.Parameter(old.weight.T.contiguous()), old.bias
        twin.set_submodule(name, new)
    return twin.requires_grad_(False).eval()


@pytest.mark.parametrize("family", ["gpt2", "openai-gpt"])
def test_updates_are_analysed_as_those_of_plain_layers(family):
    base = base_of(family)
    tuned = full_run(base)
    twins = [replace(each, model=plain_twin(each.model)) for each in (base, tuned)]
    found, wanted = (dict(updates(*pair)) for pair in ((base, tuned), twins))
    assert found.keys() == wanted.keys() and len(found) == 8
    assert all(torch.equal(found[name], wanted[name]) for name in found)
    assert find_intruders(base, tuned) == find_intruders(*twins)
    for made, other in (
        (cut(base, tuned, 2), cut(*twins, 2)),
        (keep_directions(base, tuned, decompose(base, tuned, 2), 2), cut(*twins, 2)),
    ):
        torch.testing.assert_close(logits(made.model), logits(other.model), rtol=0, atol=1e-4)


def test_full_fine_tuning_saves_the_weights_as_they_were_stored(tmp_path):
    base = base_of("gpt2")
    model = moved(apply(base, full()))
    adapters.save(model, tmp_path)
    torch.testing.assert_close(logits(adapters.load(base, tmp_path)), logits(model), rtol=0, atol=1e-6)
