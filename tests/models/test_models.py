"""Loading a base from each kind of place, its faults in words, and the two tricks that the rest builds on."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from support.small_models import CONFIGS, write_model
from workbench.errors import ModelError
from workbench.models import completion_logits, in_float32, linear_modules, load_base, shared_copy
from workbench.models.sources import packaged
from workbench.paths import cache_dir
from workbench.scoring.evaluation import score
from workbench.tasks import Encoded, collate, encode, load_task

ROWS = [Encoded(tuple(range(50, 50 + n)), n // 2) for n in (6, 11, 9)]


def test_the_packaged_model_is_real_and_frozen(base):
    assert sum(parameter.numel() for parameter in base.model.parameters()) == 134_515_008
    assert not any(parameter.requires_grad for parameter in base.model.parameters()) and not base.model.training
    assert (base.source, base.quantization, base.dtype) == ("package", None, torch.float32)
    prompt = base.tokenizer("The capital of France is", return_tensors="pt")
    assert base.tokenizer.decode(base.model(**prompt).logits[0, -1].argmax()) == " Paris"


def test_two_processes_repair_a_damaged_copy_once(tmp_path, base, monkeypatch, capsys):
    """Two learners at once, where one byte of the converted model is flipped. A conversion takes long: here is one."""
    whole, folder = cache_dir() / "models" / packaged.PACKAGED, tmp_path / "models" / packaged.PACKAGED
    shutil.copytree(whole, folder)
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        middle = file.seek(weights.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))
    environment = os.environ | {"WORKBENCH_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from workbench.models.sources.packaged import packaged_model as p; print(p())"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    outcomes = [process.communicate() for process in processes]
    assert [Path(out.strip()) for out, _ in outcomes] == [folder, folder]
    assert sum(errors.count("Converting the packaged weights") for _, errors in outcomes) == 1
    assert not any("%|" in errors for _, errors in outcomes), "no progress bar of the libraries' own"
    with safe_open(weights, "pt") as found, safe_open(whole / weights.name, "pt") as wanted:
        assert set(found.keys()) == set(wanted.keys())
        assert all(torch.equal(found.get_tensor(name), wanted.get_tensor(name)) for name in wanted.keys())  # noqa: SIM118
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]

    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    assert packaged.packaged_model() == folder and "Converting" not in capsys.readouterr().err
    weights.unlink()
    converted = []
    monkeypatch.setattr(packaged, "_convert", lambda gguf, target: converted.append(target))
    assert packaged.packaged_model() == folder and converted == [folder], "half deleted, to be made again"


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="free some space, or set WORKBENCH_CACHE"):
        load_base("smollm2-135m")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))

    def on_a_full_disk(*_):  # what safetensors raises there is no OSError
        save_file({"a": torch.zeros(1)}, tmp_path / "nowhere" / "model.safetensors")

    monkeypatch.setattr(packaged, "_convert", on_a_full_disk)
    with pytest.raises(ModelError, match="free some space, or set WORKBENCH_CACHE"):
        load_base("smollm2-135m")


def test_a_directory_is_identified_by_its_files(small, base, tmp_path):
    assert small.source == "directory"
    again = load_base(small.name, dtype="float32")
    assert again.revision == small.revision
    other = load_base(str(write_model(tmp_path, "llama", base.tokenizer, seed=1)), dtype="float32")
    assert other.revision != small.revision  # the same sizes, other weights


def test_other_weights_are_another_revision_in_the_older_format_too(small, small_directory, tmp_path):
    folder = shutil.copytree(small_directory, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    weights, revisions = small.model.state_dict(), set()
    for scale in (1, 2):
        torch.save(
            {name: scale * tensor for name, tensor in weights.items()},
            folder / "pytorch_model.bin",
        )
        revisions.add(load_base(folder, dtype="float32").revision)
    (folder / "tokenizer.model").touch()
    revisions.add(load_base(folder, dtype="float32").revision)
    assert len(revisions) == 3


def test_a_directory_has_one_name_however_it_is_spelled(small, small_directory, tmp_path, monkeypatch):
    monkeypatch.chdir(small_directory.parent)
    (tmp_path / "link").symlink_to(small_directory)
    for name in (small_directory.name, f"./{small_directory.name}/", small_directory, tmp_path / "link"):
        assert load_base(name, dtype="float32").name == small.name == str(small_directory.resolve())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("no-such-model", {}, "names known here: gemma-2-2b"),
        (None, {}, "name=None must be a name or a path"),
        ("./nowhere/", {}, "no such directory"),
        ("org/never-downloaded", {}, "HF_HUB_OFFLINE is set"),
        ("olmo2-1b", {}, "HF_HUB_OFFLINE is set"),
        ("smollm2-135m", {"quantization": "int3"}, "use None, 'nf4', 'fp4' or 'int8'"),
        ("smollm2-135m", {"dtype": "int64"}, "dtype must be float32, bfloat16 or float16"),
        ("smollm2-135m", {"dtype": "float16"}, "float16 needs a GPU"),
        ("smollm2-135m", {"revision": "main"}, "revision= is for Hub models"),
    ],
)
def test_what_cannot_be_loaded_says_what_to_do(name, options, words):
    with pytest.raises(ModelError) as caught:
        load_base(name, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_directory_without_a_model_says_so(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        load_base(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="could not be loaded"):
        load_base(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.json", {"hidden_size": "large"}, "Field 'hidden_size' expected int, got str"),
        ("config.json", {"num_attention_heads": 5}, "not a multiple of the number of attention heads"),
        ("config.json", {"hidden_size": 32}, "its config.json names other sizes than its weights have"),
        ("config.json", {"num_hidden_layers": 3}, "its weights lack 9 tensors of its config.json, first model.layers"),
        ("config.json", {"vocab_size": -1}, "negative dimension -1"),
        ("config.json", {"quantization_config": {"quant_method": "fp8"}}, "quantized already (fp8); give the original"),
        ("tokenizer_config.json", {"eos_token": None}, "a tokenizer without an end-of-text token"),
    ],
)
def test_a_directory_with_a_wrong_field_says_so(file, change, words, small_directory, tmp_path):
    folder = shutil.copytree(small_directory, tmp_path / "model")
    fields = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(fields | change))
    with pytest.raises(ModelError) as caught:
        load_base(folder, dtype="float32")
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantized_checkpoint_is_refused(kind, small_directory, tmp_path):
    """Its codes would be taken for weights."""
    quantized = load_base(small_directory, quantization=kind, dtype="float32")
    for model in (quantized.model, quantized.tokenizer):
        model.save_pretrained(tmp_path)
    for quantization in (None, "nf4"):
        with pytest.raises(ModelError, match="quantized already"):
            load_base(tmp_path, quantization=quantization)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "int8"])  # fp4 is packed as nf4 is: tests/adapters/test_quantization.py
def test_quantized_linear_layers_shrink_and_still_predict(base, kind):
    quantized = load_base("smollm2-135m", quantization=kind, dtype="float32")
    layer = quantized.model.model.layers[0].mlp.up_proj
    per_weight = layer.weight.nbytes / (layer.in_features * layer.out_features)
    assert per_weight == (1.0 if kind == "int8" else 0.5)
    prompt = base.tokenizer("The capital of France is", return_tensors="pt")
    assert base.tokenizer.decode(quantized.model(**prompt).logits[0, -1].argmax()) == " Paris"


def test_linear_modules_leave_the_head_out(base):
    found = linear_modules(base.model)
    assert len(found) == 210 and found["model.layers.0.mlp.down_proj"] == (576, 1536)


def test_a_shared_copy_holds_the_same_tensors_in_other_modules(small):
    copy = shared_copy(small.model)
    assert copy is not small.model
    for own, other in zip(small.model.parameters(), copy.parameters(), strict=True):
        assert own is other
    copy.model.layers[0].mlp = torch.nn.Identity()
    assert not isinstance(small.model.model.layers[0].mlp, torch.nn.Identity)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_completion_logits_are_the_models_own(architecture, base, tmp_path):
    """Gathering before the head and leaving the mask out changes nothing, soft-capping included."""
    small = load_base(str(write_model(tmp_path, architecture, base.tokenizer)), dtype="float32")
    batch = collate(ROWS, pad_id=0)
    mask = torch.tensor([[1] * len(row.ids) + [0] * (11 - len(row.ids)) for row in ROWS])
    with torch.no_grad():
        expected = small.model(input_ids=batch["input_ids"], attention_mask=mask).logits
        found = completion_logits(small.model, batch)
        torch.testing.assert_close(found.squeeze(0), expected[batch["rows"], batch["columns"]], rtol=1e-4, atol=1e-5)
        assert small.model(batch["input_ids"]).logits.shape == expected.shape  # the hook is gone


def test_scores_of_a_bfloat16_base_are_computed_in_float32(small_directory, small):
    lower = load_base(str(small_directory), dtype="bfloat16")
    raised = in_float32(lower.model)
    assert in_float32(small.model) is small.model
    assert {p.dtype for p in raised.parameters()} == {torch.float32}
    assert {p.dtype for p in lower.model.parameters()} == {torch.bfloat16}
    assert completion_logits(raised, collate(ROWS, 0)).dtype == torch.float32


def test_a_copy_never_catches_the_hook_of_a_scoring_thread(small):
    """Panels train in a thread while other cells score the same base."""
    rows, hooked, over = encode(load_task("facts").train[:2], small.tokenizer, 64), [], threading.Event()

    def copy_on():
        while not over.is_set():  # copies are not kept: thousands of them keep the garbage collector busy
            hooked.append(bool(shared_copy(small.model).get_output_embeddings()._forward_pre_hooks))

    thread = threading.Thread(target=copy_on)
    thread.start()
    try:
        for _ in range(20):
            score(small.model, rows)
    finally:
        over.set()
        thread.join()
    assert hooked and not any(hooked)
