"""Directions decomposed once give what cutting gives each time, at every rank."""

import pytest
import torch

from support.random_bases import logits
from support.tuned_bases import TARGETS, state
from workbench.adapters.lowrank import best_rank_r
from workbench.analysis import cut, decompose, drop, keep_directions, layer_spectra, merged, spectra_of, updates
from workbench.errors import AdapterError


@pytest.mark.parametrize("which", ["whole", "adapted"])
@pytest.mark.parametrize("rank", [1, 2])
def test_the_largest_directions_are_the_best_of_their_rank(plain, which, rank, request):
    tuned = request.getfixturevalue(which)
    found, expected = decompose(plain, tuned, 3), dict(updates(plain, tuned))
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        torch.testing.assert_close(found[name].largest(rank), best_rank_r(update, rank), rtol=0, atol=1e-5)
        assert found[name].left.shape[1] == len(found[name].right) == 3
    model, cut_model = keep_directions(plain, tuned, found, rank).model, cut(plain, tuned, rank).model
    assert torch.allclose(logits(model), logits(cut_model), atol=1e-4)


@pytest.mark.parametrize("which", ["whole", "adapted"])
def test_spectra_are_those_that_are_computed_alone(plain, which, request):
    tuned = request.getfixturevalue(which)
    own = {each.name: each for each in spectra_of(decompose(plain, tuned, 2))}
    for each in layer_spectra(plain, tuned):
        assert (own[each.name].kind, own[each.name].block) == (each.kind, each.block)
        torch.testing.assert_close(own[each.name].values, each.values, rtol=1e-4, atol=1e-5)


def test_at_full_rank_nothing_is_lost_and_at_rank_0_no_linear_layer_is_changed(plain, whole, adapted):
    before = state(plain), state(whole)
    everything = decompose(plain, whole, 10_000)
    assert torch.allclose(
        logits(keep_directions(plain, whole, everything, 10_000).model), logits(whole.model), atol=1e-4
    )
    bare = keep_directions(plain, whole, everything, 0)
    assert not list(updates(plain, bare)), "linear layers are the base's"
    assert torch.equal(bare.model.model.embed_tokens.weight, whole.model.model.embed_tokens.weight)
    assert torch.allclose(logits(bare.model), logits(drop(plain, whole, ["self_attn", "mlp"]).model), atol=1e-5)
    of_adapter = decompose(plain, adapted, 10_000)
    assert len(of_adapter) == 2 * len(TARGETS) and all(len(each.values) == 3 for each in of_adapter.values())
    assert torch.allclose(
        logits(keep_directions(plain, adapted, of_adapter, 50).model), logits(merged(plain, adapted).model), atol=1e-5
    )
    for each, kept in zip((plain, whole), before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in each.model.state_dict().items())


def test_a_base_has_no_directions_to_itself(plain):
    assert decompose(plain, plain, 4) == {} and spectra_of({}) == []
    assert torch.equal(logits(keep_directions(plain, plain, {}, 4).model), logits(plain.model))


def test_ranks_that_cannot_be_are_refused(plain, whole):
    with pytest.raises(AdapterError, match="rank=0 must be at least 1"):
        decompose(plain, whole, 0)
    for rank in (3, -1):
        with pytest.raises(AdapterError, match="decompose to a higher one"):
            keep_directions(plain, whole, decompose(plain, whole, 2), rank)
