"""Updates, their singular values, and models with part of an update, against plain matrix arithmetic."""

# ruff: noqa: N803, N806 - matrices keep the capital letters that the papers give them

import math

import pytest
import torch
from hypothesis import given, strategies as st
from peft.tuners.lora import LoraLayer

from support.random_bases import logits, random_base
from support.tuned_bases import TARGETS, adapter, full_run, state
from workbench.adapters.lowrank import best_rank_r, best_rank_r_error, effective_rank
from workbench.analysis import (
    LayerSpectrum,
    cut,
    drop,
    energy,
    energy_grid,
    interpolate,
    layer_spectra,
    merged,
    updates,
)
from workbench.errors import AdapterError
from workbench.models import linear_modules

OPENED = ["up_proj", "norm"]


@pytest.fixture(scope="module")
def hybrid(plain, tmp_path_factory):
    return adapter(
        plain, tmp_path_factory.mktemp("hybrid"), target_modules=["q_proj"], modules_to_save=["up_proj", "norm"]
    )


@pytest.fixture(autouse=True)
def nothing_moves(plain, whole, adapted, hybrid):
    """No function changes the base or a tuned model."""
    every = (plain, whole, adapted, hybrid)
    before = [state(each) for each in every]
    yield
    for each, kept in zip(every, before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in each.model.state_dict().items())


def test_the_update_of_a_full_run_is_the_difference(plain, whole):
    found = dict(updates(plain, whole))
    assert list(found) == list(linear_modules(plain.model))
    for name, update in found.items():
        W, W_tuned = (each.model.get_submodule(name).weight for each in (plain, whole))
        assert torch.equal(update, W_tuned - W)


def test_the_update_of_an_adapter_is_what_peft_adds(plain, adapted):
    found = dict(updates(plain, adapted))
    layers = {name: module for name, module in adapted.model.named_modules() if isinstance(module, LoraLayer)}
    assert {f"base_model.model.{name}" for name in found} == set(layers) and len(found) == 2 * len(TARGETS)
    for name, update in found.items():
        torch.testing.assert_close(update, layers[f"base_model.model.{name}"].get_delta_weight("default"))


@pytest.mark.parametrize("which", ["whole", "adapted", "hybrid"])
def test_spectra_are_those_of_the_updates(plain, which, request):
    tuned = request.getfixturevalue(which)
    found = {each.name: each for each in layer_spectra(plain, tuned)}
    expected = dict(updates(plain, tuned))
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        values = torch.linalg.svdvals(update)
        count = len(found[name].values)
        torch.testing.assert_close(found[name].values, values[:count], rtol=1e-4, atol=1e-6)
        assert values[count:].norm() < 1e-5 * values.norm()
        assert found[name].norm == pytest.approx(update.norm().item(), rel=1e-4)
        assert found[name].effective_rank == pytest.approx(effective_rank(update), rel=1e-3)


def test_a_spectrum_knows_where_its_layer_is(plain, adapted):
    places = [(each.kind, each.block) for each in layer_spectra(plain, adapted)]
    assert sorted(places) == sorted((kind, block) for kind in TARGETS for block in (0, 1))
    assert energy_grid(layer_spectra(plain, adapted), 3) == {kind: {0: 1.0, 1: 1.0} for kind in TARGETS}
    ranks = energy_grid(layer_spectra(plain, adapted), 1)
    assert all(1 / 3 <= share < 1 for blocks in ranks.values() for share in blocks.values())


def layer(W: torch.Tensor, name: str = "q_proj") -> LayerSpectrum:
    return LayerSpectrum(name, name, None, torch.linalg.svdvals(W))


@given(st.integers(2, 10), st.integers(2, 10), st.integers(0, 10_000), st.data())
def test_energy_is_what_cutting_to_a_rank_keeps(rows, columns, seed, data):
    W = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rank = data.draw(st.integers(1, min(rows, columns)))
    kept = energy([layer(W)], rank)
    assert kept == pytest.approx(1 - best_rank_r_error(W, rank) ** 2, abs=1e-12)
    assert kept == pytest.approx((best_rank_r(W, rank).norm() / W.norm()).item() ** 2)
    assert energy([layer(W)], rank - 1) <= kept <= energy([layer(W)], rank + 1) <= 1 + 1e-12


@given(st.integers(0, 10_000), st.floats(0.1, 10))
def test_energy_of_several_layers_weighs_them_by_their_size(seed, size):
    first, second = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    both = energy([layer(first), layer(size * second)], 2)
    one, two = (each.norm().item() ** 2 for each in (first, size * second))
    expected = (one * energy([layer(first)], 2) + two * energy([layer(second)], 2)) / (one + two)
    assert both == pytest.approx(expected)


def test_without_changes_there_is_nothing_to_share_out(plain):
    assert layer_spectra(plain, plain) == [] and list(updates(plain, plain)) == []
    with pytest.raises(ValueError, match="No layer"):
        energy([], 1)


