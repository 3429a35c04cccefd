"""Intruder dimensions: properties of the definition, and the same modules and the same model as PEFT's function."""

# ruff: noqa: N806 - matrices keep the capital letters that the papers give them

import pytest
import torch
from hypothesis import given, strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension

from support.random_bases import logits
from support.tuned_bases import adapter, full_run, state
from workbench.analysis import find_intruders, interpolate, layer_spectra, merged, scale_intruders
from workbench.analysis.intruders import intruder_positions
from workbench.errors import AdapterError
from workbench.models.sharing import shared_copy

STRICT = 0.7  # in 32 dimensions every vector has a cosine of about 0.4 with one of 32 others


def peft_reduces(tuned, **options) -> tuple[torch.nn.Module, dict[str, int]]:
    """What PEFT's function makes of a copy of the adapter, and what it says: module -> intruders."""
    said: list[str] = []
    model = shared_copy(tuned.model)
    reduce_intruder_dimension(model, logging_sink=said.append, **options)
    lines = [line.removeprefix("base_model.model.").split(": ", 1) for line in said if line.startswith("base_model")]
    counts = {name: 0 if words == "No intruders" else int(words.removeprefix("Intruders: ")) for name, words in lines}
    return model.requires_grad_(False).eval(), counts


@given(st.integers(3, 9), st.integers(3, 9), st.integers(0, 10_000))
def test_a_matrix_has_no_intruders_against_itself_however_it_is_stretched(rows, columns, seed):
    W = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    assert intruder_positions(W, W, threshold=0.999) == []
    assert intruder_positions(W, (U * S.flip(0)) @ Vh, threshold=0.999) == []


@given(st.integers(1, 3), st.integers(3, 6), st.integers(0, 10_000))
def test_large_updates_in_new_directions_are_intruders(count, known, seed):
    """The outputs of the base leave some directions empty, and the update is in these alone."""
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(10, 10, generator=generator, dtype=torch.float64))
    R, _ = torch.linalg.qr(torch.randn(known, known, generator=generator, dtype=torch.float64))
    W = Q[:, :known] @ torch.randn(known, known, generator=generator, dtype=torch.float64)
    update = 1000 * Q[:, known : known + count] @ R[:count]
    assert intruder_positions(W, W + update, top=count) == list(range(count))
    assert intruder_positions(W, W + 1e-6 * W, top=count) == []


@pytest.fixture(scope="module")
def adapted(plain, tmp_path_factory):
    return adapter(plain, tmp_path_factory.mktemp("adapter"), lora_alpha=120, r=3)


@pytest.mark.parametrize("threshold", [STRICT, 0.35])
def test_modules_and_model_are_those_of_peft(plain, adapted, threshold):
    before = state(plain), state(adapted)
    expected, counts = peft_reduces(adapted, threshold_epsilon=threshold, mitigation_lambda=0.3, top_k=6)
    found = find_intruders(plain, adapted, 6, threshold)
    assert {name: len(each) for name, each in found.items()} == counts
    assert any(counts.values()) and (threshold == STRICT or 0 in counts.values())
    scaled = scale_intruders(plain, adapted, 0.3, 6, threshold, rank=3)
    tuned = merged(plain, adapted)
    for name, count in counts.items():
        W, W_tuned, W_scaled = (each.model.get_submodule(name).weight for each in (plain, tuned, scaled))
        reduced = expected.get_submodule(f"base_model.model.{name}").get_delta_weight("intruder_reduced")
        torch.testing.assert_close(W_scaled, W + reduced, rtol=0, atol=1e-5)
        assert torch.equal(W_scaled, W_tuned) == (count == 0)
    assert torch.allclose(logits(scaled.model), logits(expected), atol=1e-5)
    for each, kept in zip((plain, adapted), before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in each.model.state_dict().items())


def test_a_factor_of_one_keeps_the_model_and_of_zero_takes_the_dimensions_out(plain, adapted):
    same = scale_intruders(plain, adapted, 1, threshold=STRICT)
    assert torch.allclose(logits(same.model), logits(adapted.model), atol=1e-5)
    found = find_intruders(plain, adapted, threshold=STRICT)
    gone = scale_intruders(plain, adapted, 0, threshold=STRICT).model
    tuned = merged(plain, adapted).model
    for name, places in found.items():
        S, left = (torch.linalg.svdvals(model.get_submodule(name).weight) for model in (tuned, gone))
        expected = S.clone()
        expected[places] = 0
        torch.testing.assert_close(left, expected.sort(descending=True).values, rtol=1e-4, atol=1e-4)


def test_a_full_run_is_looked_at_too_and_its_embeddings_are_left_alone(plain):
    tuned = full_run(plain, size=1.0)
    found = find_intruders(plain, tuned, threshold=STRICT)
    assert any(found.values()) and found.keys() == {each.name for each in layer_spectra(plain, tuned)}
    scaled = scale_intruders(plain, tuned, 0.5, threshold=STRICT).model
    assert scaled.model.embed_tokens.weight is tuned.model.model.embed_tokens.weight
    assert not torch.equal(logits(scaled), logits(tuned.model))
    nearer = find_intruders(plain, interpolate(plain, tuned, 0.001), threshold=STRICT)
    assert not any(nearer.values())


def test_settings_that_cannot_be_are_refused(plain, adapted):
    for settings in ({"top": 0}, {"threshold": 0.0}, {"threshold": 1.5}):
        with pytest.raises(AdapterError, match="must be"):
            find_intruders(plain, adapted, **settings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_on_the_packaged_model_they_are_those_of_peft(base):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], layers_to_transform=[0, 29])
    model = get_peft_model(shared_copy(base.model), config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    tuned = base.with_model(model.requires_grad_(False), "adapted")
    expected, counts = peft_reduces(tuned)
    found = find_intruders(base, tuned)
    assert {name: len(each) for name, each in found.items()} == counts and len(counts) == 4 and any(counts.values())
    scaled = scale_intruders(base, tuned, 0.75, rank=4).model
    with torch.no_grad():
        one, two = (each(torch.arange(100, 140)[None]).logits for each in (scaled, expected))
    assert torch.allclose(one, two, atol=1e-3 * two.abs().max().item())
