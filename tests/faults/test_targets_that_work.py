"""Adapters go where they were asked to go, or the model says which targets work; and several share a pass exactly.

huggingface/peft#3711: PEFT rewrites full names of shared and dense MLPs to the fused experts of a mixture.
"""

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from torch import nn
from transformers.pytorch_utils import Conv1D

from support.random_bases import IDS, logits, random_base
from workbench.adapters.batched import SlicedLinear, fits_a_slice, multi_adapter_model, set_slices
from workbench.adapters.carriers import carriers, injected
from workbench.adapters.inject import (
    adapted_share,
    adapter_parameters,
    apply,
    block_of,
    choose_targets,
    opened_modules,
    target_modules,
    tell_left_out,
    trainable_parameters,
)
from workbench.adapters.methods import full, hybrid, last_mlp, lora
from workbench.errors import MethodError
from workbench.models import linear_modules

FAMILIES = ("llama", "glm4_moe", "qwen2_moe", "qwen3_moe", "olmoe", "mixtral", "falcon", "mamba", "bloom", "gemma2")
FAMILIES += ("gpt2", "openai-gpt")  # whose weights are stored transposed
METHODS = (lora(rank=3), lora(rank=3, layers=[1]), hybrid(["norm"], rank=2), lora(rank=2, dora=True))


@pytest.fixture(scope="module")
def bases():
    return {family: random_base(family, **SIZES.get(family, {})) for family in FAMILIES}


SIZES = {
    "bloom": {"n_layer": 2, "n_head": 4},
    "mamba": {"state_size": 8},
    "falcon": {"new_decoder_architecture": False},
}


