"""A run as a whole model, and as a folder to give away: stock transformers and PEFT load both, with the same logits."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.saved_runs import saved_run
from workbench import load_base, load_task
from workbench.adapters import full, hybrid, load, qlora
from workbench.adapters.saved.origin import ORIGIN_FILE
from workbench.errors import AdapterError, RunError, ServingError
from workbench.serving import base_of, export, merge_run, serving_folder, write_merged
from workbench.serving.exported import card

IDS = torch.arange(100, 140).view(2, 20)


@pytest.fixture
def saved(small, store):
    return saved_run(small, store)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_a_merged_run_is_a_plain_model_with_the_logits_of_its_adapter(small, saved):
    merged = merge_run(saved, small)
    torch.testing.assert_close(logits(merged.model), logits(saved.load(small).model), rtol=0, atol=1e-5)
    assert not isinstance(merged.model, PeftModel) and "merged" in merged.revision
    assert merged.identity == merged.revision, "what is loaded with it can tell it from the base"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_written_is_loaded_by_stock_transformers(saved, tmp_path, dtype):
    base = base_of(saved, dtype)
    size = write_merged(saved, base, tmp_path / "whole")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype="auto")
    assert plain.dtype == base.dtype and size > (tmp_path / "whole" / "model.safetensors").stat().st_size
    weights, expected = plain.state_dict(), merge_run(saved, base).model.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert AutoTokenizer.from_pretrained(tmp_path / "whole")("JSON").input_ids == base.tokenizer("JSON").input_ids
    assert load_base(tmp_path / "whole", dtype=dtype).dtype == base.dtype


def test_a_qlora_run_is_merged_into_the_weights_that_it_was_trained_with(small_directory, store):
    packed = load_base(str(small_directory), quantization="nf4", dtype="float32")
    run = saved_run(packed, store, method=qlora(rank=2))
    merged = merge_run(run, packed)
    assert merged.quantization is None
    torch.testing.assert_close(logits(merged.model), logits(run.load(packed).model), rtol=0, atol=1e-3)


def test_merging_that_needs_16_bit_weights_says_which(small, small_directory, saved, store):
    packed = load_base(str(small_directory), quantization="nf4", dtype="float32")
    words = f"needs the 16-bit weights of {re.escape(small.name)} .*loaded as nf4 codes: load_base"
    with pytest.raises(ServingError, match=words):
        merge_run(saved, packed)
    codes = load_base(str(small_directory), quantization="int8", dtype="float32")
    run = saved_run(codes, store, "eight-bits", method=qlora(rank=2))
    with pytest.raises(ServingError, match="int8 codes: serve this run unmerged"):
        merge_run(run, codes)


def test_there_is_nothing_to_merge_or_export_in_a_full_run(small, store, tmp_path):
    run = saved_run(small, store, method=full())
    for what in (lambda: merge_run(run, small), lambda: export(run, small, tmp_path / "new")):
        with pytest.raises(ServingError, match=r"nothing to .* full fine-tuning has no adapter"):
            what()
    assert not (tmp_path / "new").exists()


def test_a_hybrid_is_no_plain_sum(small, store):
    run = saved_run(small, store, method=hybrid(["layers.1.mlp"], rank=2))
    with pytest.raises(AdapterError, match="trained whole"):
        merge_run(run, small)


def test_a_folder_that_holds_something_is_left_alone(small, saved, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for write in (write_merged, export):
        with pytest.raises(ServingError, match="is not empty; name a new folder"):
            write(saved, small, tmp_path)
    with pytest.raises(ServingError, match="cannot be used"):
        write_merged(saved, small, tmp_path / "mine.txt" / "below")
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == ["mine.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left")])
def test_half_a_model_is_not_left_behind(small, saved, tmp_path, monkeypatch, error):
    def fail(model, folder):
        (folder / "config.json").write_text("{}")
        raise error

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    with pytest.raises(ServingError, match=r"whole cannot be written \(.*No space left.*\); free some space"):
        write_merged(saved, small, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_another_base_is_refused_with_both_names(small, saved, tmp_path):
    other = replace(small, name="another", revision="files of another model")
    with pytest.raises(RunError, match=rf"trained on {re.escape(small.name)} .*not on another"):
        export(saved, other, tmp_path / "new")
    with pytest.raises(RunError, match="not on another"):
        merge_run(saved, other)


def test_a_base_that_its_name_does_not_load_is_not_given_away(small, saved, store, tmp_path):
    """Others would put the adapter on the weights before the merge, without an error."""
    merged = merge_run(saved, small)
    second = saved_run(merged, store)
    second.base["revision"] = merged.identity
    wanted = r"not those of .*save the base"
    with pytest.raises(ServingError, match=wanted):
        export(second, merged, tmp_path / "out")
    with pytest.raises(ServingError, match=wanted):
        serving_folder({"it": second}, merged, tmp_path / "served")


def test_an_adapter_of_changed_weights_is_refused_on_others(small, saved, tmp_path):
    folder = export(saved, small, tmp_path / "out")
    origin = json.loads((folder / ORIGIN_FILE).read_text())
    (folder / ORIGIN_FILE).write_text(json.dumps(origin | {"revision": f"{small.revision} + a-run, merged"}))
    with pytest.raises(AdapterError, match="weights that were changed after loading"):
        load(small, folder)


def test_a_base_of_bin_files_is_served_with_its_weights(small_directory, store, tmp_path):
    folder = shutil.copytree(small_directory, tmp_path / "bin")
    torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    base = load_base(folder)
    served = serving_folder({"it": saved_run(base, store)}, base, tmp_path / "served") / "it"
    assert AutoModelForCausalLM.from_pretrained(served)


def test_stock_peft_loads_what_was_exported(small, saved, tmp_path):
    folder = export(saved, small, tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(small.name, dtype=torch.float32)
    assert torch.equal(logits(PeftModel.from_pretrained(plain, folder).eval()), logits(saved.load(small).model))
    files = {path.name for path in folder.iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "README.md", ORIGIN_FILE}


def test_the_card_is_filled_in_from_the_record(small, saved, tmp_path):
    folder = export(saved, small, tmp_path / "adapter", load_task("tickets"))
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["library_name"] == "peft" and "base_model" not in told, (
        "a folder of this computer is no name on the Hub"
    )
    (result,) = told["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.75
    assert "| rank, alpha | 2, 4 |" in text and "of 4 test rows | 0.250 | 0.750 |" in text
    assert "moved by +0.250 nats a token" in text and "None" not in text
    assert load_task("tickets").test[0].prompt in text


def test_a_base_of_the_hub_is_named_as_the_hub_names_it(small, saved):
    packaged = replace(small, name="smollm2-135m", source="package")
    text = card(saved, packaged)
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert 'from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")' in text


def test_a_card_says_whether_the_adapter_changes_the_base(small, saved):
    assert "It is of no use without this base, and changes none of its weights." in card(saved, small)
    started_in_the_base = replace(saved, method={**saved.method, "pissa": True})
    assert "PEFT changes the base's weights when it loads it (PiSSA)" in card(started_in_the_base, small)


def test_a_run_that_was_not_scored_has_a_card_that_says_so(small, saved):
    text = card(replace(saved, metrics={}, before={}, forgetting={}), small)
    assert "This run was not scored." in text and "was not measured" in text
    assert "model-index" not in text
