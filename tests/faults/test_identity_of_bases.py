"""A base is recognised by its weights: edited in memory, merged and put back, or changed within a file on disk."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers

from support.bases_on_disk import few_rows, write_base
from workbench import TrainConfig, adapters, load_base, lora, sweep, train
from workbench.adapters.quantized_models import dequantize_base, fake_quantize
from workbench.errors import RunError
from workbench.models import identity
from workbench.models.identity import directory_revision, sampled_revision
from workbench.paths import cache_dir
from workbench.scoring.evaluation import evaluate

CONFIG = TrainConfig(steps=2, batch_size=2, test_limit=2)
EDITS = {
    "one number": lambda model: model.get_input_embeddings().weight.data[300, 7].add_(1e-3),
    "two rows": lambda model: swap(model.get_input_embeddings().weight.data, 40, 41),
    "two tensors": lambda model: exchange(*list(model.named_parameters())[2:4]),
    "the last norm": lambda model: list(model.parameters())[-1].data.add_(1),
    "a sign": lambda model: list(model.parameters())[1].data.view(-1)[5].neg_(),
    "a layer twice": lambda model: blocks(model).append(blocks(model)[0]),
    "a layer less": lambda model: blocks(model).pop(1),
    "layers in another order": lambda model: blocks(model).insert(0, blocks(model).pop(1)),
    "a constant": lambda model: setattr(model.config, "num_attention_heads", 2),
}


def blocks(model):
    return next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))


def swap(weight, one, other):
    weight[[one, other]] = weight[[other, one]].clone()


def exchange(one, other):
    kept = one[1].data.clone()
    if one[1].shape == other[1].shape:
        one[1].data.copy_(other[1].data)
        other[1].data.copy_(kept)
    else:
        one[1].data.add_(0.5)


@pytest.fixture(params=["llama", "gpt2", "mamba", "opt"])
def family(request):
    return request.param


@pytest.fixture
def folder(tmp_path):
    return write_base(tmp_path / "llama", "llama")


@pytest.mark.parametrize("edit", EDITS)
def test_any_edit_in_memory_is_another_identity(edit, family, tmp_path):
    base = load_base(write_base(tmp_path / family, family), dtype="float32")
    assert base.identity == base.revision
    copy = replace(base, model=load_base(base.name, dtype="float32").model)
    assert copy.identity == base.revision
    EDITS[edit](base.model)
    assert base.identity.startswith(f"{base.revision}, changed in memory (") and copy.identity == base.revision
    assert not base.is_at(base.revision) and base.is_at(base.identity)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantized_base_keeps_its_identity_through_use(kind, folder):
    base = load_base(folder, kind, dtype="float32")
    with torch.no_grad():
        base.model(torch.arange(4)[None])
    assert base.identity == base.revision == load_base(folder, kind, dtype="float32").identity
    layer = base.model.model.layers[0].self_attn.q_proj.weight
    layer.data.view(-1)[3] ^= 1
    assert base.identity != base.revision


TOKENIZER_EDITS = {
    "a normalizer": lambda tokenizer: setattr(tokenizer.backend_tokenizer, "normalizer", normalizers.Lowercase()),
    "an added token": lambda tokenizer: tokenizer.add_tokens(["<intent>"]),
    "another end": lambda tokenizer: setattr(tokenizer, "eos_token", "a"),
}


@pytest.mark.parametrize("edit", TOKENIZER_EDITS)
def test_an_edit_of_the_tokenizer_is_another_identity(edit, folder):
    base = load_base(folder, dtype="float32")
    for token in ("[PAD]", base.tokenizer.eos_token):  # nothing is padded with it
        base.tokenizer.pad_token = token
    base.tokenizer(["one", "two words"], padding=True, truncation=True, max_length=2)  # it keeps these settings
    assert base.identity == base.revision
    TOKENIZER_EDITS[edit](base.tokenizer)
    assert base.identity.startswith(f"{base.revision}, changed in memory (tokenizer ")


@pytest.mark.slow
def test_another_tokenizer_has_other_scores_and_other_runs(folder, store):
    base = load_base(folder, dtype="float32")
    one = train(base, few_rows(), lora(rank=2), CONFIG, store)
    (first,) = sweep(base, few_rows(), [lora(rank=2)], CONFIG, store)
    base.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    two = train(base, few_rows(), lora(rank=2), CONFIG, store)
    assert two.before["loss"] == pytest.approx(evaluate(base, few_rows(), 2)["loss"]) != one.before["loss"]
    assert sweep(base, few_rows(), [lora(rank=2)], CONFIG, store)[0].id != first.id
    with pytest.raises(RunError, match="changed in memory"):
        one.load(base)


def test_a_base_made_from_another_is_named_by_its_own_revision(folder):
    plain, packed = load_base(folder, dtype="float32"), load_base(folder, "nf4", dtype="float32")
    for made in (fake_quantize(plain, "nf4"), dequantize_base(packed)):
        assert made.identity == made.revision != plain.revision
        made.model.model.norm.weight.data.mul_(2)
        assert made.identity != made.revision


@pytest.mark.slow
def test_scores_runs_and_sweeps_belong_to_the_weights(folder, store):
    base, task = load_base(folder, dtype="float32"), few_rows()
    run = train(base, task, lora(rank=2, learning_rate=0.1), CONFIG, store)
    merged = replace(base, model=adapters.merge(base.model, run.load(base).model))
    again = train(merged, task, lora(rank=2), CONFIG, store)
    assert again.before["loss"] == pytest.approx(evaluate(merged, task, 2)["loss"]) != run.before["loss"]
    first, second = (sweep(each, task, [lora(rank=1)], CONFIG, store)[0] for each in (base, merged))
    assert first.id != second.id
    assert sweep(merged, task, [lora(rank=1)], CONFIG, store)[0].id == second.id
    with pytest.raises(RunError, match=r"was trained on .* changed in memory .*, not on"):
        again.load(base)
    with pytest.raises(RunError, match=r"not on .* changed in memory"):
        run.load(merged)
    assert again.load(merged).identity.endswith(again.id)

    base.model.model.norm.weight.data.mul_(3)  # in place
    assert train(base, task, lora(rank=2), CONFIG, store).before["loss"] != pytest.approx(run.before["loss"])


@pytest.mark.slow
@pytest.mark.slow
def test_a_folder_that_has_moved_is_the_same_base(folder, store):
    run = train(load_base(folder, dtype="float32"), few_rows(), lora(rank=2), replace(CONFIG, evaluate=False), store)
    moved = load_base(folder.rename(folder.with_name("elsewhere")), dtype="float32")
    assert run.load(moved).model.peft_config
    other = write_base(folder, "llama", damage=lambda model: model.model.norm.weight.data.mul_(2))
    with pytest.raises(RunError, match="was trained on"):
        run.load(load_base(other, dtype="float32"))


def test_runs_of_earlier_versions_still_know_their_folder(folder, store):
    """They hashed the beginnings and ends of files only."""
    base = load_base(folder, dtype="float32")
    run = train(base, few_rows(), lora(rank=2), CONFIG, store)
    run.base["revision"] = sampled_revision(folder)
    assert run.load(base).model
    base.model.model.norm.weight.data.mul_(3)
    with pytest.raises(RunError, match="not on"):
        run.load(base)


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "pytorch_model.bin"),
        *("model-00002-of-00002.safetensors", "pytorch_model-00002-of-00002.bin"),
    ],
)
def test_an_edit_in_the_middle_of_a_file_is_another_revision(name, folder):
    """The old revision read four megabytes at both ends."""
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = torch.zeros(100_000, 32)  # 12.8 MB
    file = folder / name
    if "00002" not in name:  # else it is beside the first one
        (folder / "model.safetensors").unlink()
    save_file(weights, file) if name.endswith("safetensors") else torch.save(weights, file)
    before, old = directory_revision(folder), sampled_revision(folder)
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(b"\x01")
    assert directory_revision(folder) != before and sampled_revision(folder) == old


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "merges.txt", "chat_template.jinja"])
def test_every_file_that_a_model_depends_on_counts(name, folder):
    before = directory_revision(folder)
    with (folder / name).open("a") as stream:
        stream.write(" ")
    assert directory_revision(folder) != before


def test_the_hash_of_a_large_file_is_kept_until_it_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "LARGE", 1000)
    monkeypatch.setattr(identity, "SETTLED", 0)
    read, file_hash = [], identity.file_hash
    monkeypatch.setattr(identity, "file_hash", lambda file: read.append(file.name) or file_hash(file))
    folder = tmp_path / "model"
    folder.mkdir()
    file = folder / "model.safetensors"
    file.write_bytes(bytes(5000))
    (folder / "config.json").write_text("{}")
    first = directory_revision(folder)
    assert directory_revision(folder) == first and read.count("model.safetensors") == 1

    times = file.stat()
    file.write_bytes(bytes(4999) + b"\x01")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync does
    second = directory_revision(folder)
    assert second != first and read.count("model.safetensors") == 2
    for content in ("null", "[]", '{"x": 3}', "{", json.dumps({str(file.resolve()): {"size": 5000}})):
        (cache_dir() / "file_hashes.json").write_text(content)
        assert directory_revision(folder) == second
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("no folder")
    assert directory_revision(folder) == second, "without a cache it takes longer"
