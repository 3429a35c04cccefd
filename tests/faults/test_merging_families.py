"""What is merged computes what the adapter does, for transposed weights, experts and tied tables; else it is refused.

huggingface/peft#2486 (biases), #2716 (tied embeddings), #2864 and #2879 (tokens), #3009 (Conv1D): the public reports.
"""

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from support.random_bases import logits, random_base, stock_adapter
from workbench.adapters import apply, hybrid, load, lora, merge, save
from workbench.adapters.methods import full
from workbench.adapters.saved.checkpoints import check_saved
from workbench.errors import AdapterError

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own
CASES = [
    ("gpt2", {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True}),  # square
    ("gpt2", {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "bias": "all"}),
    ("gpt2", {"target_modules": ["c_fc"], "fan_in_fan_out": True, "lora_bias": True}),
    ("gpt2", {"target_modules": ["wte"], "fan_in_fan_out": True}),
    ("bloom", {"target_modules": ["query_key_value"], "bias": "lora_only"}),
    ("falcon", {"target_modules": ["query_key_value", "dense"]}),
    ("mixtral", {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}),
    ("qwen3_moe", {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}),
    ("olmoe", {"target_modules": ["v_proj"], "target_parameters": ["experts.gate_up_proj"]}),
    ("qwen2_moe", {"target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]}),
    ("gemma2", {"target_modules": ["q_proj"], "trainable_token_indices": [3, 9]}),  # scaled and tied
    ("mamba", {"target_modules": ["in_proj", "x_proj"]}),
]
FIELDS = {"bloom": {"n_layer": 2, "n_head": 4}, "mamba": {"state_size": 8}}


@pytest.mark.parametrize("family, options", CASES, ids=[f"{family} {list(o)[-1]}" for family, o in CASES])
def test_merged_is_what_the_adapter_computes(family, options, tmp_path):
    base = random_base(family, **FIELDS.get(family, {}))
    before = logits(base.model)
    wanted = stock_adapter(base, LoraConfig(task_type="CAUSAL_LM", r=4, **options), tmp_path)
    assert not torch.allclose(before, wanted, atol=1e-4)
    tuned = load(base, tmp_path)
    torch.testing.assert_close(logits(tuned), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(merge(base.model, tuned)), wanted, rtol=0, atol=5e-6)
    assert torch.equal(logits(base.model), before)


TIED = {
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 9]},
    "embeddings": {"target_modules": ["embed_tokens"]},
    "embeddings and head alike": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "head": {"target_modules": ["lm_head"]},
    "linear layers": {"target_modules": ["q_proj"]},
}


@pytest.mark.parametrize("kind", TIED)
def test_a_merged_model_with_tied_embeddings_is_saved_as_it_is(kind, tmp_path):
    base = random_base("qwen2", tie_word_embeddings=True)
    stock_adapter(base, LoraConfig(task_type="CAUSAL_LM", r=4, **TIED[kind]), tmp_path / "adapter")
    merged = merge(base.model, load(base, tmp_path / "adapter"))
    merged.save_pretrained(tmp_path / "whole")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    torch.testing.assert_close(logits(again), logits(merged), rtol=0, atol=1e-6)
    assert base.model.config.tie_word_embeddings and base.model.lm_head.weight is base.model.model.embed_tokens.weight


@pytest.mark.parametrize("forgotten", ["a layer", "the scaling", "a transposition"])
def test_a_merge_that_forgets_something_is_refused(forgotten, tmp_path, monkeypatch):
    base = random_base("llama")
    stock_adapter(base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "o_proj"]), tmp_path)
    tuned, right = load(base, tmp_path), LoraLinear.get_delta_weight
    wrong = {
        "a layer": lambda layer, name: (
            right(layer, name) * (layer is not tuned.base_model.model.model.layers[0].self_attn.q_proj)
        ),
        "the scaling": lambda layer, name: right(layer, name) / layer.scaling[name],
        "a transposition": lambda layer, name: right(layer, name).T,
    }
    monkeypatch.setattr(LoraLinear, "get_delta_weight", wrong[forgotten])
    with pytest.raises(AdapterError, match=r"on random tokens their logits, of up to .*, differ by"):
        merge(base.model, tuned)


def test_an_adapter_of_a_quantized_base_is_compared_on_the_weights_that_it_is_merged_into(tmp_path, monkeypatch):
    """The tuned model computes with other weights; the adapter alone is put on those of the plain one."""
    plain, other = random_base("llama"), random_base("llama")
    with torch.no_grad():
        for block in other.model.model.layers:
            block.mlp.up_proj.weight.mul_(1.3)
    stock_adapter(plain, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "up_proj"]), tmp_path)
    wanted = logits(load(plain, tmp_path))
    torch.testing.assert_close(logits(merge(plain.model, load(other, tmp_path))), wanted, rtol=0, atol=2e-6)
    right = LoraLinear.get_delta_weight
    monkeypatch.setattr(LoraLinear, "get_delta_weight", lambda layer, name: 0 * right(layer, name))
    with pytest.raises(AdapterError, match="differ by"):
        merge(plain.model, load(other, tmp_path))


@pytest.mark.parametrize("method", [lora(rank=2), hybrid(["layers.1.mlp"], rank=2), full()], ids=lambda each: each.name)
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "olmo2"])
def test_what_is_saved_is_compared_with_what_was_trained(method, family, tmp_path):
    base = random_base(family)
    model = apply(base, method)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    save(model, tmp_path)
    check_saved(base, model, tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    tensors = load_file(file)
    name = next(each for each in tensors if "lora_B" in each or "v_proj" in each or "query_key_value" in each)
    save_file(tensors | {name: 2 * tensors[name]}, file, {"format": "pt"})
    with pytest.raises(AdapterError, match=r"What was saved in .* is not what was trained"):
        check_saved(base, model, tmp_path)
