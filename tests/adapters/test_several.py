"""Several adapters on one base: each acts as if it were alone, also in one batch, and the base stays as it was."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from peft.tuners.lora import LoraLayer

from support.quick_training import readable_base
from support.random_bases import IDS, logits, random_base
from support.saved_runs import saved_run
from support.tuned_bases import adapter
from workbench.adapters import load, lora
from workbench.adapters.batched import multi_adapter_model, set_slices
from workbench.adapters.merging import merge
from workbench.adapters.saved.origin import ORIGIN_FILE, write_origin
from workbench.adapters.saved.several import BASE, attach, combine
from workbench.errors import AdapterError
from workbench.models.identity import config_sha256, fingerprint

KINDS = {
    "small": {"r": 2},
    "wide": {"r": 5, "lora_alpha": 3, "use_rslora": True},
    "few": {"r": 3, "target_modules": ["q_proj"]},
}


@pytest.fixture(scope="module")
def plain():
    return readable_base()


@pytest.fixture(scope="module")
def folders(plain, tmp_path_factory):
    """Adapters of other ranks, scalings and targets."""
    root = tmp_path_factory.mktemp("adapters")
    found = {}
    for seed, (name, options) in enumerate(KINDS.items()):
        adapter(plain, root / name, **options, lora_dropout=0.1 * seed)
        found[name] = root / name
    return found


@pytest.fixture(scope="module")
def model(plain, folders):
    return attach(plain, folders)


@pytest.fixture(scope="module")
def alone(plain, folders):
    """The logits of each adapter by itself, and of the base."""
    return {name: logits(load(plain, folder)) for name, folder in folders.items()} | {BASE: logits(plain.model)}


def test_each_adapter_acts_as_if_it_were_alone(model, alone):
    for name in (*KINDS, *reversed(KINDS)):
        model.set_adapter(name)
        assert torch.equal(logits(model), alone[name])


def test_disabled_they_leave_the_base_and_never_touch_its_weights(plain, folders, alone):
    before = fingerprint(plain.model)
    several = attach(plain, folders)
    with several.disable_adapter():
        assert torch.equal(logits(several), alone[BASE])
    several.delete_adapter("wide")
    several.set_adapter("few")
    assert torch.equal(logits(several), alone["few"]) and list(several.peft_config) == ["small", "few"]
    assert fingerprint(plain.model) == before
    shared = {parameter.data_ptr() for parameter in plain.model.parameters()}
    own = [parameter for name, parameter in several.named_parameters() if "lora_" not in name]
    assert {parameter.data_ptr() for parameter in own} == shared


@settings(max_examples=15)
@given(st.lists(st.sampled_from([BASE, *KINDS]), min_size=1, max_size=6).filter(lambda owners: set(owners) != {BASE}))
def test_a_mixed_batch_gives_each_row_what_it_gets_alone_as_in_peft(plain, folders, model, alone, owners):
    """Our own batch of slices, which trains several adapters in one pass, against PEFT's `adapter_names`."""
    ids = IDS.repeat(len(owners), 1)
    models = {name: load(plain, folder) for name, folder in folders.items()}
    sliced = multi_adapter_model(plain, [models.get(name) for name in owners]).eval()
    set_slices(sliced, [ids.shape[1]] * len(owners))
    with torch.no_grad():
        ours = sliced(input_ids=ids).logits
        theirs = model(input_ids=ids, adapter_names=owners).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours, torch.cat([alone[name] for name in owners]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["", "a.b", BASE, 3])
def test_a_name_that_peft_cannot_use_is_refused(plain, folders, name):
    with pytest.raises(AdapterError, match="cannot name an adapter"):
        attach(plain, {name: folders["small"]})


def test_nothing_to_attach_is_refused(plain):
    with pytest.raises(AdapterError, match="at least one adapter"):
        attach(plain, {})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "biases of its own"),
        ({"modules_to_save": ["norm"]}, "modules trained in full"),
    ],
)
def test_an_adapter_that_would_change_the_others_is_refused(plain, tmp_path, options, words):
    adapter(plain, tmp_path, **options)
    with pytest.raises(AdapterError, match=f"odd has {words}"):
        attach(plain, {"odd": tmp_path})


# --- another base


def test_an_adapter_of_another_shape_is_refused_with_both_names(plain, folders, tmp_path):
    wide = replace(random_base("llama", hidden_size=64), name="the-wide-one")
    configured = tmp_path / "adapter"
    adapter(plain, configured)
    config = json.loads((configured / "adapter_config.json").read_text())
    (configured / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "the-narrow-one"}))
    with pytest.raises(AdapterError, match=r"does not fit the-wide-one: .* made for the-narrow-one"):
        load(wide, configured)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"vocab_size": 801}, "a vocabulary of 800 tokens instead of 801"),
        ({"rms_norm_eps": 0.1}, "another configuration"),
    ],
)
def test_an_adapter_whose_shapes_fit_another_base_is_refused_with_both_names(plain, tmp_path, fields, words):
    """Layers of the same sizes take it, and would compute something else."""
    adapter(plain, tmp_path)
    write_origin(plain, tmp_path)
    assert load(plain, tmp_path)
    other = random_base("llama", **{"vocab_size": 800, "max_position_embeddings": 512} | fields)
    with pytest.raises(AdapterError, match=f"was made for {plain.name}, which has {words}.*, not for llama"):
        load(replace(other, name="llama"), tmp_path)


