"""Folders whose files are damaged, of the wrong shape, or there in two forms: a sentence that names the file."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.bases_on_disk import write_base
from workbench import load_base
from workbench.errors import ModelError
from workbench.models.base import locate


@pytest.fixture
def folder(tmp_path):
    return write_base(tmp_path / "llama", "llama")


def edit(folder, name, change):
    """Change one tensor of the file of weights."""
    weights = load_file(folder / "model.safetensors")
    weights[name] = change(weights[name].clone())
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("content", ["", "null", "[]", "3", "{", "\x00"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_is_no_object_is_named(name, content, folder):
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=rf"{name} is damaged, or no JSON object: download it again"):
        load_base(folder, dtype="float32")


@pytest.mark.parametrize("field", [{"hidden_act": "nothing"}, {"num_attention_heads": 0}])
def test_a_value_that_transformers_cannot_use_is_said(field, folder):
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | field))
    with pytest.raises(ModelError, match=r"cannot use a value in its config\.json .*; compare them with those of the"):
        load_base(folder, dtype="float32")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.up_proj.weight"])
def test_one_weight_that_is_no_number_is_found_whether_or_not_the_probe_reads_it(place, value, folder):
    edit(folder, place, lambda weight: weight.index_fill_(0, torch.tensor([3]), value))
    with pytest.raises(ModelError, match=f"holds values in {place} that are not finite.*download them again"):
        load_base(folder, dtype="float32")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32], ids=str)
def test_codes_of_a_quantized_model_are_not_taken_for_values(dtype, folder):
    edit(folder, "model.layers.0.mlp.up_proj.weight", lambda weight: (weight * 100).to(dtype))
    with pytest.raises(
        ModelError, match=r"holds whole numbers .* as its model\.layers\.0\.mlp\.up_proj\.weight: the codes of"
    ):
        load_base(folder, dtype="float32")


def test_weights_in_two_forms_are_said(folder, capsys, monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    locate(str(folder))
    assert "several forms" not in capsys.readouterr().err
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    locate(str(folder))
    assert "model.safetensors is read, and pytorch_model.bin left unread" in capsys.readouterr().err


def test_a_decoder_that_says_it_is_none_is_told_which_field_says_it(folder):
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"is_causal": False})
    )
    with pytest.raises(ModelError, match=r'looks ahead.*\("is_causal": true\)'):
        load_base(folder, dtype="float32")
