"""Predicted memory of mixtures, hybrids, state-space and multimodal models: a number, or one sentence, and no log.

Public reports: foundation-model-stack/fms-acceleration#50 (experts that QLoRA leaves in 16 bits), axolotl#3500.
"""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from workbench import full, load_base, lora, memory, qlora
from workbench.adapters import adapter_parameters
from workbench.cli import main
from workbench.errors import MemoryModelError
from workbench.models.base import Base

SIZES = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
GROUPS = {"n_routed_experts": 4, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4}
FAMILIES = {
    "mixtral": EXPERTS,
    "qwen3_moe": EXPERTS | {"head_dim": 8},
    "olmoe": EXPERTS,
    "granitemoe": EXPERTS,
    "gpt_oss": EXPERTS | {"head_dim": 8},
    "deepseek_v3": EXPERTS | LATENT | GROUPS,
    "granitemoehybrid": EXPERTS | MAMBA | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
    "minimax": EXPERTS | {"head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "recurrent_gemma": {"lru_width": 32, "num_hidden_layers": 3},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
    "falcon": {},
}
UNQUANTIZED = {"gptj": "", "lfm2": "", "recurrent_gemma": "", "bamba": "", "falcon": "dense_h_to_4h"}


def config_of(family: str):
    return AutoConfig.for_model(family, **SIZES | FAMILIES[family])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_command_gives_a_number_for_the_folder_and_names_what_is_not_in_4_bits(family, tmp_path, capfd):
    config_of(family).save_pretrained(tmp_path)
    arguments = ["memory", str(tmp_path), "--method", "qlora", "--rank", "2", "--batch-size", "1", "--json"]
    eager = ["--attention", "eager"] if family in ("gptj", "falcon") else []
    assert main([*arguments, "--sequence-length", "16", "--dtype", "float32", "--simulate", *eager]) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert err == "" and report["peak_allocated_bytes"] == sum(report["components"].values())
    said = "% of the linear weights stay in float32" in report["note"]
    assert said == bool(UNQUANTIZED.get(family, "experts")) and UNQUANTIZED.get(family, "experts") in report["note"]
    assert ("by itself runs this family with eager attention" in report["note"]) == (family == "gpt_oss")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gptj", "bloom", "mpt", "falcon", "rwkv"])
def test_a_family_with_an_attention_of_its_own_is_refused_in_a_sentence(family, capfd):
    config = AutoConfig.for_model(family, hidden_size=32, vocab_size=200, num_hidden_layers=1, num_attention_heads=4)
    with pytest.raises(MemoryModelError, match=rf"{family}.*Use attention='eager'\.$"):
        memory.simulate(config, lora(2), 1, 8)
    assert capfd.readouterr().err == ""


def test_the_16_bit_experts_of_a_mixture_are_counted_under_qlora():
    """Experts are one tensor, which bitsandbytes leaves as it is: most of the model's weights."""
    config = AutoConfig.for_model("mixtral", **SIZES | EXPERTS | {"hidden_size": 256, "intermediate_size": 1024})
    experts = 2 * config.num_hidden_layers * 4 * 3 * 256 * 1024
    report = memory.simulate(config, qlora(2), 1, 8, "mixed")
    assert experts < report.components["weights"] < 1.1 * experts
    assert "99% of the linear weights stay in bfloat16" not in report.note and "% of the linear" in report.note
    assert "mlp.experts.gate_up_proj" in report.note


@pytest.mark.slow
@pytest.mark.parametrize("family", ["phimoe", "jamba", "mamba", "qwen3_moe", "bamba"])
def test_the_layers_that_train_leaves_out_get_no_adapter(family):
    own = {"state_size": 8} if family == "mamba" else FAMILIES.get(family, EXPERTS)
    if family == "jamba":
        own = own | {"mamba_d_state": 8, "mamba_dt_rank": 4, "attn_layer_period": 2, "attn_layer_offset": 1}
        own |= {"use_mamba_kernels": False, "expert_layer_period": 2, "expert_layer_offset": 1}
    config = AutoConfig.for_model(family, **SIZES | own)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).requires_grad_(False).eval()
    trained = adapter_parameters(Base(model, None, family, "", "config", None, torch.float32), lora(2))
    report = memory.simulate(config, lora(2), 1, 8, "float32")
    assert report.trainable_parameters == trained
    assert ("cannot carry adapters" in report.note) == (family in ("phimoe", "jamba", "mamba"))


