"""Folders that are no whole model, or more than one, are told apart before anything is loaded from them.

LLaMA-Factory#953, self-llm#175, axolotl#1887: a model and an adapter in one folder. transformers#28670, #28688, #27923,
GrammarGPT#3: no tokenizer, an adapter only, git-lfs pointers. llama-cookbook#189, transformers#28393: ids outside of
the embedding table.
"""

import json
import shutil

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.bases_on_disk import few_rows as rows, write_base
from workbench import RunStore, TrainConfig, adapters, full, load_base, lora, train
from workbench.errors import AdapterError, MethodError, ModelError, TaskError
from workbench.models.checks import carries_adapter, check_plain
from workbench.scoring.evaluation import answers
from workbench.tasks.example import Example

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own
LORA = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"], "init_lora_weights": False}
KINDS = {
    "lora": LoraConfig(**LORA),
    "dora": LoraConfig(use_dora=True, **LORA),
    "ia3": IA3Config(task_type="CAUSAL_LM", target_modules=["v_proj"], feedforward_modules=[]),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("bases") / "llama", "llama")


@pytest.fixture
def folder(llama, tmp_path):
    return shutil.copytree(llama, tmp_path / "model")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_and_an_adapter_in_one_folder_are_refused(kind, folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    get_peft_model(model, KINDS[kind]).save_pretrained(folder)
    with pytest.raises(ModelError, match="a model and an adapter at once"):
        load_base(folder, dtype="float32")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="a model and an adapter at once"):
        load_base(folder, dtype="float32")


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_layers_of_an_adapter_are_found_wherever_they_come_from(kind, llama):
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    check_plain("base", model)
    if kind == "ia3":
        model = get_peft_model(model, KINDS[kind]).base_model.model
    else:
        inject_adapter_in_model(KINDS[kind], model)
    assert carries_adapter(model)
    with pytest.raises(ModelError, match="which transformers attached unasked"):
        check_plain("base", model)


@pytest.mark.quick
@pytest.mark.parametrize("method", [full(1e-3), lora(rank=2)], ids=["full", "lora"])
def test_a_base_with_layers_of_an_adapter_is_not_trained(method, llama, store):
    base = load_base(llama, dtype="float32")
    inject_adapter_in_model(KINDS["lora"], base.model)
    with pytest.raises(MethodError, match="carries an adapter"):
        train(base, rows(), method, TrainConfig(steps=1, evaluate=False), store)


def test_weights_saved_with_an_adapter_inside_are_refused(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapted = get_peft_model(model, KINDS["lora"]).base_model.model
    weights = dict(load_file(folder / "model.safetensors")) | {
        name: tensor for name, tensor in adapted.state_dict().items() if "lora_" in name
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"hold an adapter's tensors, first model\.layers\.0\.self_attn\.q_proj\.lora_A"
    ):
        load_base(folder, dtype="float32")


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapters_folder_names_its_base(kind, llama, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    get_peft_model(model, KINDS[kind]).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"holds an adapter of {llama}, not a model"):
        load_base(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"base_model_name_or_path": 3}', "not json"])
def test_an_adapters_folder_may_be_damaged(content, tmp_path):
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match="holds an adapter, not a model"):
        load_base(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_clone_without_git_lfs_says_what_is_missing(file, folder):
    (folder / file).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12ab\nsize 538090408\n")
    with pytest.raises(ModelError, match=rf"{file} is a git-lfs pointer.*git lfs pull"):
        load_base(folder, dtype="float32")


def test_a_folder_of_checkpoints_names_them(llama, tmp_path):
    shutil.copytree(llama, tmp_path / "checkpoint-50")
    with pytest.raises(ModelError, match=r"no config.json, but its folders checkpoint-50 do"):
        load_base(tmp_path)
    with pytest.raises(ModelError, match="is a file; give the directory"):
        load_base(tmp_path / "checkpoint-50" / "model.safetensors")


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "opt", "gpt_neox", "mamba"])
def test_no_tokenizer_is_said(family, tmp_path):
    """For some families transformers makes up one without a vocabulary, which would read every text as nothing."""
    folder = write_base(tmp_path / family, family)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer.*base\.tokenizer\.save_pretrained"):
        load_base(folder, dtype="float32")