def test_a_base_in_another_dtype_is_the_same_base(plain, tmp_path):
    adapter(plain, tmp_path)
    write_origin(plain, tmp_path)
    lower = replace(plain, model=copy.deepcopy(plain.model).bfloat16(), dtype=torch.bfloat16)
    assert config_sha256(lower.model.config) == config_sha256(plain.model.config)
    assert load(lower, tmp_path)


def test_a_damaged_base_json_is_a_sentence(plain, tmp_path):
    adapter(plain, tmp_path)
    (tmp_path / ORIGIN_FILE).write_text("{")
    with pytest.raises(AdapterError, match=r"base\.json cannot be read .*export the adapter again"):
        load(plain, tmp_path)


# --- combined adapters


@pytest.fixture
def pair(plain, tmp_path, store):
    """Two adapters of one rank."""
    runs = {
        name: saved_run(plain, store, name, lora(rank=2, alpha=4 + seed), seed=seed) for seed, name in enumerate("ab")
    }
    return attach(plain, {name: run.artifact_dir for name, run in runs.items()})


def deltas(model, name) -> dict[str, torch.Tensor]:
    layers = {key: module for key, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {key: layer.get_delta_weight(name) for key, layer in layers.items()}


def test_cat_is_the_sum_and_svd_its_nearest_of_the_rank(pair):
    combine(pair, {"a": 0.5, "b": 2.0}, "sum", "cat")
    combine(pair, {"a": 0.5, "b": 2.0}, "cut", "svd")
    exact, cut = deltas(pair, "sum"), deltas(pair, "cut")
    for name, first in deltas(pair, "a").items():
        total = 0.5 * first + 2.0 * deltas(pair, "b")[name]
        torch.testing.assert_close(exact[name], total, rtol=1e-4, atol=1e-6)
        U, S, Vh = torch.linalg.svd(total, full_matrices=False)  # noqa: N806
        torch.testing.assert_close(cut[name], (U[:, :2] * S[:2]) @ Vh[:2], rtol=1e-3, atol=1e-5)


def test_linear_adds_factors_which_is_another_thing(pair):
    combine(pair, {"a": 1.0, "b": 1.0}, "sum", "cat")
    combine(pair, {"a": 1.0, "b": 1.0}, "factors", "linear")
    exact, rough = deltas(pair, "sum"), deltas(pair, "factors")
    assert all((exact[name] - rough[name]).norm() > 0.1 * exact[name].norm() for name in exact)
    combine(pair, {"a": 1.0}, "alone", "linear")
    for name, update in deltas(pair, "alone").items():
        torch.testing.assert_close(update, deltas(pair, "a")[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_pruning_is_repeated_by_its_seed_and_keeps_all_at_density_one(pair, how):
    for name, seed in (("once", 1), ("again", 1), ("other", 2)):
        combine(pair, {"a": 1.0, "b": 1.0}, name, how, density=0.5, seed=seed)
    once, again, other = (deltas(pair, name) for name in ("once", "again", "other"))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert how.startswith("dare") == any(not torch.equal(once[name], other[name]) for name in once)
    combine(pair, {"a": 1.0}, "whole", how, density=1.0)
    for name, update in deltas(pair, "whole").items():
        torch.testing.assert_close(update, deltas(pair, "a")[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({"a": 1.0}, "b"), "an adapter called 'b' already"),
        (({"c": 1.0}, "new"), "No adapter is called 'c'; there are a, b"),
        (({}, "new"), "needs weights"),
        (({"a": 1.0}, "new", "average"), "how='average' is one of"),
        (({"a": 1.0}, "new", "ties", 0.0), "density=0.0 must be above 0"),
    ],
)
def test_what_cannot_be_combined_is_refused(pair, arguments, words):
    with pytest.raises(AdapterError, match=words):
        combine(pair, *arguments)


def test_factors_of_two_ranks_cannot_be_added(plain, folders):
    both = attach(plain, {name: folders[name] for name in ("small", "wide")})
    with pytest.raises(AdapterError, match=r"must have one rank, and these have .*use 'svd' or 'cat'"):
        combine(both, {"small": 1.0, "wide": 1.0}, "new", "linear")
    combine(both, {"small": 1.0, "wide": 1.0}, "new", "cat")


# --- merge and unmerge


def test_merging_and_unmerging_give_both_models_back_in_float32(plain, folders, alone):
    """PEFT's merge writes into the weights: on a copy. Ours makes new ones, so that the base needs no unmerging."""
    own = replace(plain, model=copy.deepcopy(plain.model))
    several = attach(own, {"small": folders["small"]})
    several.merge_adapter()
    torch.testing.assert_close(logits(several), alone["small"], rtol=0, atol=1e-5)
    ours = merge(plain.model, load(plain, folders["small"]))
    torch.testing.assert_close(logits(ours), logits(several), rtol=0, atol=1e-5)
    several.unmerge_adapter()
    torch.testing.assert_close(logits(several), alone["small"], rtol=0, atol=1e-5)
    with several.disable_adapter():
        torch.testing.assert_close(logits(several), alone[BASE], rtol=0, atol=1e-5)
    assert torch.equal(logits(plain.model), alone[BASE])
