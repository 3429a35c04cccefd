"""The quicker forms of attention and norm give what the originals give, forward and back, and step aside where due."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from support.small_models import write_model
from workbench import full, load_base
from workbench.adapters.inject import apply
from workbench.models.cpu_kernels import (
    PADDING_FREE,
    SHORT,
    _CausalAttention,
    _FrozenNorm,
    quicken,
    short_attention,
    unmasked_attention,
)

LAYER = SimpleNamespace(num_key_value_groups=3, is_causal=True, training=True)


def attend(function, length: int, dtype: torch.dtype, **options) -> list[torch.Tensor]:
    """The output and the gradients of query, key and value; 6 heads that share 2 key heads."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, length, heads, 16) for heads in (6, 2, 2)]
    parts = [torch.randn(shape, generator=generator, dtype=dtype).transpose(1, 2) for shape in shapes]
    parts = [part.requires_grad_() for part in parts]
    out, _ = function(LAYER, *parts, options.pop("mask", None), scaling=0.3, **options)
    out.float().square().sum().backward()
    return [out, *(part.grad for part in parts)]


@pytest.mark.parametrize("length", [2, 7, SHORT])
def test_short_attention_is_attention(length):
    quick = attend(short_attention, length, torch.bfloat16)
    exact = attend(sdpa_attention_forward, length, torch.float32)
    fused = attend(sdpa_attention_forward, length, torch.bfloat16)
    for ours, theirs, truth in zip(quick, fused, exact, strict=True):
        assert ours.shape == truth.shape and ours.stride() == theirs.stride()
        error, their_error = ((x.float() - truth).norm() / truth.norm() for x in (ours, theirs))
        assert error <= 1.5 * their_error + 1e-3


@pytest.mark.parametrize(
    ("length", "options"),
    [
        (SHORT + 1, {}),
        (1, {}),
        (5, {"is_causal": False}),
        (5, {"mask": torch.zeros(2, 1, 5, 5, dtype=torch.bfloat16)}),
        (5, {"dropout": 0.0, "mask": torch.ones(2, 1, 5, 5, dtype=torch.bool)}),
    ],
)
def test_everything_else_is_left_to_torch(length, options):
    """The very same numbers, not only close ones."""
    ours, theirs = (attend(f, length, torch.bfloat16, **options) for f in (short_attention, sdpa_attention_forward))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_float32_is_left_to_torch_but_in_rows():
    """The logits of a model that is called as usual stay those of transformers, to the last bit."""
    ours, theirs = (attend(f, 9, torch.float32) for f in (short_attention, sdpa_attention_forward))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    in_rows = attend(lambda *given, **options: unmasked_attention(*given[:4], **options), 9, torch.float32)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(in_rows, theirs, strict=True))


def test_the_gradients_of_attention_are_the_derivatives():
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 6, 4), (2, 3, 4), (2, 3, 4))  # two groups of queries
    parts = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(_CausalAttention.apply, (*parts, 2, 0.4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_norm_is_the_norm(dtype):
    """The same output bit for bit; a gradient that is as near to the exact one."""
    weight = torch.randn(24).to(dtype)
    x = torch.randn(3, 5, 24).to(dtype)  # rounded once, so that every precision starts from the same numbers

    def run(own: bool, precision: torch.dtype) -> list[torch.Tensor]:
        norm = LlamaRMSNorm(24).to(precision)
        norm.weight = nn.Parameter(weight.to(precision), requires_grad=False)
        leaf = x.to(precision, copy=True).requires_grad_()
        y = _FrozenNorm.apply(leaf, norm.weight, norm.variance_epsilon) if own else norm(leaf)
        y.backward(torch.ones_like(y).cumsum(-1))
        return [y, leaf.grad]

    (ours, own_gradient), (theirs, their_gradient) = run(True, dtype), run(False, dtype)
    exact = run(False, torch.float64)[1]
    assert torch.equal(ours, theirs)
    error, their_error = ((g.double() - exact).norm() / exact.norm() for g in (own_gradient, their_gradient))
    assert error <= 1.2 * their_error + 1e-7


def test_the_norms_gradient_is_the_derivative():
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_FrozenNorm.apply, (x, torch.randn(8, dtype=torch.float64), 1e-6))


def test_a_norm_of_another_kind_is_left_as_it_is():
    """Gemma's multiplies by 1 + weight, and a name that ends in RMSNorm does not tell."""
    model = nn.Module()
    model.norm, model.config = Gemma2RMSNorm(8), SimpleNamespace(_attn_implementation="eager")
    model.norm.variance_epsilon = model.norm.eps
    with torch.no_grad():
        model.norm.weight.fill_(0.5)
    quicken(model)
    assert type(model.norm) is Gemma2RMSNorm


def test_a_norm_that_trains_takes_its_own_way(small):
    tuned = apply(small, full(1e-3))
    norm = tuned.model.norm
    norm(torch.randn(2, 3, 64)).sum().backward()
    assert isinstance(norm, LlamaRMSNorm) and norm.weight.grad is not None


@pytest.mark.parametrize("architecture", ["llama", "olmo2", "qwen3", "gemma2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_model_computes_as_the_stock_one(base, tmp_path, architecture, dtype):
    folder = write_model(tmp_path / "model", architecture, base.tokenizer)
    ours = load_base(str(folder), dtype=dtype).model
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    ids = torch.arange(100, 130).view(2, 15)
    with torch.no_grad():
        difference = (ours(ids).logits.float() - stock(ids).logits.float()).abs().max()
    assert difference <= (1e-5 if dtype == "float32" else 3e-2)


def test_a_saved_checkpoint_knows_nothing_of_it(small, tmp_path):
    assert small.model.config._attn_implementation == PADDING_FREE
    small.model.save_pretrained(tmp_path)
    assert PADDING_FREE not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