@pytest.mark.parametrize("method", METHODS[:2], ids=["all", "one block"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_injected_is_what_was_asked_for(bases, family, method):
    base = bases[family]
    wanted = target_modules(base, method)
    model = apply(base, method)
    assert injected(model) == set(wanted)
    assert trainable_parameters(model) == adapter_parameters(base, method)
    assert method.layers is None or all(".1." in name for name in wanted)


def test_the_first_number_of_a_name_is_its_block():
    """LongCat numbers the two attentions of a block, older mixtures their experts."""
    names = [f"model.layers.{block}.self_attn.{part}.q_proj" for block in range(3) for part in range(2)]
    for block in range(3):
        chosen = choose_targets(lora(layers=[block]), names, names, "longcat")
        assert chosen == [name for name in names if name.startswith(f"model.layers.{block}.")]
    with pytest.raises(MethodError, match="blocks 0 to 2"):
        choose_targets(lora(layers=[3]), names, names, "longcat")
    with pytest.raises(MethodError, match="no numbered blocks"):
        choose_targets(lora(layers=[0]), ["proj"], ["proj"], "flat")


@pytest.mark.parametrize("family, kept", [("ernie4_5_moe", ["e_score_correction_bias"]), ("llama", []), ("mamba", [])])
def test_full_leaves_what_the_model_itself_does_not_train(family, kept):
    """Loading a checkpoint forgets which parameters a model's own code keeps fixed."""
    fields = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16} if kept else SIZES.get(family, {})
    base = random_base(family, **fields)
    drawn = torch.get_rng_state()
    model = apply(base, full())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [name.rpartition(".")[2] for name, each in model.named_parameters() if not each.requires_grad] == kept


@pytest.mark.parametrize("family", FAMILIES)
def test_every_adapter_gets_a_gradient(bases, family):
    model = apply(bases[family], lora(rank=2)).train()
    model(input_ids=IDS).logits.square().sum().backward()
    without = [name for name, each in model.named_parameters() if "lora_B" in name and not each.grad.any()]
    assert not without


@pytest.mark.parametrize(
    "family, target", [("glm4_moe", "down_proj"), ("glm4_moe", "gate_proj"), ("mamba", "out_proj")]
)
def test_targets_that_cannot_work_are_refused_with_those_that_do(bases, family, target):
    assert any(name.endswith(target) for name in linear_modules(bases[family].model))
    with pytest.raises(MethodError, match=r"cannot carry an adapter.*Targets that work"):
        apply(bases[family], lora(rank=2, targets=[target]))


@pytest.mark.parametrize(
    "family, little", [("llama", False), ("bloom", False), ("gpt2", False), ("mixtral", True), ("glm4_moe", True)]
)
def test_all_linear_says_what_it_covers(bases, family, little, capsys, monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    share = adapted_share(bases[family], lora())
    assert (share < 0.5) if little else share == pytest.approx(1)
    tell_left_out(bases[family], [lora(rank=1), lora(rank=2)])
    said = capsys.readouterr().err
    assert said.count("of its linear weights") == int(little)
    assert (f"{share:.0%}" in said) == little


class Scaled(nn.Linear):
    """A product that is more than x W^T."""

    def forward(self, x):
        return 3 * super().forward(x)


class InPlace(nn.Linear):
    """A layer that writes into its own output."""

    def forward(self, x):
        return super().forward(x).mul_(2)


def put(base, kind):
    """Replace every up_proj of a llama by a layer of this kind."""
    for block in base.model.model.layers:
        old = block.mlp.up_proj
        block.mlp.up_proj = kind(old.in_features, old.out_features, bias=False)
        block.mlp.up_proj.weight = old.weight
    base.model.requires_grad_(False)
    return base


class Writing(nn.Module):
    """An owner that writes into the output of a layer, as OLMo's clipping and Falcon do."""

    def __init__(self, mlp):
        super().__init__()
        self.up_proj, self.down_proj = mlp.up_proj, mlp.down_proj

    def forward(self, x):
        return self.down_proj(self.up_proj(x).clamp_(-1, 1))


class Reading(Writing):
    """An owner that computes with the weight and never calls the layer, as Mamba's kernels do."""

    def forward(self, x):
        return self.down_proj(nn.functional.linear(x, self.up_proj.weight, self.up_proj.bias))


def owned(base, kind):
    for block in base.model.model.layers:
        block.mlp = kind(block.mlp)
    return base


def parametrized(base):
    for block in base.model.model.layers:
        nn.utils.parametrizations.weight_norm(block.mlp.up_proj)
    base.model.requires_grad_(False)
    return base


def transposed(base):
    """With GPT-2's kind of layer, which stores (in, out)."""
    for block in base.model.model.layers:
        old, new = block.mlp.up_proj, Conv1D(block.mlp.up_proj.out_features, block.mlp.up_proj.in_features)
        new.weight = nn.Parameter(old.weight.T.contiguous())
        block.mlp.up_proj = new
    base.model.requires_grad_(False)
    return base


LAYERS = {
    "plain": lambda base: base,
    "scaled": lambda base: put(base, Scaled),
    "in place": lambda base: put(base, InPlace),
    "parametrized": parametrized,
    "transposed": transposed,
    "output written to": lambda base: owned(base, Writing),
    "weight read": lambda base: owned(base, Reading),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_adapters_in_one_pass_are_those_alone(kind):
    """Values and gradients, whatever the linear layers compute and their owners do with them."""
    base = LAYERS[kind](random_base("llama"))
    methods = [lora(rank=2), lora(rank=3, targets=["q_proj"] if kind == "weight read" else ["q_proj", "up_proj"])]
    assert all(fits_a_slice(base, method) for method in methods)
    assert ("model.layers.0.mlp.up_proj" in carriers(base.model)) == (kind != "weight read")
    models = [apply(base, method).train() for method in methods]
    for model in models:
        with torch.no_grad():
            for name, each in model.named_parameters():
                if "lora_B" in name:
                    each.normal_(0, 0.1)
    combined = multi_adapter_model(base, models)
    set_slices(combined, [IDS.numel()] * 2)
    together = combined(input_ids=IDS.repeat(2, 1)).logits
    together.square().sum().backward()
    found = [[each.grad.clone() for each in model.parameters() if each.grad is not None] for model in models]
    for number, model in enumerate(models):
        model.zero_grad()
        alone = model(input_ids=IDS).logits
        alone.square().sum().backward()
        torch.testing.assert_close(together[number : number + 1], alone, rtol=1e-4, atol=1e-5)
        own = [each.grad for each in model.parameters() if each.grad is not None]
        assert len(own) == len(found[number]) > 0
        for one, two in zip(found[number], own, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_base_computes_as_before(kind):
    base = LAYERS[kind](random_base("llama"))
    before = logits(base.model)
    for method in METHODS:
        apply(base, method)
    assert torch.equal(logits(base.model), before)


class Experts(nn.Module):
    """Experts that are layers of their own, each with the tokens that are routed to it."""

    def __init__(self, mlp):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(2))

    def forward(self, x):
        flat, out = x.reshape(-1, x.shape[-1]), torch.zeros_like(x.reshape(-1, x.shape[-1]))
        chosen = (flat[:, 0] > 0).long()
        for number, expert in enumerate(self.experts):
            out = out.index_copy(0, (chosen == number).nonzero()[:, 0], expert(flat[chosen == number]))
        return out.view(x.shape)


def test_experts_that_get_some_tokens_are_trained_one_by_one():
    base = random_base("llama")
    for block in base.model.model.layers:
        block.mlp = Experts(block.mlp)
    base.model.requires_grad_(False)
    assert "model.layers.0.mlp.experts.1" in target_modules(base, lora())
    assert not fits_a_slice(base, lora())
    assert fits_a_slice(base, lora(targets=["q_proj"]))


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gpt2", "bloom", "falcon"])
def test_the_last_mlp_is_found_whatever_the_blocks_are_called(family):
    base = random_base(family)
    (opened,) = opened_modules(base, hybrid([last_mlp(base.model.config)]))
    assert block_of(opened) == 1 and opened.endswith(".mlp")


@pytest.mark.parametrize("family", ["glm4_moe", "ernie4_5_moe", "exaone_moe", "afmoe"])
def test_a_mixture_whose_blocks_are_all_dense_has_the_same_targets_with_and_without_weights(family):
    """PEFT renames the targets of the family, with experts or without."""
    fields = {"first_k_dense_replace": 2, "num_dense_layers": 2, "mlp_layer_types": ["dense"] * 2, "head_dim": 8}
    base = random_base(family, moe_layer_start_index=5, moe_layer_end_index=5, **fields)
    with torch.device("meta"):
        empty = type(base.model)._from_config(base.model.config)
    assert carriers(empty).keys() == carriers(base.model).keys()
    assert apply(base, lora(rank=2))


def test_models_that_draw_noise_are_trained_one_by_one():
    """All slices would get the noise of the first one's seed."""
    calm, noisy = (random_base("mixtral", router_jitter_noise=noise) for noise in (0.0, 0.1))
    attention = lora(rank=2, targets=["q_proj"])
    assert fits_a_slice(calm, attention) and not fits_a_slice(noisy, attention)


def test_a_slice_takes_an_input_in_another_dtype_than_the_product():
    """On a GPU, autocast leaves the output of some norms in float32."""
    linear = nn.Linear(8, 6, dtype=torch.bfloat16).requires_grad_(False)
    part = PeftLinear(linear, "default", LoraConfig(), r=2, lora_alpha=4)
    nn.init.normal_(part.lora_B["default"].weight)
    x = torch.randn(1, 5, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = SlicedLinear(linear, [part], [5])(x), part(x)
    gradients = [torch.autograd.grad(y.float().sum(), (x, part.lora_A["default"].weight)) for y in outputs]
    assert outputs[0].dtype == torch.bfloat16
    torch.testing.assert_close(*outputs, atol=0.05, rtol=0.05)
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs.to(mine.dtype), atol=0.1, rtol=0.05)