def test_dense_models_have_no_remark():
    config = AutoConfig.for_model("llama", **SIZES)
    assert "linear weights" not in memory.simulate(config, qlora(2), 1, 8).note


def gemma3():
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = SIZES | {"vocab_size": 300, "head_dim": 8}
    vision |= {"image_size": 28, "patch_size": 14}
    return AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)


def test_towers_are_counted_and_said():
    config = gemma3()
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config)
    towers = sum(weight.numel() for weight in [*whole.model.vision_tower.parameters()])
    towers += sum(weight.numel() for weight in whole.model.multi_modal_projector.parameters())
    report, text = (memory.simulate(one, lora(2), 1, 8) for one in (config, config.get_text_config()))
    assert report.peak_allocated_bytes - text.peak_allocated_bytes == 2 * towers
    assert report.components["weights"] - text.components["weights"] == 2 * towers
    assert f"its {towers:,} weights that text does not reach" in report.note and "multimodal" not in text.note


@pytest.mark.parametrize("family", ["llava", "mistral3"])
def test_a_language_model_inside_of_another_kind_is_said_to_be_alone(family):
    config = AutoConfig.for_model(family, text_config={"model_type": "llama", **SIZES})
    report, text = (memory.estimate(one, lora(2), 1, 8) for one in (config, config.get_text_config()))
    assert report.components == text.components
    assert f"{family!r} is multimodal and load_base() cannot load it" in report.note


@pytest.mark.slow
def test_a_real_step_draws_its_tokens_from_the_vocabulary_of_the_text_part():
    model = AutoModelForCausalLM.from_config(gemma3(), dtype=torch.float32)
    base = Base(model.requires_grad_(False), None, "gemma3", "", "config", None, torch.float32)
    assert memory.measure(base, lora(2, targets=["language_model.layers.0.self_attn.q_proj"]), 1, 8) > 0


@pytest.mark.parametrize("family", ["bamba", "mamba2", "nemotron_h", "granitemoehybrid"])
def test_a_configuration_is_read_as_load_base_reads_it(family, tmp_path):
    """The files hold `{"__float__": "Infinity"}`, or `time_step_limit` as a list."""
    config = AutoConfig.for_model(family, num_attention_heads=4)
    config.save_pretrained(tmp_path)
    ours, theirs = memory.configs.model_config(tmp_path), AutoConfig.from_pretrained(tmp_path)
    assert ours.to_diff_dict() | {"_name_or_path": ""} == theirs.to_diff_dict() | {"_name_or_path": ""}


@pytest.mark.slow
def test_a_folder_that_load_base_takes_has_a_number(base, tmp_path):
    config = AutoConfig.for_model("bamba", **SIZES | FAMILIES["bamba"] | {"vocab_size": len(base.tokenizer)})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    base.tokenizer.save_pretrained(tmp_path)
    loaded = load_base(tmp_path, dtype="float32")
    by_folder, by_base = (memory.simulate(source, full(), 1, 8) for source in (tmp_path, loaded))
    assert by_folder.components == by_base.components


def written(folder, **fields):
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | fields))
    return folder


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: written(folder, quantization_config={"quant_method": "gptq", "bits": 4}), "already (gptq)"),
        (lambda folder: written(folder, quantization_config={"quant_method": "mxfp4"}), "already (mxfp4)"),
        (lambda folder: written(folder, model_type="brand_new_family"), "brand_new_family"),
        (lambda folder: written(folder, hidden_size="wide"), "transformers cannot read"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{}") and folder, "is not a JSON file"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}") and folder, "holds an adapter, not a model"),
        (lambda folder: written(folder, num_hidden_layers=10**7), "names 10,000,000 layers, and up to 1,000 are"),
        (lambda folder: "m" * 5000, "cannot be read"),
        (lambda folder: "~nobody-of-this-name/model", "cannot be read"),
    ],
)
def test_a_configuration_that_is_of_no_use_is_one_sentence(make, words, tmp_path, capfd):
    assert main(["memory", str(make(tmp_path))]) == 2
    told = capfd.readouterr().err
    assert told.startswith("workbench: ") and words in told and told.count("\n") == 1


def test_an_edited_configuration_is_read_again_though_its_time_is_the_same(tmp_path):
    import os

    for layers in (2, 3):
        file = written(tmp_path, num_hidden_layers=layers) / "config.json"
        os.utime(file, ns=(1, 1))
        assert memory.configs.model_config(tmp_path).num_hidden_layers == layers
