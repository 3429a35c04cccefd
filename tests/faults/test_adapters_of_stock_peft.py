"""What stock PEFT saves is loaded as it was, or refused in a sentence, and the base that it is put on never moves.

huggingface/peft#1929 and #2270 (PiSSA, OLoRA), #2486 (biases), #2864 and #3009 (embeddings, head): the public reports.
"""

import json
import resource

import peft
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from support.random_bases import logits, random_base, stock_adapter
from workbench.adapters import change, load, merge, spectra
from workbench.adapters.guard import unmoved
from workbench.errors import AdapterError
from workbench.scoring.evaluation import score
from workbench.tasks import encode, load_task

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own
LORA = {
    "plain": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 7}, "alpha_pattern": {"v_proj": 3}},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "eva": {"init_lora_weights": "eva"},
    "mica": {"init_lora_weights": "mica"},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
    "bias of its own": {"lora_bias": True},
    "tokens": {"trainable_token_indices": [3, 9]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["lm_head"]},
    "embeddings and head": {"target_modules": ["embed_tokens", "lm_head", "v_proj"]},
    "whole modules": {"modules_to_save": ["norm"]},
    "whole embeddings": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "repeated layers": {"layer_replication": [[0, 2], [1, 2]]},
}
OTHERS = {
    "ia3": peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "vera": peft.VeraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]),
    "loha": peft.LoHaConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]),
    "lokr": peft.LoKrConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"]),
    "oft": peft.OFTConfig(task_type="CAUSAL_LM", r=4, oft_block_size=0, target_modules=["q_proj"]),
    "adalora": peft.AdaLoraConfig(task_type="CAUSAL_LM", total_step=10, target_modules=["q_proj"]),
    "layer norms": peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=["norm"]),
    "tokens alone": peft.TrainableTokensConfig(
        task_type="CAUSAL_LM", token_indices=[3, 9], target_modules=["embed_tokens"]
    ),
    "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
}


def lora_config(**options):
    return LoraConfig(task_type="CAUSAL_LM", r=4, **{"target_modules": ["q_proj", "v_proj"], **options})


@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
@pytest.mark.parametrize("kind", LORA)
def test_a_lora_of_stock_peft_is_loaded_and_merged_as_it_was(kind, tied, tmp_path):
    base = random_base("llama" if kind == "repeated layers" else "qwen2", tie_word_embeddings=tied)
    before, wanted = logits(base.model), stock_adapter(base, lora_config(**LORA[kind]), tmp_path)
    assert not torch.allclose(before, wanted, atol=1e-3)
    tuned = load(base, tmp_path)
    torch.testing.assert_close(logits(tuned), wanted, rtol=0, atol=1e-6)
    try:
        torch.testing.assert_close(logits(merge(base.model, tuned)), wanted, rtol=0, atol=2e-6)
    except AdapterError as refusal:
        assert kind in ("dora", "whole modules", "whole embeddings", "repeated layers"), refusal
        assert "merge_and_unload" in str(refusal)
    assert torch.equal(logits(base.model), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["plain", "bias all", "embeddings and head", "tokens"])
def test_an_adapter_fits_a_base_of_another_dtype(kind, dtype, tmp_path):
    """It was saved from a float32 base; biases and embeddings take the dtype of the one that they are put on."""
    stock_adapter(random_base("qwen2"), lora_config(**LORA[kind]), tmp_path)
    tuned = load(random_base("qwen2", dtype), tmp_path)
    assert logits(tuned).isfinite().all()
    adapters = [each for name, each in tuned.named_parameters() if "lora_" in name]
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert {each.dtype for each in adapters} == {torch.float32}
    some = next(
        name for name in stored if name.endswith("q_proj.lora_A.weight") or name.endswith("v_proj.lora_A.weight")
    )
    assert torch.equal(stored[some], tuned.get_parameter(some.replace(".weight", ".default.weight")))


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_for_evaluation_only(kind, tmp_path):
    base = random_base("llama")
    before, wanted = logits(base.model), stock_adapter(base, OTHERS[kind], tmp_path)
    tuned = load(base, tmp_path)
    torch.testing.assert_close(logits(tuned), wanted, rtol=0, atol=1e-6)
    for call in (lambda: merge(base.model, tuned), lambda: change(tuned, alpha=0), lambda: spectra(tuned)):
        with pytest.raises(AdapterError, match="works on LoRA updates; this is a"):
            call()
    assert torch.equal(logits(base.model), before)


@pytest.mark.parametrize("config", [peft.PromptTuningConfig, peft.PromptEncoderConfig], ids=lambda each: each.__name__)
def test_tokens_before_every_text_are_refused(config, tmp_path):
    base = random_base("llama")
    stock_adapter(base, config(task_type="CAUSAL_LM", num_virtual_tokens=5), tmp_path)
    with pytest.raises(AdapterError, match="tokens of its own before every text"):
        load(base, tmp_path)


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda", "loftq", "lora_ga"])
def test_a_start_that_cannot_be_found_again_is_refused(start, tmp_path):
    base = random_base("llama")
    before = logits(base.model)
    stock_adapter(base, lora_config(), tmp_path)
    edit(tmp_path, init_lora_weights=start, loftq_config={"loftq_bits": 4})
    with pytest.raises(AdapterError, match=f"init_lora_weights='{start}' has rewritten the base's weights"):
        load(base, tmp_path)
    assert torch.equal(logits(base.model), before)


