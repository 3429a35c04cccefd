"""What this computer says of itself, and the measure of a step's memory."""

import itertools
import json
import time

import psutil
import pytest
import torch

from workbench import TrainConfig, full, host_memory, hybrid, load_base, load_task, lora, machine, sweep, train
from workbench.adapters.inject import apply
from workbench.console import first_line
from workbench.errors import ModelError
from workbench.models import completion_logits
from workbench.paths import write_json
from workbench.tasks import Encoded, collate
from workbench.training.peak_memory import LiveBytes, gpu_peak


def test_the_peak_counts_what_is_alive_at_once_and_views_once():
    """A million float32 numbers are 4 MB: two live at once inside, beside one that was there before."""
    before = torch.ones(1_000_000)
    with LiveBytes([before, before.view(1000, 1000)]) as memory:
        first = torch.ones(1_000_000)
        second = first.view(10, -1) * 2
        del first
        third = second + 1
        del second, third
    assert memory.peak == 12_000_000 and memory.now == 4_000_000


def profiled_peak(step, live: int) -> int:
    """Bytes alive before, plus the highest running sum of the allocations that torch's profiler records."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return live + max(itertools.accumulate(changes))


@pytest.mark.parametrize(
    ("method", "dtype", "too_high"),
    [
        (lora(rank=2), "float32", 1.001),
        (full(), "float32", 1.001),
        (hybrid(["layers.1.mlp"], rank=2), "float32", 1.001),
        (lora(rank=2), "bfloat16", 1.001),
        (full(), "bfloat16", 1.06),
    ],
)
def test_the_peak_of_a_training_step_is_that_of_the_profiler(small_directory, method, dtype, too_high):
    model = apply(load_base(str(small_directory), dtype=dtype), method).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, fused=True)
    batch = collate([Encoded(tuple(range(50, 70)), 10)] * 4, 0)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = completion_logits(model, batch)
        torch.nn.functional.cross_entropy(logits.float().flatten(0, -2), batch["targets"]).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    state = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    with LiveBytes([*model.parameters(), *model.buffers(), *state]) as memory:
        live = memory.now
        step()
    assert 0.999 < memory.peak / profiled_peak(step, live) < too_high


@pytest.mark.parametrize("stopped_at", [2, None])
@pytest.mark.parametrize("way", ["train", "sweep"])
def test_the_peak_on_a_gpu_is_the_trainings_own_also_after_a_stop(small, store, monkeypatch, way, stopped_at):
    """The small model as if on a card that also holds 5 MB of another's, and 7 MB more at the peak."""
    real = gpu_peak
    held = []

    def as_on_a_gpu(device, own):
        held.append(LiveBytes(own := list(own)).now)
        return real(torch.device("cuda"), own)

    def tell(entry):
        if entry["step"] == stopped_at:
            raise KeyboardInterrupt

    monkeypatch.setattr("workbench.training.loop.gpu_peak", as_on_a_gpu)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: held[0] + 5 * MB)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: held[0] + 12 * MB)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    task, config = load_task("facts"), TrainConfig(steps=3, batch_size=2, evaluate=False, save=False)
    if way == "train":
        run = train(small, task, full(), config, store, on_step=tell)
        peak = run.peak_memory_bytes
    else:
        (run,) = sweep(small, task, [lora(rank=1)], config, store, on_step=tell)
        peak = run.together["peak_memory_bytes"]
    assert run.status == ("interrupted" if stopped_at else "finished")
    assert peak == held[0] + 7 * MB and held[0] >= 4 * run.total_parameters


