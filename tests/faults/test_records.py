"""Records: one odd value is named and skipped, none replaces one that is further along, and nothing half written stays.

dbolya/yolact#710 (a torn line after a crash stops every later start).
"""

import copy
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from support.quick_training import CONFIG, edited, readable_base, rows
from support.records import record
from workbench import RunStore, lora, machine, sweep, train
from workbench.claims.ledger import load_bets
from workbench.errors import DamagedError, RunError
from workbench.panels.training import TrainingPanel
from workbench.plots import runs as figures
from workbench.plots.live import label_runs
from workbench.results.reference import read_rows
from workbench.results.rows import by_best_rate
from workbench.scoring import evaluation
from workbench.training import lifecycle, store_files
from workbench.training.runs import table

ROOT = Path(__file__).parents[2]
SCORED = replace(CONFIG, evaluate=True, save=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The record of a real run, as text."""
    store = RunStore(tmp_path_factory.mktemp("written"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lifecycle, "BASE_SCORES", {})
        run = train(readable_base(), rows(), lora(rank=2), SCORED, store)
    return (store.path / f"{run.id}.json").read_text()


def places(value, path=()):
    """Every place of a record that holds something."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, item in value.items():
            yield from places(item, (*path, name))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def put(whole, path, value) -> None:
    for name in path[:-1]:
        whole = whole[name]
    if value is KeyError:
        del whole[path[-1]]
    else:
        whole[path[-1]] = value


ODD = {"null": None, "text": "x", "number": -3.5, "list": [1], "mapping": {"a": 1}, "truth": True, "huge": 10**400}


@pytest.mark.slow
@pytest.mark.parametrize("odd", [*ODD, "missing"])
def test_any_odd_value_of_a_record_is_named_or_does_no_harm(written, store, capsys, odd):
    """Every place of a record in turn: tables, panels, figures and notebooks go on with the others."""
    whole = json.loads(written)
    file = store.path / f"{whole['id']}.json"
    store.path.mkdir()
    for path in places(whole):
        broken = copy.deepcopy(whole)
        put(broken, path, KeyError if odd == "missing" else ODD[odd])
        file.write_text(json.dumps(broken))
        runs = store.all()
        told = capsys.readouterr().err
        assert runs or (file.name in told and ("damaged" in told or "cannot" in told)), path
        by_best_rate(table(runs), "rank")
        for run in runs:
            _ = run.step_seconds, run.began, run.label, run.task["sha256"], run.config["steps"], run.base["revision"]
        label_runs(runs)
        if runs:
            figures.costs(runs)


@pytest.mark.parametrize("odd", ["history", "peak", "targets", "name", "scores"])
def test_panels_go_on_without_the_odd_record(written, store, odd):
    whole, good = json.loads(written), json.loads(written)
    store.path.mkdir()
    edits = {
        "history": lambda r: r.update(history=[{}]),
        "peak": lambda r: r.update(peak_memory_bytes="9"),
        "targets": lambda r: r["method"].update(targets=7),
        "name": lambda r: r["method"].update(name="ia3"),
        "scores": lambda r: r["metrics"].pop("exact_match"),
    }
    edits[odd](whole)
    for id, each in ((whole["id"], whole), ("another", good | {"id": "another", "artifact": None})):
        (store.path / f"{id}.json").write_text(json.dumps(each))
    runs = store.all()
    assert len(runs) == (2 if odd == "scores" else 1)
    assert TrainingPanel(readable_base(), rows(), SCORED, store, runs).table.value.count("<tr>") == 1 + len(runs)


@pytest.mark.parametrize("text", ["null", "[]", "3", '"a"', "[" * 100_000, '{"a": NaN}', "\udcff", '{"id": "x"', ""])
def test_what_is_no_record_is_named(store, capsys, text):
    store.save(record("good"))
    (store.path / "odd.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert [run.id for run in store.all()] == ["good"] and "odd.json is damaged" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has other rights")
@pytest.mark.parametrize("kind", ["rights", "folder", "loop"])
def test_what_cannot_be_read_is_not_called_damaged(store, monkeypatch, kind):
    store.save(record("good"))
    file = store.path / "good.json"
    if kind == "rights":
        real = type(file).read_bytes
        refused = PermissionError(13, "Permission denied")
        monkeypatch.setattr(
            type(file), "read_bytes", lambda p: (_ for _ in ()).throw(refused) if p == file else real(p)
        )
    elif kind == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.unlink()
        file.symlink_to(file)
    for act in (store.get, lambda id: store.finished(id, False, False), lambda id: store.save(record(id))):
        with pytest.raises(RunError, match="cannot be read") as caught:
            act("good")
        assert "delete" not in str(caught.value) and "damaged" not in str(caught.value)


def test_names_that_lead_nowhere_are_sentences(store, monkeypatch):
    with pytest.raises(RunError, match="cannot name a run"):
        store.get("x" * 5000)
    with pytest.raises(RunError, match="No run"):
        RunStore("y" * 200).get("one")
    with pytest.raises(RunError, match="write it out in full"):
        RunStore("~nobody-of-this-name/runs")


def test_runs_are_ordered_by_the_moment_and_not_by_the_clock(store):
    for name, created in {
        "second": "2026-10-25T02:10:00+01:00",  # after the clocks went back
        "first": "2026-10-25T02:50:00+02:00",
        "third": "2026-10-24T21:00:00-05:00",  # 02:00 UTC
        "zeroth": "2026-10-25T00:00:00+00:00",
    }.items():
        store.save(record(name, created=created))
    assert [run.id for run in store.all()] == ["zeroth", "first", "second", "third"]


# --- which record stays

STATES = [  # from the least to the most
    {"status": "interrupted", "history": []},
    {"status": "interrupted"},
    {"status": "scoring", "artifact": "a-run"},
    {"status": "finished"},
    {"status": "finished", "metrics": {"loss": 1.0}},
    {"status": "finished", "metrics": {"loss": 1.0}, "artifact": "a-run"},
]


@pytest.mark.parametrize("one", range(len(STATES)))
@pytest.mark.parametrize("other", range(len(STATES)))
def test_a_record_is_replaced_only_by_one_that_is_further_along(store, one, other):
    (store.path / "a-run").mkdir(parents=True)
    store.save(record(**STATES[one]))
    kept = store.keep(record(**STATES[other], seconds=5.0))
    assert (kept.seconds == 5.0) == (other > one) and store.get("a-run") == kept


def test_a_run_goes_on_with_its_own_record(store):
    run = record(status="scoring")
    store.save(run)
    run.status = "interrupted"
    store.save(run)
    assert store.get("a-run").status == "interrupted"
    again = store.get("a-run")
    again.advice = "noted"
    store.save(again)
    assert store.get("a-run").advice == "noted"


@pytest.mark.parametrize("content", ["{", "null", '{"id": "a-run"}'])
def test_a_damaged_record_of_our_own_is_written_anew(store, content):
    store.path.mkdir()
    (store.path / "a-run.json").write_text(content)
    store.save(record())
    assert store.get("a-run") == record()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stopped", "raises", "to the end"])
@pytest.mark.parametrize("at", ["saving", "scoring"])
def test_what_another_process_finishes_while_this_one_is_at_its_end_stays(store, tmp_path, monkeypatch, at, end):
    """The same sweep in two kernels."""
    monkeypatch.setattr(lifecycle, "BASE_SCORES", {})
    done = sweep(readable_base(), rows(), [lora(rank=2)], SCORED, other := RunStore(tmp_path / "other"))
    weights = (done[0].artifact_dir / "adapter_model.safetensors").read_bytes()

    def other_finishes(real):
        def call(*arguments):
            (store.path / done[0].id).exists() and shutil.rmtree(store.path / done[0].id)
            shutil.copytree(other.path, store.path, dirs_exist_ok=True)
            if end != "to the end":
                raise KeyboardInterrupt if end == "stopped" else ValueError
            return real(*arguments)

        return call

    place = ("workbench.adapters.saved.checkpoints.save") if at == "saving" else "workbench.training.keeping.scores_of"
    from workbench.adapters.saved import checkpoints
    from workbench.training import keeping

    monkeypatch.setattr(place, other_finishes(checkpoints.save if at == "saving" else keeping.scores_of))
    if end == "raises":
        with pytest.raises(ValueError):
            sweep(readable_base(), rows(), [lora(rank=2)], SCORED, store)
    else:
        assert sweep(readable_base(), rows(), [lora(rank=2)], SCORED, store) == done
    assert store.all() == done and (store.path / done[0].id / "adapter_model.safetensors").read_bytes() == weights
    assert {path.name for path in store.path.iterdir()} == {done[0].id, f"{done[0].id}.json"}


def test_many_threads_leave_the_record_that_is_furthest(store):
    runs = [record(history=record().history * n, seconds=float(n)) for n in range(1, 9)]
    threads = [threading.Thread(target=store.save, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("a-run").seconds == 8.0


# --- what is left behind

OURS = "tickets-lora-r-8-s0-20261128-101112-0a1b2c"


def test_a_living_process_keeps_its_folder_when_the_clock_is_set(store, monkeypatch):
    (store.path / store_files.scratch_name(OURS)).mkdir(parents=True)
    began, booted = psutil.Process.create_time, psutil.boot_time
    moved = 3600 if sys.platform == "linux" else 0  # other systems keep the time at which a process has started
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: began(process) + moved)
    monkeypatch.setattr(psutil, "boot_time", lambda: booted() + 3600)
    assert store_files.remove_leftovers(store.path) == []
    assert (store.path / store_files.scratch_name(OURS)).is_dir()  # and goes on in the same one


def test_what_killed_processes_left_is_removed_with_a_line(store, monkeypatch, capsys):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    store.save(record("kept", artifact="kept"))
    (store.path / "kept").mkdir()
    store.save(record(OURS.replace("s0", "s1"), artifact=None))
    gone = [OURS, f".saving-{store_files._node()}_1_5-{OURS}", "facts-lora-r-1-lr0.001-s-3-0123456789"]
    stays = ["learner", "notes-of-mine", f"{store_files.scratch_name(OURS)}", ".saving-elsewhere_1_5-x"]
    for name in (*gone, *stays):
        (store.path / name).mkdir()
        (store.path / name / "adapter_config.json").write_text("{")
    (store.path / f"{OURS}0a1b2c3d.tmp").write_text('{"id"')
    whole = store.path / OURS.replace("s0", "s2")
    whole.mkdir()
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, whole / "adapter_model.safetensors")
    torn = store.path / OURS.replace("s0", "s3")
    shutil.copytree(whole, torn)
    os.truncate(torn / "adapter_model.safetensors", 70)
    store.make_ready()
    assert {path.name for path in store.path.iterdir() if path.is_dir()} == {"kept", whole.name, *stays}
    told = capsys.readouterr().err
    assert all(f"{name}: a process was killed" in told for name in (*gone, torn.name)) and "kept:" not in told
    assert not list(store.path.glob("*.tmp"))


@pytest.mark.slow
def test_a_save_that_is_killed_leaves_nothing_after_the_next_start(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, "tests")
from support.records import record
from workbench.training.store import RunStore
with RunStore({str(tmp_path)!r}).saving(record({OURS!r})) as folder:
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(bytes(1000))
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    RunStore(tmp_path).make_ready()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such rights")
@pytest.mark.parametrize("mask", [0o077, 0o022, 0o027])
def test_records_and_artifacts_have_the_rights_that_the_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        run = train(readable_base(), rows(), lora(rank=1), replace(CONFIG, save=True), RunStore(tmp_path / "runs"))
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(files) >= 3 and run.artifact
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666 & ~mask}


