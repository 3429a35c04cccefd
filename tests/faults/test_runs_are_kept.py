"""Whatever ends a training, what was trained is saved and recorded with the reason, and then the reason is raised.

Lightning-AI/pytorch-lightning#1455 (SIGTERM), mlfoundations/open_lm#154 (a disk found full after the training).
"""

import errno
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from support.quick_training import CONFIG, readable_base, rows
from workbench import RunStore, TrainConfig, full, hybrid, lora, sweep, train
from workbench.adapters.saved import checkpoints
from workbench.console import say
from workbench.errors import RunError, SweepError, TrainingError
from workbench.scoring import Scores, evaluation
from workbench.training import keeping, lifecycle, store_files
from workbench.training.signals import ENDING, Terminated, termination_raised, termination_waits

SAVED = replace(CONFIG, save=True)
SCORED = replace(SAVED, evaluate=True)


class Strange(BaseException):
    """Of a kind that nobody lists."""

    def __repr__(self):
        raise ValueError("no words")


ENDS = {
    "value": ValueError("the callback's own"),
    "pipe": BrokenPipeError(errno.EPIPE, "Broken pipe"),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "exit": SystemExit(3),
    "strange": Strange("strange"),
    "runtime": RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", [lora(rank=2), full(1e-3), hybrid(["layers.1.mlp"], rank=2)], ids=lambda m: m.name)
@pytest.mark.parametrize("name", ENDS)
def test_an_exception_of_on_step_is_raised_after_the_run_is_kept(store, monkeypatch, name, method):
    monkeypatch.setattr(lifecycle, "BASE_SCORES", {})
    error = ENDS[name]

    def on_step(report):
        assert [run.status for run in report["runs"]] == ["training"]
        if report["step"] == 2:
            raise error

    with pytest.raises(type(error)) as caught:
        train(readable_base(), rows(), method, SCORED, store, on_step)
    assert caught.value is error
    (run,) = store.all()
    assert run.status == "interrupted" and type(error).__name__ in run.advice and len(run.history) == 2
    assert run.artifact_dir.is_dir() and not run.metrics
    assert not [path for path in store.path.iterdir() if path.name not in (run.id, f"{run.id}.json")]


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4], ids=["the first step", "the last step"])
def test_all_runs_of_a_pass_are_kept(store, step):
    def on_step(report):
        if report["step"] == step:
            raise KeyError("key")

    with pytest.raises(KeyError):
        sweep(readable_base(), rows(), [lora(rank=1), lora(rank=2)], SAVED, store, on_step=on_step)
    assert [(run.status, len(run.history)) for run in store.all()] == [("interrupted", step)] * 2
    runs = sweep(readable_base(), rows(), [lora(rank=1), lora(rank=2)], SAVED, store)
    assert [run.status for run in runs] == ["finished"] * 2 and len(store.all()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("error", [Strange("s"), ValueError("v"), SystemExit(2)])
def test_an_exception_of_the_scoring_keeps_the_run_and_the_others(store, monkeypatch, error):
    monkeypatch.setattr(lifecycle, "BASE_SCORES", {})
    real, calls = evaluation.evaluate, []

    def evaluate(*arguments):
        calls.append(store.all())
        if len(calls) == 3:
            raise error
        return real(*arguments)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    with pytest.raises(type(error)):
        sweep(readable_base(), rows(), [lora(rank=rank) for rank in (1, 2, 3)], SCORED, store)
    runs = {run.method["rank"]: run for run in store.all()}
    assert [runs[rank].status for rank in (1, 2, 3)] == ["finished", "interrupted", "interrupted"]
    assert all(run.artifact_dir.is_dir() for run in runs.values())
    assert [run.status for run in calls[1]] == ["scoring"], "nothing is finished before it has scores"


@pytest.mark.slow
@pytest.mark.parametrize("names", [["general_loss"], ["loss"], ["fact_loss", "general_loss"]])
def test_scores_that_are_infinite_already_for_the_base_are_left_out(store, monkeypatch, names):
    monkeypatch.setattr(lifecycle, "BASE_SCORES", {})
    real = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda *a: Scores(real(*a) | dict.fromkeys(names, math.inf)))
    run = train(readable_base(), rows(), lora(rank=2), SCORED, store)
    assert run.status == "finished" and all(name in run.advice for name in names)
    assert not {*names} & {*run.before, *run.metrics} and store.get(run.id) == run


