"""Methods: what they refuse, where adapters go, and that PEFT's own injection is what we get."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from support.fingerprints import fingerprint
from workbench import full, hybrid, load_base, lora, qlora
from workbench.adapters import lowrank
from workbench.adapters.inject import adapter_parameters, apply, opened_modules, target_modules, trainable_parameters
from workbench.adapters.methods import Method
from workbench.errors import MethodError
from workbench.models import linear_modules, shared_copy


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lora(rank=0), "rank=0 must be a whole number"),
        (lambda: lora(rank=2.5), "rank=2.5"),
        (lambda: lora(rank=True), "rank=True"),
        (lambda: lora(alpha=0), "alpha=0 must be above 0"),
        (lambda: lora(dropout=1.0), "below 1"),
        (lambda: lora(alpha=float("inf")), "alpha=inf must be above 0 and finite"),
        (lambda: lora(alpha=None), "alpha=None must be a number"),
        (lambda: lora(alpha=10**5000), "alpha is larger than any float"),
        (lambda: lora(dropout="0.1"), "dropout='0.1' must be a number"),
        (lambda: full(learning_rate=-1e-4), "must be above 0"),
        (lambda: full(learning_rate=float("inf")), "learning_rate=inf must be above 0 and finite"),
        (lambda: full(learning_rate=float("nan")), "learning_rate=nan must be above 0 and finite"),
        (lambda: lora(learning_rate="1e-3"), "learning_rate='1e-3' must be a number"),
        (lambda: lora(layers=[0.5]), "layers=[0.5] must hold whole numbers"),
        (lambda: lora(layers=[True]), "layers=[True] must hold whole numbers"),
        (lambda: lora(layers=5), "layers=5 must be a list: layers=[5]"),
        (lambda: lora(targets=["q_proj", None]), "targets=['q_proj', None] must hold the ends of modules' names"),
        (lambda: hybrid([3]), "full_modules=[3] must hold the ends"),
        (lambda: lora(targets=None), "targets=None must be 'all-linear' or a list of names"),
        (lambda: hybrid(8), "full_modules=8 must be a list"),
        (lambda: lora(init_seed="3"), "init_seed='3' must be a whole number"),
        (lambda: hybrid([]), "needs full_modules"),
        (lambda: hybrid("layers.1.mlp"), "must be a list"),
        (lambda: replace(lora(), full_modules=("norm",)), "belong to hybrid()"),
        (lambda: lora(pissa=True, dora=True), "pissa takes its start out of plain weights"),
        (lambda: qlora(pissa=True), "pissa takes its start out of plain weights"),
    ],
)
def test_a_method_that_makes_no_sense_is_refused(make, words):
    with pytest.raises(MethodError) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (lora(targets=["query"]), "it has ['down_proj', 'gate_proj'"),
        (lora(layers=[7]), "has blocks 0 to 1"),
        (hybrid(["layers.9.mlp"]), "does not have"),
        (qlora(), "quantization='nf4'"),
    ],
)
def test_a_method_that_does_not_fit_the_base_is_refused(small, method, words):
    with pytest.raises(MethodError) as caught:
        apply(small, method)
    assert words in str(caught.value)


@pytest.mark.parametrize("method", [lora(), lora(layers=[7]), hybrid(["h.0.mlp"]), hybrid(["layers.9.mlp"])])
def test_a_model_without_linear_layers_is_refused(small, method):
    sizes = LlamaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=0, num_attention_heads=2)
    base = replace(small, name="empty", model=AutoModelForCausalLM.from_config(sizes))
    with pytest.raises(MethodError, match="empty has no linear layers"):
        apply(base, method)


@pytest.mark.parametrize("method", [full(), lora(), hybrid(["norm"])], ids=lambda method: method.name)
def test_a_base_that_carries_an_adapter_is_refused(small, method):
    """PEFT would save the adapter alone of what full() trained, and take no second one."""
    carrying = replace(small, model=apply(small, lora(rank=2)), revision="1 + a-run")
    with pytest.raises(MethodError, match=r"\(1 \+ a-run\) carries an adapter: merge it .* or train the plain base"):
        apply(carrying, method)


def test_numbers_of_every_kind_are_one_setting_in_a_record():
    method = lora(alpha=np.float32(16), learning_rate=np.float64(0.5), dropout=0)
    assert method == lora(alpha=16, learning_rate=0.5)
    assert {type(method.to_dict()[name]) for name in ("alpha", "learning_rate", "dropout")} == {float}
    whole = lora(rank=np.int64(4), layers=np.arange(2), init_seed=np.int64(3))
    assert whole == lora(rank=4, layers=[0, 1], init_seed=3)
    assert {type(number) for number in (whole.rank, *whole.layers, whole.init_seed)} == {int}


def test_quantized_bases_take_qlora_only(small, small_directory):
    quantized = load_base(str(small_directory), quantization="nf4", dtype="float32")
    for base, method in ((quantized, lora()), (quantized, full()), (small, qlora())):
        with pytest.raises(MethodError, match="quantiz"):
            apply(base, method)


@pytest.mark.parametrize("method", [full(), lora(dora=True), hybrid(["layers.1.mlp"], rslora=True)])
def test_applying_leaves_the_base_as_it_was(small, method):
    before = fingerprint(small)
    model = apply(small, method)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    assert fingerprint(small) == before


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj",), ("mlp.up_proj", "o_proj")])
def test_trainable_parameters_are_what_the_formula_says(small, rank, targets):
    method = lora(rank=rank, targets=targets)
    shapes = linear_modules(small.model)
    expected = sum(lowrank.lora_parameters(*shapes[name], rank) for name in target_modules(small, method))
    assert trainable_parameters(apply(small, method)) == expected


def test_full_modules_open_what_they_name_and_no_more(small):
    """PEFT itself takes the end of a name without regard to dots: "norm" would open every "input_layernorm"."""
    opened = [n for n, p in apply(small, hybrid(["norm"])).named_parameters() if p.requires_grad and "lora_" not in n]
    assert len(opened) == 1 and "model.norm" in opened[0]


def test_what_lies_within_an_opened_module_is_not_opened_again(small):
    outer = apply(small, hybrid(["layers.1"]))
    nested = hybrid(["layers.1", "layers.1.mlp", "layers.1.mlp.up_proj", "norm"])
    assert opened_modules(small, nested) == ["model.layers.1", "model.norm"]
    norm = small.model.get_submodule("model.norm").weight.numel()
    assert trainable_parameters(apply(small, nested)) == trainable_parameters(outer) + norm


def test_quantized_modules_cannot_be_opened(small_directory):
    base = load_base(str(small_directory), quantization="nf4", dtype="float32")
    with pytest.raises(MethodError, match="cannot be trained whole"):
        apply(base, hybrid(["layers.1.mlp"]))
    assert apply(base, hybrid(["norm"]))


def test_targets_and_layers_narrow_each_other(small):
    assert target_modules(small, lora(targets="q_proj", layers=[1])) == ["model.layers.1.self_attn.q_proj"]
    left = target_modules(small, hybrid(["layers.1.mlp"]))
    assert left and not any("layers.1.mlp" in name for name in left)


def test_the_adapter_is_the_one_that_peft_makes(small):
    ours = apply(small, lora(rank=4, alpha=8), seed=3)
    torch.manual_seed(3)
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):  # PEFT 0.21 on transformers 5
        theirs = get_peft_model(shared_copy(small.model), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    found = {name: p for name, p in ours.named_parameters() if "lora" in name}
    expected = {name: p for name, p in theirs.named_parameters() if "lora" in name}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_init_seed_overrides_the_runs_seed(small):
    def first(method: Method, seed: int) -> torch.Tensor:
        return next(p for name, p in apply(small, method, seed).named_parameters() if "lora_A" in name)

    assert torch.equal(first(lora(init_seed=5), 0), first(lora(init_seed=5), 1))
    assert not torch.equal(first(lora(), 0), first(lora(), 1))


@pytest.mark.parametrize("method", [full(), lora(), hybrid(["layers.1.mlp"])])
def test_everything_that_trains_is_float32_on_a_bfloat16_base(small_directory, method):
    base = load_base(str(small_directory), dtype="bfloat16")
    trained = [p for p in apply(base, method).parameters() if p.requires_grad]
    assert trained and {p.dtype for p in trained} == {torch.float32}


def test_scaling_and_label():
    assert lora(rank=4, alpha=16).scaling == 4 and lora(rank=4, alpha=16, rslora=True).scaling == 8
    assert (full().label, qlora(rank=2).label, lora(dora=True).label) == ("full", "qlora r=2", "lora r=8 dora")


@pytest.mark.parametrize(
    "method",
    [lora(rank=3), lora(rank=2, targets=["q_proj", "down_proj"], layers=[1]), hybrid(["layers.1.mlp"], rank=4)],
)
def test_adapter_parameters_are_those_that_peft_makes(small, method):
    made = sum(p.numel() for name, p in apply(small, method).named_parameters() if "lora_" in name)
    assert adapter_parameters(small, method) == made


@pytest.mark.parametrize("method", [lora(targets=["q_proj", ""]), lora(targets=""), hybrid([""])])
def test_an_empty_name_does_not_mean_every_layer(small, method):
    with pytest.raises(MethodError, match="a comma too many"):
        target_modules(small, method)


def test_pissa_starts_as_pefts_own_and_leaves_the_base_alone(small):
    before = fingerprint(small.model)
    model = apply(small, lora(rank=3, alpha=6, pissa=True, targets=["q_proj", "down_proj"]))
    assert fingerprint(small.model) == before
    stock = AutoModelForCausalLM.from_pretrained(small.model.name_or_path, dtype=torch.float32)
    stock = get_peft_model(
        stock, LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights="pissa")
    )
    ours, theirs = dict(model.named_parameters()), dict(stock.named_parameters())
    assert all(
        torch.equal(ours[name], weight) for name, weight in theirs.items() if "lora_" in name or "base_layer" in name
    )
    ids = torch.arange(5)[None]
    assert torch.allclose(model(input_ids=ids).logits, small.model(input_ids=ids).logits, atol=1e-5)
