"""Measurements of lesson 08 on a small model: what must hold whatever the machine."""

import pytest

from support.saved_runs import saved_run
from workbench import load_base, load_task
from workbench.adapters import lora
from workbench.adapters.saved.several import attach
from workbench.models.identity import fingerprint
from workbench.serving.measure import decoding_speeds, merging, several
from workbench.tasks import encode


@pytest.fixture
def folders(small, store):
    runs = {name: saved_run(small, store, name, lora(rank=2), seed=seed) for seed, name in enumerate(("one", "two"))}
    return {name: run.artifact_dir for name, run in runs.items()}


def test_adapters_on_one_base_are_counted_and_leave_it_as_it_was(small, folders):
    model = attach(small, folders)
    found = several(small, model, folders)
    assert found.tasks == 2 and found.unchanged and found.restored
    assert found.adapter_bytes == sum(file.stat().st_size for own in folders.values() for file in own.iterdir())
    assert found.model_bytes == 4 * small.model.num_parameters()
    assert 0 < found.swap_seconds < found.load_seconds and model.active_adapter == "one"


def test_a_base_that_was_written_to_is_told(small_directory, store):
    base = load_base(str(small_directory), dtype="float32")
    folders = {"one": saved_run(base, store, "one").artifact_dir}
    model = attach(base, folders)
    model.merge_adapter()  # PEFT's writes into the weights that are shared
    assert not several(base, model, folders).unchanged, "a swap has unmerged it"


def test_speeds_are_told_for_all_three_ways(small, folders):
    model = attach(small, folders)
    requests = [("one", "The code"), ("two", "A much longer request for a code"), ("one", "It is")]
    found = decoding_speeds(small, model, requests, 2)
    assert list(found) == ["one batch", "adapter by adapter", "one by one"] and min(found.values()) > 0


@pytest.mark.parametrize(("storage", "dtype"), [(None, "float32"), (None, "bfloat16"), ("nf4", "float32")])
def test_unmerging_restores_float32_best_and_the_base_stays(small_directory, folders, storage, dtype):
    base = load_base(str(small_directory), quantization=storage, dtype=dtype)
    rows = encode(load_task("facts").test[:3], base.tokenizer, 64)
    before = fingerprint(base.model)
    found = merging(base, folders["one"], rows)
    assert fingerprint(base.model) == before
    assert 0 <= found.not_restored <= 1 and 0 <= found.merged <= 1
    if (storage, dtype) == (None, "float32"):
        assert abs(found.loss_change) < 1e-4
    else:
        assert found.not_restored > 0.01, "rounding took something"