@pytest.mark.parametrize("wanted", [change, spectra], ids=lambda each: each.__name__)
def test_what_pissa_multiplies_is_not_its_update(wanted, tmp_path):
    base = random_base("llama")
    stock_adapter(base, lora_config(init_lora_weights="pissa"), tmp_path)
    with pytest.raises(AdapterError, match="subtracts from the base's weights"):
        wanted(load(base, tmp_path))


def edit(folder, **fields):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


GIANTS = {
    "rank": (lora_config(), {"r": 200_000}),
    "rank of one module": (lora_config(), {"rank_pattern": {"v_proj": 200_000}}),
    "pissa": (lora_config(init_lora_weights="pissa"), {"r": 200_000}),
    "embeddings": (lora_config(target_modules=["embed_tokens"]), {"r": 200_000}),
    "loha": (OTHERS["loha"], {"r": 200_000}),
    "vera": (OTHERS["vera"], {"r": 200_000}),
    "prefix": (OTHERS["prefix"], {"num_virtual_tokens": 2_000_000}),
}


@pytest.mark.parametrize("kind", GIANTS)
def test_what_a_configuration_claims_takes_no_memory(kind, tmp_path):
    config, claimed = GIANTS[kind]
    base = random_base("llama")
    stock_adapter(base, config, tmp_path)
    edit(tmp_path, **claimed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AdapterError, match=r"says .*=2\d+, and its weights have \d+ at most"):
        load(base, tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_rank_that_is_a_little_off_is_refused(tmp_path):
    base = random_base("llama")
    stock_adapter(base, lora_config(), tmp_path)
    for rank in (3, 5):
        edit(tmp_path, r=rank)
        with pytest.raises(AdapterError, match="damaged or does not fit"):
            load(base, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["lora_A", "lora_B", "bias"])
def test_weights_that_are_no_numbers_are_refused(value, part, tmp_path):
    base = random_base("qwen2")
    stock_adapter(base, lora_config(bias="all"), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(each for each in tensors if part in each)
    tensors[name].view(-1)[-1] = value
    save_file(tensors, file)
    with pytest.raises(AdapterError, match="not finite"):
        load(base, tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint8], ids=str)
def test_integer_weights_are_refused(dtype, tmp_path):
    base = random_base("llama")
    stock_adapter(base, lora_config(), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({name: (100 * each).to(dtype) for name, each in load_file(file).items()}, file)
    with pytest.raises(AdapterError, match="not as floating-point numbers"):
        load(base, tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_floating_weights_are_loaded(dtype, tmp_path):
    base = random_base("llama")
    wanted = stock_adapter(base, lora_config(), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({name: each.to(dtype) for name, each in load_file(file).items()}, file)
    torch.testing.assert_close(logits(load(base, tmp_path)), wanted, rtol=0, atol=1e-2)


def test_another_vocabulary_is_a_sentence(tmp_path):
    stock_adapter(
        random_base("llama", vocab_size=208), lora_config(target_modules=["embed_tokens", "lm_head"]), tmp_path
    )
    with pytest.raises(AdapterError, match=r"\[208, 32\] in the file and \[200, 32\] in the base|size mismatch"):
        load(random_base("llama"), tmp_path)


def test_a_base_that_was_written_to_is_noticed():
    base = random_base("llama")
    weight = base.model.model.layers[1].mlp.down_proj.weight
    for write in (
        lambda: weight.add_(1),
        lambda: weight.data.mul_(1.5),
        lambda: setattr(weight, "data", weight.data + 1),
    ):
        words = r"changed 1 tensors of the base, first model\.layers\.1\.mlp\.down_proj"
        with pytest.raises(AdapterError, match=words), torch.no_grad(), unmoved(base.model, "This"):
            write()
    with unmoved(base.model, "This"):
        logits(base.model)


@pytest.mark.parametrize("kind", ["prefix", "ia3"])
def test_what_is_for_evaluation_is_scored_as_stock_peft_computes_it(kind, small, tmp_path):
    """Batches without padding and a repeated cache would leave out the prefix, which lies in the cache."""
    wanted = 0.0
    stock_adapter(small, OTHERS[kind], tmp_path)
    task = load_task("facts").head(4)
    own = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(small.name), tmp_path).eval()
    rows = encode(task.test[:2], small.tokenizer, 512)
    for row in rows:
        with torch.no_grad():
            predicted = own(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        wanted -= sum(predicted[i - 1, row.ids[i]].item() for i in range(row.prompt_length, len(row.ids)))
    found = score(load(small, tmp_path), rows)["loss"]
    assert found == pytest.approx(wanted / sum(row.completion_tokens for row in rows), rel=1e-5)


def test_a_pickled_adapter_is_read_too(tmp_path):
    base = random_base("llama")
    wanted = stock_adapter(base, lora_config(), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(file), tmp_path / "adapter_model.bin")
    file.unlink()
    torch.testing.assert_close(logits(load(base, tmp_path)), wanted, rtol=0, atol=1e-6)
    edit(tmp_path, r=200_000)
    with pytest.raises(AdapterError, match="says r=200000"):
        load(base, tmp_path)