@pytest.mark.parametrize("rank", [1, 5, 32])
def test_a_full_run_cut_to_a_rank_is_the_base_plus_the_best_of_that_rank(plain, whole, rank):
    short = cut(plain, whole, rank)
    assert {name for name, _ in updates(plain, short)} == set(linear_modules(plain.model))
    for name, update in updates(plain, whole):
        W, W_cut = (each.model.get_submodule(name).weight for each in (plain, short))
        torch.testing.assert_close(W_cut - W, best_rank_r(update, rank), rtol=0, atol=1e-6)
    for name in ("model.embed_tokens", "model.norm"):
        assert short.model.get_submodule(name).weight is whole.model.get_submodule(name).weight
    assert torch.allclose(logits(short.model), logits(whole.model), atol=1e-6) == (rank == 32)
    assert short.identity != whole.identity


def test_a_cut_adapter_stays_one_and_computes_the_same_as_a_cut_merged_one(plain, adapted):
    short = cut(plain, adapted, 2)
    assert [len(each.values) for each in layer_spectra(plain, short)] == [2] * 2 * len(TARGETS)
    dense = cut(plain, merged(plain, adapted), 2)
    assert torch.allclose(logits(short.model), logits(dense.model), atol=1e-5)
    assert not torch.allclose(logits(short.model), logits(adapted.model), atol=1e-3)


@pytest.mark.parametrize("which", ["whole", "adapted", "hybrid"])
def test_interpolation_ends_at_the_base_and_at_the_tuned_model(plain, which, request):
    tuned = request.getfixturevalue(which)
    assert torch.equal(logits(interpolate(plain, tuned, 0).model), logits(plain.model))
    assert torch.allclose(logits(interpolate(plain, tuned, 1).model), logits(tuned.model), atol=1e-5)
    for t in (0.25, 1.5):
        part, end = (interpolate(plain, tuned, each).model.state_dict() for each in (t, 1))
        for name, value in plain.model.state_dict().items():
            torch.testing.assert_close(part[name], value + t * (end[name] - value), rtol=0, atol=1e-6)


def test_interpolating_an_adapter_is_scaling_its_update(plain, adapted):
    part = interpolate(plain, adapted, 0.4)
    for name, update in updates(plain, adapted):
        W, W_part = (each.model.get_submodule(name).weight for each in (plain, part))
        torch.testing.assert_close(W_part - W, 0.4 * update, rtol=0, atol=1e-6)


@pytest.mark.parametrize("which", ["whole", "adapted", "hybrid"])
def test_dropped_modules_are_the_base_s_own_again(plain, which, request):
    tuned = request.getfixturevalue(which)
    left, end = drop(plain, tuned, ["mlp", "layers.0", "norm"]), merged(plain, tuned)
    for name, value in left.model.state_dict().items():
        back = ".mlp." in name or ".layers.0." in name or name == "model.norm.weight"
        assert torch.equal(value, (plain if back else end).model.state_dict()[name]), name
    everything = drop(plain, tuned, [name for name, _ in plain.model.named_children()])
    assert torch.equal(logits(everything.model), logits(plain.model))


def test_a_merged_hybrid_computes_what_it_does(plain, hybrid):
    assert torch.allclose(logits(merged(plain, hybrid).model), logits(hybrid.model), atol=1e-5)
    assert {name.rpartition(".")[2] for name, _ in updates(plain, hybrid)} == {"q_proj", "up_proj"}
    assert hybrid.model.peft_config["default"].modules_to_save


def test_tied_weights_stay_tied():
    base = random_base("llama", tie_word_embeddings=True)
    tuned = full_run(base)
    half = interpolate(base, tuned, 0.5).model
    assert half.lm_head.weight is half.model.embed_tokens.weight
    assert not torch.equal(half.lm_head.weight, tuned.model.lm_head.weight)
    back = drop(base, tuned, ["lm_head"]).model
    assert torch.equal(back.lm_head.weight, base.model.lm_head.weight)


def test_an_adapter_on_a_bfloat16_base_is_not_rounded(tmp_path):
    base = random_base("llama", torch.bfloat16)
    tuned = adapter(base, tmp_path / "adapter")
    half = interpolate(base, tuned, 0.5)
    assert {each.dtype for each in half.model.parameters()} == {torch.float32} == {half.dtype}
    for name, update in updates(base, tuned):
        W, W_half = (each.model.get_submodule(name).weight.float() for each in (base, half))
        torch.testing.assert_close(W_half - W, 0.5 * update, rtol=0, atol=1e-6)


def test_what_cannot_be_compared_says_so(plain, whole, adapted, tmp_path):
    other = random_base("llama", hidden_size=64)
    dora = adapter(plain, tmp_path / "dora", use_dora=True)
    for call, words in (
        (lambda: merged(plain, other), "was not tuned from"),
        (lambda: layer_spectra(plain, dora), "DoRA"),
        (lambda: cut(plain, whole, 0), "at least 1"),
        (lambda: cut(plain, adapted, 0), "at least 1"),
        (lambda: interpolate(plain, whole, math.nan), "finite"),
        (lambda: drop(plain, whole, ["w_proj"]), "no module 'w_proj'"),
    ):
        with pytest.raises(AdapterError, match=words):
            call()