@pytest.mark.slow
def test_running_out_of_memory_in_the_middle_keeps_what_was_trained(store):
    def on_step(report):
        if report["step"] == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    run = train(readable_base(), rows(), lora(rank=2), SCORED, store, on_step)
    assert run.status == "out_of_memory" and len(run.history) == 3 and run.artifact_dir.is_dir()
    assert store.get(run.id) == run


@pytest.fixture
def unhandled_signals():
    """The signals do what they do by themselves: ray has a handler in every process that has used it, nohup ignores."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.usefixtures("unhandled_signals")
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
@pytest.mark.parametrize("where", ["loop", "save", "score"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGXCPU", "SIGUSR1"])
def test_a_signal_is_raised_after_the_run_is_kept(store, monkeypatch, name, where):
    monkeypatch.setattr(lifecycle, "BASE_SCORES", {})
    ended, number = [], getattr(signal, name)
    monkeypatch.setattr("workbench.training.signals.signal.raise_signal", ended.append)
    calls, measure, write = [], evaluation.evaluate, checkpoints.save

    def hit(at):
        calls.append(at)
        if (at == where == "loop" and calls.count("loop") == 2) or (at == where and at != "loop"):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(checkpoints, "save", lambda *a: (hit("save"), write(*a))[1])
    monkeypatch.setattr(evaluation, "evaluate", lambda *a: (hit("score") if calls else None, measure(*a))[1])
    with pytest.raises(Terminated):
        train(readable_base(), rows(), lora(rank=1), SCORED, store, lambda _: hit("loop"))
    assert ended == [number] and signal.getsignal(number) is signal.SIG_DFL
    (run,) = store.all()
    assert run.status == "interrupted" and name in run.advice and len(run.history) == (2 if where == "loop" else 4)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {file.name for file in run.artifact_dir.iterdir()}


@pytest.mark.slow
@pytest.mark.usefixtures("unhandled_signals")
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no such signal")
def test_a_command_whose_reader_and_terminal_go_away_keeps_its_run(small_directory, tmp_path):
    command = [sys.executable, "-m", "workbench.cli", "train", "--model", str(small_directory), "--task", "facts"]
    command += ["--batch-size", "2", "--test-limit", "2", "--steps", "100000", "--out", str(tmp_path)]
    talk = os.environ | {"WORKBENCH_PROGRESS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=talk)
    while b"step 3/" not in process.stderr.readline():
        pass
    process.stderr.close()
    time.sleep(0.5)  # some steps without a reader
    process.send_signal(signal.SIGHUP)
    try:
        assert process.wait(60) == -signal.SIGHUP
    finally:
        process.kill()
    (run,) = RunStore(tmp_path).all()
    assert run.status == "interrupted" and "SIGHUP" in run.advice and len(run.history) > 3 and run.artifact_dir.is_dir()


def test_signals_that_are_ignored_or_handled_by_others_are_left_alone():
    called = []
    before = signal.signal(signal.SIGTERM, lambda *_: called.append(1))
    try:
        with termination_raised():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == [1]
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with termination_raised():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("unhandled_signals")
def test_a_signal_waits_for_what_is_being_saved(monkeypatch):
    done, ended = [], []
    monkeypatch.setattr("workbench.training.signals.signal.raise_signal", ended.append)
    with pytest.raises(Terminated), termination_raised():
        with termination_waits():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("saved")
        done.append("went on")
    assert done == ["saved"] and ended == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_waits_for_what_is_being_saved(number):
    """SIGTERM as well where the command line treats it like Ctrl-C."""
    before, done = signal.signal(number, signal.default_int_handler), []
    try:
        with pytest.raises(KeyboardInterrupt):
            with termination_waits():
                with termination_waits():
                    os.kill(os.getpid(), number)
                    done.append("saved")
                done.append("recorded")
            done.append("went on")
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert done == ["saved", "recorded"]


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.ENOSPC, "full"), ValueError("closed file")])
def test_a_line_that_nobody_can_read_ends_nothing(monkeypatch, error):
    class Gone:
        def write(self, _):
            raise error

        flush = write

    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    monkeypatch.setattr(sys, "stderr", Gone())
    say("a line")
    monkeypatch.setattr(sys, "stderr", None)
    say("a line")


# --- room on the disk

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("kind", ["no byte", "too few", "quota", "no inode"])
@pytest.mark.parametrize("several", [False, True], ids=["train", "sweep"])
def test_a_disk_without_room_for_what_comes_is_told_before_anything_is_scored(store, monkeypatch, kind, several):
    def refuse(*_, **__):
        raise OSError(errno.EDQUOT, "Disk quota exceeded") if kind == "quota" else FULL

    if kind == "too few":
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr(store_files.shutil, "disk_usage", lambda _: usage)
    elif kind == "quota":
        monkeypatch.setattr(store_files.os, "posix_fallocate", refuse, raising=False)
    elif kind == "no byte":
        monkeypatch.setattr(store_files, "TemporaryFile", lambda **_: open("/dev/full", "wb"))  # noqa: SIM115
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full here")
    else:
        monkeypatch.setattr(store_files, "TemporaryFile", refuse)
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: pytest.fail("scored first"))
    monkeypatch.setattr("workbench.training.loop.apply", lambda *_, **__: pytest.fail("trained first"))
    with pytest.raises(RunError, match=r"No runs can be kept in .*(space|quota).*choose another folder"):
        if several:
            sweep(readable_base(), rows(), [full(1e-4)], SCORED, store)
        else:
            train(readable_base(), rows(), full(1e-4), SCORED, store)


@pytest.mark.slow
@pytest.mark.parametrize("method", [lora(rank=8), full(1e-4), hybrid(["layers.0.mlp"], rank=4)], ids=lambda m: m.name)
def test_the_room_that_is_held_is_what_the_artifact_takes(store, monkeypatch, method):
    held, real = [], store_files.take_room
    monkeypatch.setattr(store_files, "take_room", lambda folder, size: held.append(size) or real(folder, size))
    run = train(readable_base(), rows(), method, SAVED, store)
    weights = sum(file.stat().st_size for file in run.artifact_dir.glob("*.safetensors"))
    assert 0.95 * weights < max(held) + 20_000 and max(held) < weights + 9_000_000
    assert max(held) <= held[-1], "also while it trains"


@pytest.mark.slow
def test_what_cannot_be_recorded_at_the_end_is_noted_on_what_ended_the_training(store, monkeypatch):
    def on_step(_):
        monkeypatch.setattr("workbench.training.store.write_json", lambda *_: (_ for _ in ()).throw(FULL))
        raise LookupError("first")

    with pytest.raises(LookupError) as caught:
        train(readable_base(), rows(), lora(rank=1), SAVED, store, on_step)
    assert "could not be kept" in caught.value.__notes__[0]


# --- a status before it is true


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "family"),
    [(full(1e2), "llama"), (full(1e1), "gemma2"), (lora(rank=4, learning_rate=1e3), "qwen3"), (full(1e1), "gpt2")],
)
def test_a_destroyed_model_is_no_finished_run(store, method, family):
    run = train(readable_base(family), rows(), method, replace(SCORED, steps=8), store)
    assert run.status in ("destroyed", "diverged") and "learning rate" in run.advice
    assert store.get(run.id) == run and store.finished(run.id, True, True) == run


@pytest.mark.parametrize(
    ("history", "before", "after", "status"),
    [
        ([2.5, 2.0, 1.5], 2.6, 1.6, "finished"),
        ([2.5, 9.0, 1.9], 2.6, 2.0, "finished"),  # blew up, and came back
        ([2.5, 9.0, 3.0], 2.6, 3.0, "destroyed"),  # and did not
        ([2.5, 2.4, 7.4], 2.6, 7.5, "destroyed"),
        ([8.7, 10.5, 10.7], 8.7, 10.6, "destroyed"),  # guessing among the 49,152 tokens of a vocabulary: 10.8
        ([2.5, 2.7, 3.3], 2.6, 3.4, "finished"),  # a little worse
        ([10.81, *[10.80267] * 6], 10.81, 10.8027, "destroyed"),  # every token is equally likely
        ([10.81, 10.804, 10.800, 10.806, 10.802, 10.801], 10.81, 10.8, "finished"),  # a random model, hardly trained
        ([2.5, 2.0, 1.5], None, None, "finished"),
        ([2.5, 9.0, 9.0], None, None, "destroyed"),
    ],
)
def test_destroyed_is_far_above_the_base(history, before, after, status):
    from support.records import record

    entries = [{"step": n, "loss": loss, "learning_rate": 1e-3, "seconds": 1.0} for n, loss in enumerate(history, 1)]
    scores = [{} if loss is None else {"loss": loss} for loss in (before, after)]
    run = record(status="scoring", history=entries, before=scores[0], metrics=scores[1])
    base = readable_base()
    vocabulary = type("Config", (), {"get_text_config": lambda _: type("Text", (), {"vocab_size": 49152})})()
    keeping.judge(run, replace(base, model=type("Model", (), {"config": vocabulary})()))
    assert run.status == status and bool(run.advice) == (status == "destroyed")


@pytest.mark.parametrize("scored", [True, False])
def test_a_step_of_easy_rows_makes_no_model_destroyed(scored):
    """The first batch held the one row that the base knows: others have six times its loss, before and after."""
    from support.records import record

    history = [{"step": step, "loss": loss} for step, loss in enumerate((1.1, 6.7, 1.1, 6.7, 4.8, 4.8), 1)]
    known = {"before": {"loss": 4.83}, "metrics": {"loss": 4.82}} if scored else {"before": {}, "metrics": {}}
    run = record(status="scoring", history=history, config={"seed": 0, "batch_size": 1}, **known)
    vocabulary = type("Config", (), {"get_text_config": lambda _: type("Text", (), {"vocab_size": 49152})})()
    keeping.judge(run, replace(readable_base(), model=type("Model", (), {"config": vocabulary})()))
    assert run.status == "finished", run.advice


@pytest.mark.slow
def test_what_cannot_fit_is_told_before_it_is_allocated(store, monkeypatch):
    """Linux gives memory that it does not have, and ends the process when it is written to."""
    huge = lora(rank=10**7)  # 100 GB of adapters on a base of 50 KB
    monkeypatch.setattr("workbench.training.loop.available_memory", lambda _: 16 * 10**9)
    run = train(readable_base(), rows(), huge, CONFIG, store)
    assert run.status == "out_of_memory" and run.advice and not run.history
    with pytest.raises(SweepError, match="out of memory"):
        sweep(readable_base(), rows(), [huge, lora(rank=1)], CONFIG, store)
    monkeypatch.setattr("workbench.training.loop.available_memory", lambda _: 100_000)
    assert train(readable_base(), rows(), full(), CONFIG, store).status == "out_of_memory"
    assert train(readable_base(), rows(), lora(rank=1, targets=["q_proj"]), CONFIG, store).status == "finished"


@pytest.mark.parametrize("field", ["batch_size", "accumulation"])
def test_a_step_of_more_rows_than_memory_holds_is_refused(field):
    with pytest.raises(TrainingError, match="100,000,000 rows"):
        TrainConfig(**({"batch_size": 1} | {field: 10**8}))
