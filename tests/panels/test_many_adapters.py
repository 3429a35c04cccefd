"""Panels of lesson 08: the GPUs are those of `cost.roofline.serve`, and a mixture of one adapter is that adapter."""

import pytest

from support.quick_training import readable_base, rows
from support.saved_runs import saved_run
from workbench.adapters import lora
from workbench.cost.gpus import gpus
from workbench.cost.roofline import serve
from workbench.errors import HardwareError
from workbench.panels.adapter_mix import AdapterMix
from workbench.panels.many_tasks import TASKS, many_tasks_panel, many_tasks_view
from workbench.scoring.evaluation import score
from workbench.serving.fleet import Fleet
from workbench.training.store import RunStore


@pytest.mark.parametrize("tasks", [1, 20, 200])
def test_the_gpus_are_those_of_serve(tasks):
    numbers = many_tasks_view(tasks, "llama-3.1-8b", 16, "L4").numbers
    ways = serve(tasks, 2 * 8_030_261_248, 2 * 41_943_040, gpus()["L4"])
    assert numbers["gpus_shared"] == ways["adapters on one base"].gpus
    assert numbers["gpus_whole"] == ways["full models"].gpus == tasks


def test_more_tasks_never_take_fewer_gpus_and_adapters_never_more_than_whole_models():
    panel = many_tasks_panel()
    found = []
    for tasks in TASKS:
        panel.controls["tasks"].value = tasks
        found.append(panel.current.numbers)
    for name in ("gpus_shared", "gpus_whole"):
        assert [one[name] for one in found] == sorted(one[name] for one in found)
    assert all(one["gpus_shared"] <= one["gpus_whole"] for one in found)
    assert found[0]["times"] == 1 and found[-1]["times"] > 10


def test_an_unknown_gpu_is_an_error():
    with pytest.raises(HardwareError, match="no GPU 'no such GPU' in the table; use one of T4"):
        _ = Fleet(1, "llama-3.1-8b", 16, "no such GPU").services


@pytest.fixture(scope="module")
def mix(tmp_path_factory):
    base, store = readable_base(), RunStore(tmp_path_factory.mktemp("runs"))
    runs = {name: saved_run(base, store, name, lora(rank=2), seed=seed) for seed, name in enumerate(("one", "two"))}
    panel = AdapterMix(
        base, {name: run.artifact_dir for name, run in runs.items()}, dict.fromkeys(runs, rows()), rows=3
    )
    return base, runs, panel


@pytest.mark.parametrize("how", ["cat", "linear", "ties", "dare_linear"])
def test_a_mixture_of_one_adapter_is_that_adapter(mix, how):
    base, runs, panel = mix
    view = panel.compute(how, one=0.0, two=1.0)
    if how in ("cat", "linear"):
        expected = score(runs["two"].load(base).model, panel.rows["one"])["loss"]
        assert view.numbers["loss one"] == pytest.approx(expected, rel=1e-4)
    else:
        assert view.numbers["loss one"] > 0


def test_without_any_weight_it_is_the_base(mix):
    base, _, panel = mix
    view = panel.compute("cat", one=0.0, two=0.0)
    assert view.numbers["loss two"] == pytest.approx(score(base.model, panel.rows["two"])["loss"], rel=1e-4)
    assert panel.compute("cat", one=0.5, two=0.5).numbers["loss two"] != view.numbers["loss two"]
