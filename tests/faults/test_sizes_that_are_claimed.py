"""A config.json that claims more than its files hold is refused before memory of that size is taken."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from support.bases_on_disk import write_base
from workbench import adapters, load_base
from workbench.errors import AdapterError, ModelError

OLD = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "intermediate_size": "n_inner"}
FAMILIES = {"llama": {}, "gpt2": OLD | {"max_position_embeddings": "n_positions"}, "opt": {}, "mamba": {}}
CLAIMS = {"vocab_size": 20_000_000, "hidden_size": 200_000, "num_hidden_layers": 20_000}
MB = 1000  # of kB, which Linux counts in
PROCESS = Path("/proc/self")


def peak() -> int:
    """The most memory that this process has taken since `forget_the_peak`, kB."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text())[1])


def forget_the_peak() -> int:
    """Have the peak begin anew at what is taken now, so that no earlier test hides what this one takes."""
    (PROCESS / "clear_refs").write_text("5")
    return peak()


def claim(folder, family, **fields):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {FAMILIES[family].get(name, name): value for name, value in fields.items()}))
    return folder


def as_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def in_shards(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")


FORMS = {"one file": lambda folder: None, "pickle": as_pickle, "shards": in_shards}


CASES = [(family, field, "one file") for family in FAMILIES for field in CLAIMS]
CASES += [("llama", field, form) for field in CLAIMS for form in ("pickle", "shards")]


@pytest.mark.parametrize("family, field, form", CASES)
def test_a_giant_is_refused_before_it_is_allocated(family, field, form, tmp_path):
    folder = write_base(tmp_path / family, family)
    FORMS[form](folder)
    base = load_base(folder, dtype="float32")
    claim(folder, family, **{field: CLAIMS[field]})
    before = forget_the_peak()
    with pytest.raises(ModelError, match=r"config\.json (names|describes) [\d,]+ (layers|weights), and its files hold"):
        load_base(folder, dtype="float32")
    with pytest.raises(AdapterError, match="and its files hold"):
        adapters.load(base, folder)
    assert peak() - before < 100 * MB


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_positions_that_are_stored_count(family, tmp_path):
    folder = claim(write_base(tmp_path / family, family), family, max_position_embeddings=10**9)
    with pytest.raises(ModelError, match="and its files hold"):
        load_base(folder, dtype="float32")


def test_positions_that_are_computed_do_not(tmp_path):
    folder = claim(write_base(tmp_path / "llama", "llama"), "llama", max_position_embeddings=10**9)
    assert load_base(folder, dtype="float32").model.config.max_position_embeddings == 10**9


@pytest.mark.parametrize("field, value", [("vocab_size", 700), ("hidden_size", 40), ("intermediate_size", 80)])
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_little_more_than_the_files_hold_is_one_sentence_too(family, field, value, tmp_path):
    folder = write_base(tmp_path / family, family)
    base = load_base(folder, dtype="float32")
    if family == "opt":
        field = {"intermediate_size": "ffn_dim"}.get(field, field)
    claim(folder, family, **{field: value})
    with pytest.raises(ModelError, match=r"config\.json names other sizes than its weights have"):
        load_base(folder, dtype="float32")
    with pytest.raises(AdapterError, match=r"is damaged: its config\.json names other sizes than its weights have"):
        adapters.load(base, folder)


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """A function that puts a base into a local cache of the Hub, as `org/small`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(change):
        stored = tmp_path / "models--org--small"
        (stored / "refs").mkdir(parents=True)
        (stored / "refs" / "main").write_text("a" * 40)
        change(write_base(stored / "snapshots" / ("a" * 40), "llama"))
        return "org/small"

    return put


@pytest.mark.parametrize("field", CLAIMS)
@pytest.mark.parametrize("form", ["one file", "shards"])
def test_a_giant_of_the_hub_is_refused_before_it_is_allocated(field, form, downloaded):
    def change(folder):
        FORMS[form](folder)
        claim(folder, "llama", **{field: CLAIMS[field]})

    name, before = downloaded(change), forget_the_peak()
    with pytest.raises(
        ModelError, match=r"config\.json (describes|names) [0-9,]+ (weights|layers), and its files hold"
    ):
        load_base(name, dtype="float32")
    assert peak() - before < 300 * MB


def test_parts_that_are_not_there_yet_are_not_counted(downloaded):
    def change(folder):
        in_shards(folder)
        sorted(folder.glob("model-*"))[0].unlink()
        claim(folder, "llama", vocab_size=20_000_000)

    with pytest.raises(ModelError, match="not in the local cache or the network is down"):
        load_base(downloaded(change), dtype="float32")
