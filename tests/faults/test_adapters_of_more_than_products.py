"""Adapters of stock PEFT that are other than products B A: computed as PEFT does, or refused in a sentence."""

import peft
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from support.bases_on_disk import few_rows, write_base
from support.random_bases import logits, random_base, stock_adapter
from workbench import load_base
from workbench.adapters import load
from workbench.adapters.saved.several import attach
from workbench.adapters.updates import change, spectra
from workbench.analysis import layer_spectra
from workbench.errors import AdapterError
from workbench.scoring.evaluation import answers

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own
KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "velora": {"velora_config": peft.VeloraConfig()},
    "dora": {"use_dora": True},
    "kasa": {"kasa_config": peft.KasaConfig()},
    "pissa": {"init_lora_weights": "pissa"},
    "biases": {"bias": "all"},
    "bias of its own": {"lora_bias": True},
    "tokens": {"trainable_token_indices": [5, 9]},
    "whole module": {"modules_to_save": ["norm"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "parameters": {"target_modules": [], "target_parameters": ["q_proj.weight"]},
}


def lora_config(**options):
    return LoraConfig(task_type="CAUSAL_LM", r=4, **{"target_modules": ["q_proj", "v_proj"], **options})


@pytest.mark.parametrize("kind", KINDS)
def test_beside_others_an_adapter_computes_what_it_does_alone_or_is_refused(kind, tmp_path):
    base = random_base("qwen2")
    before, wanted = logits(base.model), stock_adapter(base, lora_config(**KINDS[kind]), tmp_path)
    try:
        torch.testing.assert_close(logits(attach(base, {"a": tmp_path})), wanted, rtol=0, atol=1e-5)
    except AdapterError as error:
        assert str(error).startswith("a has "), error
        assert kind not in ("plain", "rslora")
    assert torch.equal(logits(base.model), before)


def test_an_adapter_that_comes_with_other_embeddings_is_not_attached(tmp_path):
    base = random_base("qwen2")
    with torch.no_grad():
        base.model.get_input_embeddings().weight.mul_(2)
    stock_adapter(base, lora_config(target_modules=["q_proj", "embed_tokens"]), tmp_path)
    with torch.no_grad():
        base.model.get_input_embeddings().weight.div_(2)
    with pytest.raises(AdapterError, match="a computes something else next to other adapters"):
        attach(base, {"a": tmp_path})


@pytest.mark.parametrize("wanted", [spectra, lambda model: change(model, rank=2)], ids=["spectra", "change"])
@pytest.mark.parametrize("kind", ["kasa", "velora"])
def test_an_update_that_is_no_product_has_no_spectrum(kind, wanted, tmp_path):
    base = random_base("llama")
    stock_adapter(base, lora_config(**KINDS[kind]), tmp_path)
    tuned = load(base, tmp_path)
    with pytest.raises(AdapterError, match="is no product of two matrices alone"):
        wanted(tuned)
    with pytest.raises(AdapterError, match="is no product of two matrices alone"):
        layer_spectra(base, base.with_model(tuned, "tuned"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return load_base(write_base(tmp_path_factory.mktemp("base"), "llama"), dtype="float32")


@pytest.mark.parametrize(
    "config",
    [
        peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
        peft.CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
        peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=1),
        lora_config(target_modules="all-linear"),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_answers_are_those_of_stock_peft(config, small, tmp_path):
    """PEFT puts a prefix into the place of the cache at each call: only the last token was read after it."""
    stock_adapter(small, config, tmp_path)
    own = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(small.name), tmp_path).eval()
    wanted = []
    for row in few_rows().test:
        ids = list(small.tokenizer(row.prompt)["input_ids"])
        start = len(ids)
        while len(ids) < start + 8 and ids[-1] != small.tokenizer.eos_token_id:
            with torch.no_grad():
                ids.append(own(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
        wanted.append(small.tokenizer.decode(ids[start:], skip_special_tokens=True).strip())
    assert answers(small.with_model(load(small, tmp_path), "tuned"), few_rows().test, 8) == wanted


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (peft.PolyConfig(task_type="CAUSAL_LM", r=2, n_tasks=2, target_modules=["q_proj"]), "which task it is of"),
        (lora_config(alora_invocation_tokens=[9, 4]), "only after certain tokens"),
    ],
    ids=["poly", "alora"],
)
def test_what_needs_more_than_a_text_is_refused(config, words, small, tmp_path):
    own = AutoModelForCausalLM.from_pretrained(small.name)
    peft.get_peft_model(own, config).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match=f"{words}.*use PEFT's own generate"):
        load(small, tmp_path)