@pytest.fixture
def no_choice_yet(tmp_path, monkeypatch):
    """A cache without times, and no dtype in the environment."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("WORKBENCH_DTYPE", raising=False)
    return tmp_path / "step_times.json"


def test_step_times_pick_the_precision_of_this_machine_only(no_choice_yet, monkeypatch):
    seconds = {torch.float32: 1.0, torch.bfloat16: 0.5}
    monkeypatch.setattr(machine, "layer_seconds", seconds.__getitem__)
    assert machine.step_times() is None
    machine.save_step_times({"float32": 1.0, "bfloat16": 0.8})
    assert machine.preferred_dtype() == torch.bfloat16
    for slow in (0.95, 7.0, None):
        machine.save_step_times({"float32": 1.0, "bfloat16": slow})
        assert machine.preferred_dtype() == torch.float32
    for damaged in (json.dumps({"machine": "another", "seconds": {"float32": 1.0, "bfloat16": 0.1}}), "{"):
        no_choice_yet.write_text(damaged)
        assert machine.step_times() is None and machine.preferred_dtype() == torch.bfloat16  # timed again


def test_the_first_use_times_a_layer_once_and_says_what_it_chose(no_choice_yet, monkeypatch, capsys):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    started = time.perf_counter()
    chosen = machine.preferred_dtype()
    assert time.perf_counter() - started < 10
    said = capsys.readouterr().err
    assert "First use on this machine" in said and f"loaded in {str(chosen).removeprefix('torch.')}" in said
    assert machine.preferred_dtype() == chosen and capsys.readouterr().err == ""
    assert set(machine.step_times()) == {"float32", "bfloat16"}


def test_a_variable_overrides_what_was_timed(no_choice_yet, monkeypatch):
    machine.save_step_times({"float32": 1.0, "bfloat16": 0.1})
    monkeypatch.setenv("WORKBENCH_DTYPE", "float32")
    assert machine.preferred_dtype() == torch.float32
    monkeypatch.setenv("WORKBENCH_DTYPE", "float8")
    with pytest.raises(ModelError, match="WORKBENCH_DTYPE='float8' must be float32, bfloat16 or float16"):
        machine.preferred_dtype()


def test_a_timing_with_other_threads_does_not_undo_this_one(no_choice_yet, monkeypatch):
    """Notebooks that run unattended take two threads, whatever the learner's kernel takes."""
    for threads, bfloat16 in ((8, 0.5), (2, 3.0)):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        machine.save_step_times({"float32": 1.0, "bfloat16": bfloat16})
    assert machine.preferred_dtype() == torch.float32
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert machine.preferred_dtype() == torch.bfloat16


def test_the_record_of_hardware_and_versions_is_complete():
    assert machine.hardware()["memory_bytes"] > 1e9 and machine.hardware()["processor"]
    assert "not installed" not in machine.versions().values()


MB, NO_LIMIT = 1_000_000, 9_223_372_036_854_771_712
V2, V1 = host_memory.CGROUP_FILES


@pytest.mark.parametrize(
    ("files", "limit", "free", "total"),
    [
        (V2, "500000000", 140 * MB, 500 * MB),  # 400 in use, 40 of them a cache that makes way
        (V1, "500000000", 140 * MB, 500 * MB),
        (V2, "300000000", 0, 300 * MB),  # the limit was lowered
        (V2, "max", None, None),
        (V1, str(NO_LIMIT), None, None),
    ],
)
def test_a_container_has_what_its_limit_leaves(files, limit, free, total, tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "CGROUP", tmp_path)
    (tmp_path / "memory").mkdir()
    *names, cache = files
    contents = (limit, 400 * MB, f"active_file {9 * MB}\n{cache} {40 * MB}")
    for name, content in zip(names, contents, strict=True):
        (tmp_path / name).write_text(f"{content}\n")
    of_the_host = psutil.virtual_memory().total
    assert host_memory.total() == (of_the_host if total is None else total)
    available = host_memory.available()
    assert available > 500 * MB if free is None else available == free


def test_without_a_container_the_whole_machine_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "CGROUP", tmp_path)
    assert host_memory.total() == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("one\ntwo", "one"),
        ("\n  one:\n\n  two\nthree", "one: two"),  # how huggingface_hub words a faulty field
        ("one:", "one:"),
        ("", "OSError"),
    ],
)
def test_an_error_is_told_in_one_line(words, told):
    assert first_line(OSError(words)) == told


def test_a_written_file_is_whole_or_not_there(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "new" / "a.json", {"a": object()})
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"a": 1}
    assert len(list((tmp_path / "new").iterdir())) == 1