# --- other files that are read again and again


@pytest.mark.parametrize("line", ['{"name": "lora", "ra', "null", "[1]", '{"rank": "eight"}', '{"losses": [null]}'])
@pytest.mark.parametrize("last", [True, False])
def test_a_stored_row_that_is_not_whole_names_file_and_line(tmp_path, line, last):
    file = tmp_path / "stored.jsonl"
    good = json.dumps({"name": "lora", "rank": 8, "loss": None})
    file.write_text("\n".join([good, good, line] if last else [line, good, good]) + "\n")
    with pytest.raises(DamagedError, match=rf"Line {3 if last else 1} of .*stored\.jsonl .*restore the file"):
        read_rows(file)
    file.write_text(f"{good}\n\n{good}\n")
    assert len(read_rows(file)) == 2


@pytest.mark.parametrize(
    "times",
    [
        {"float32": None, "bfloat16": 1.0},
        {"float32": 1.0},
        {"float32": "a", "bfloat16": "b"},
        None,
        [],
        {"float32": [1], "bfloat16": None},
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_damaged_step_times_are_as_none_and_are_repaired(tmp_path, monkeypatch, times, whole):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    file = tmp_path / "step_times.json"
    file.write_text(json.dumps({machine._fingerprint(): times} if whole else times))
    assert machine.step_times() is None
    machine.preferred_dtype()
    machine.save_step_times({"float32": 1.0, "bfloat16": None})
    assert machine.step_times() == {"float32": 1.0, "bfloat16": None}


@pytest.mark.parametrize("text", ["null", "[]", "[" * 100_000, '{"speed": ["x"]}', '{"speed": {}}', ""])
def test_damaged_bets_are_as_none(store, text):
    (store.path / "learner").mkdir(parents=True)
    (store.path / "learner" / "bets.json").write_text(text)
    assert load_bets(store) == {}


@pytest.mark.slow
def test_the_status_is_true_at_every_moment(store, monkeypatch):
    monkeypatch.setattr(lifecycle, "BASE_SCORES", {})
    real, seen = evaluation.evaluate, []

    def evaluate(*arguments):
        seen.extend(run.status for run in store.all())
        return real(*arguments)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    shown = []
    run = train(readable_base(), rows(), lora(rank=1), SCORED, store, lambda r: shown.append(r["runs"][0].status))
    assert set(shown) == {"training"} and seen == ["scoring"] and run.status == "finished" == store.get(run.id).status
    edited(store.path / f"{run.id}.json", lambda each: each.update(status="invented"))
    assert store.all() == []
