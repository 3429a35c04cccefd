"""The input of memory predictions: setups, sources of a configuration, and what is refused."""

from dataclasses import fields, replace

import pytest
import torch
from transformers import AutoModelForCausalLM, BartConfig, BertConfig, CLIPVisionConfig, LlamaConfig, OlmoeConfig

from support.memory_configs import CONFIGS, SIZES, TINY
from workbench import full, hybrid, lora, qlora
from workbench.errors import MemoryModelError, MethodError
from workbench.memory import Setup, estimate, simulate
from workbench.memory.setup import SetupFields, as_setup
from workbench.models import Base


@pytest.mark.slow
def test_estimate_and_simulate_take_a_setup_or_a_method_with_the_fields_of_a_setup():
    setup = Setup(qlora(), 2, 64, "mixed", checkpointing=True, attention="flash")
    assert as_setup(setup) == setup == as_setup(qlora(), 2, 64, "mixed", checkpointing=True, attention="flash")
    assert as_setup(setup, batch_size=8) == replace(setup, batch_size=8)
    assert list(SetupFields.__annotations__) == [field.name for field in fields(Setup)][1:]
    for predict in (estimate, simulate):
        one = predict(LlamaConfig(**TINY), setup)
        other = predict(LlamaConfig(**TINY), qlora(), 2, 64, "mixed", checkpointing=True, attention="flash")
        assert one.setup == other.setup == setup and one.components == other.components
    with pytest.raises(TypeError, match="pass the fields to change by name"):
        as_setup(setup, 8)
    with pytest.raises(TypeError, match="batchsize"):
        estimate("llama-3.2-1b", lora(), batchsize=8)


@pytest.mark.slow
def test_a_model_can_be_a_folder_a_file_a_configuration_or_a_base(tmp_path):
    config = CONFIGS["llama"]
    config.save_pretrained(tmp_path)
    reports = [estimate(source, lora(8)) for source in (config, tmp_path, str(tmp_path / "config.json"))]
    assert len({report.peak_allocated_bytes for report in reports}) == 1
    model = AutoModelForCausalLM.from_config(LlamaConfig(**TINY))
    small = Base(model, None, "small", "", "config", None, torch.float32)
    for predict in (estimate, simulate):
        by_base, by_config = (predict(source, lora(2), 1, 8) for source in (small, model.config))
        assert by_base.components == by_config.components
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.json").write_text('{"model_type": "no-such-family"}')
    (tmp_path / "nothing.json").write_text("{}")
    for name, words in (("broken", "not a JSON file"), ("other", "no-such-family"), ("nothing", "has no model_type")):
        with pytest.raises(MemoryModelError, match=words):
            estimate(tmp_path / f"{name}.json", lora(8))


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: estimate("llama-9", lora()), "names known here: gemma-2-2b"),
        (lambda: estimate("nobody/nothing", lora()), "neither in the local cache"),
        (lambda: estimate(BertConfig(), full()), "use simulate()"),
        (lambda: simulate(CLIPVisionConfig(), full()), "'clip_vision_model' as a language model"),
        (lambda: simulate(OlmoeConfig(**TINY, num_experts=4), full(), 1, 8), "'olmoe' does not run as configured"),
        (lambda: simulate(BartConfig(d_model=64, vocab_size=200), full(), 1, 8), "of 'bart', model.decoder.layers.0"),
        (lambda: estimate(None, full()), "cannot be given as NoneType; give a name like 'llama-3.2-1b'"),
        (lambda: simulate(7, full()), "cannot be given as int"),
        (lambda: estimate("llama-3.2-1b", full(), dtype="int3"), "dtype='int3' is not known; use one of bfloat16"),
        (lambda: estimate("llama-3.2-1b", full(), optimizer="lion"), "use one of adamw, adamw_fused, adamw8bit"),
        (lambda: estimate("llama-3.2-1b", full(), attention="ring"), "use one of sdpa, flash, eager"),
        (lambda: estimate("llama-3.2-1b", full(), batch_size=0), "batch_size=0 must be a whole number"),
        (lambda: estimate("llama-3.2-1b", full(), sequence_length=1.5), "sequence_length=1.5 must be"),
        (lambda: simulate("llama-3.2-1b", full(), attention="flash", device="cpu"), "names a GPU kernel"),
        (lambda: estimate("llama-3.2-1b", full(), device="cpu"), "estimate() describes a GPU"),
        (lambda: estimate("llama-3.2-1b", "lora"), "method='lora' must be a method, e.g. lora()"),
        (lambda: estimate("llama-3.2-1b", qlora(dora=True)), "DoRA on 4-bit weights is not modelled"),
    ],
)
def test_errors_of_memory_predictions_are_one_sentence(ask, words):
    with pytest.raises(MemoryModelError) as caught:
        ask()
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads=0 in the model's configuration must be at least 1"),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 3},
            "num_attention_heads=4 must be a multiple of num_key_value_heads=3",
        ),
    ],
)
def test_impossible_sizes_are_refused(change, words):
    config = LlamaConfig(**SIZES)
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(MemoryModelError, match=words):
        estimate(config, lora())


@pytest.mark.parametrize("predict", [estimate, simulate])
def test_targets_and_layers_that_the_model_lacks_are_refused(predict):
    with pytest.raises(MethodError, match="q_proj"):
        predict(CONFIGS["llama"], lora(8, targets=["c_attn"]))
    with pytest.raises(MethodError, match="blocks 0 to 1"):
        predict(CONFIGS["llama"], lora(8, layers=[7]))
    with pytest.raises(MethodError, match="which llama does not have"):
        predict(CONFIGS["llama"], hybrid(["layers.9.mlp"]))