@pytest.mark.slow
def test_a_full_run_is_a_base_by_itself(llama, tmp_path):
    base, store = load_base(llama, dtype="float32"), RunStore(tmp_path / "runs")
    run = train(base, rows(), full(1e-3), TrainConfig(steps=1, batch_size=2, evaluate=False), store)
    again = load_base(run.artifact_dir, dtype="float32")
    assert again.tokenizer.get_vocab() == base.tokenizer.get_vocab()
    assert AutoTokenizer.from_pretrained(run.artifact_dir).eos_token == base.tokenizer.eos_token
    wanted = run.load(base).model.state_dict()
    assert all(torch.equal(wanted[name], tensor) for name, tensor in again.model.state_dict().items())


@pytest.mark.parametrize(
    ("family", "fields", "change", "first"),
    [
        ("llama", {}, {"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight"),
        ("gpt2", {}, {"n_layer": 1}, "transformer.h.1.attn.c_attn."),
        ("qwen2", {}, {"num_hidden_layers": 1, "layer_types": ["full_attention"]}, "model.layers.1."),
        ("llama", {"attention_bias": True}, {"attention_bias": False}, "model.layers.0.self_attn.k_proj.bias"),
        ("qwen3", {"head_dim": 8}, {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "k_norm.weight"),
        ("opt", {}, {"num_hidden_layers": 1}, "model.decoder.layers.1."),
    ],
)
def test_weights_without_a_place_in_the_configuration_are_refused(family, fields, change, first, tmp_path):
    folder = write_base(tmp_path / family, family, **fields)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=rf"tensors that its config.json has no place for, first .*{first}"):
        load_base(folder, dtype="float32")
    if family == "llama":
        base = load_base(write_base(tmp_path / "whole", family, **fields), dtype="float32")
        with pytest.raises(AdapterError, match="no place for"):
            adapters.load(base, folder)


def test_a_head_that_text_does_not_need_is_said(folder, capsys, monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    weights = dict(load_file(folder / "model.safetensors")) | {"score.weight": torch.zeros(2, 32)}
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # which old versions stored
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load_base(folder, dtype="float32")
    assert "1 tensors of its files have no place in a text model and are left out, first score.weight" in (
        capsys.readouterr().err
    )


def add_token(folder, **tokens):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens(tokens)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("kind", "token"), [("eos", "<|end|>"), ("bos", "<|begin|>")])
def test_an_end_or_beginning_outside_of_the_table_is_refused(kind, token, folder):
    add_token(folder, **{f"{kind}_token": token})
    words = rf"embedding table of (\d+) rows, and its {kind} token '{re_escape(token)}' lies outside of it: resize"
    with pytest.raises(ModelError, match=words):
        load_base(folder, dtype="float32")


def re_escape(text):
    return text.replace("|", r"\|")


def test_the_tokenizer_of_another_model_is_refused(tmp_path):
    folder = write_base(tmp_path / "llama", "llama", damage=lambda model: model.resize_token_embeddings(200))
    with pytest.raises(ModelError, match=r"ids up to \d+ and an embedding table of 200 rows"):
        load_base(folder, dtype="float32")


@pytest.mark.slow
def test_a_pad_token_need_not_be_in_the_table(folder, store):
    base = load_base(add_token(folder, pad_token="[PAD]"), dtype="float32")
    run = train(base, rows(), lora(rank=2), TrainConfig(steps=1, batch_size=2, test_limit=2), store)
    assert run.status == "finished"


@pytest.mark.slow
def test_a_text_with_a_token_outside_of_the_table_is_refused_by_its_row(folder, store, capsys, monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    base = load_base(add_token(folder, additional_special_tokens=["<image>"]), dtype="float32")
    assert "1 tokens of its tokenizer lie outside of its embedding table, first '<image>'" in capsys.readouterr().err
    task, config = rows(), TrainConfig(steps=1, batch_size=2, test_limit=2)
    odd = type(task)(task.name, (*task.train[:1], Example("See <image>:", " a cat")), task.test, None, "here", "1" * 64)
    with pytest.raises(TaskError, match="Train row 2 holds the token '<image>'"):
        train(base, odd, lora(rank=2), config, store)
    with pytest.raises(TaskError, match="Prompt 1 holds the token '<image>'"):
        answers(base, [Example("<image>", "")])
    assert train(base, task, lora(rank=2), config, store).status == "finished"
