"""Records: written whole, read back the same, damage reported and skipped, names kept inside the folder."""

import errno
import json
import re
from pathlib import Path

import pytest

from support.records import record
from workbench.errors import RunError
from workbench.scoring import pack_rows, unpack_rows
from workbench.training.runs import table
from workbench.training.store import RunStore, slug


def test_a_run_is_read_back_as_it_was(store):
    run = record(metrics={"exact_match": 0.5}, artifact="a-run")
    store.save(run)
    again = store.get("a-run")
    assert again == run and again.step_seconds == 2.0
    assert again.artifact_dir == store.path / "a-run"
    assert [path.name for path in store.path.iterdir()] == ["a-run.json"]


def test_the_rows_that_were_right_are_kept_and_a_row_of_the_table_has_them(store):
    before, right = pack_rows([False] * 11), {"exact_match": pack_rows([True] * 5 + [False] * 6)}
    store.save(run := record(before_right={"exact_match": before}, right=right))
    assert store.get("a-run") == run
    row = table([run])[0]
    assert unpack_rows(row["right"]).tolist() == [True] * 5 + [False] * 6 and row["right_labels"] is None
    assert table([record()])[0]["right"] is None


@pytest.mark.parametrize("packed", ["11:f8", "11:ffff", "f800", "11:F800", "x:00", "-1:", 7])
def test_rows_that_are_not_whole_are_a_damaged_record(store, packed):
    store.save(record())
    file = store.path / "a-run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"right": {"exact_match": packed}}))
    with pytest.raises(RunError, match=r"a-run.json is damaged"):
        store.get("a-run")


def test_damaged_files_are_named_and_skipped(store, capsys):
    store.save(record("good"))
    (store.path / "half.json").write_text('{"id": "half", "status"')
    (store.path / "list.json").write_text("[]")
    (store.path / "fields.json").write_text('{"id": "fields"}')
    (store.path / "renamed.json").write_text((store.path / "good.json").read_text())
    (store.path / "escape.json").write_text((store.path / "good.json").read_text().replace('"good"', '"escape"'))
    outside = (store.path / "escape.json").read_text().replace('"artifact": null', '"artifact": "../.."')
    (store.path / "escape.json").write_text(outside)
    (store.path / "binary.json").write_bytes(b"\xff\xfe\x00")
    changed = {"created": None, "method": [], "metrics": None, "config": {}, "history": "none"}
    for name, value in changed.items():
        content = record(f"bad-{name}").to_dict() | {name: value}
        (store.path / f"bad-{name}.json").write_text(json.dumps(content))
    assert [run.id for run in store.all()] == ["good"]
    told = capsys.readouterr().err
    assert all(f"{name}.json is damaged" in told for name in ("half", "list", "fields", "renamed", "escape", "binary"))
    assert all(f"bad-{name}.json is damaged" in told for name in changed)


def test_a_record_of_a_newer_version_is_still_read(store):
    store.save(record())
    file = store.path / "a-run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"invented_later": 1}))
    assert store.get("a-run").id == "a-run"


def test_a_record_that_json_cannot_hold_leaves_the_old_one(store):
    store.save(record(seconds=1.0))
    with pytest.raises(ValueError):
        store.save(record(seconds=float("nan")))
    assert store.get("a-run").seconds == 1.0
    assert [path.name for path in store.path.iterdir()] == ["a-run.json"]


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_half_an_artifact_is_none(store):
    run = record()
    with store.saving(run) as folder:
        folder.mkdir(parents=True)
        run.artifact, run.artifact_bytes = run.id, 4
        raise FULL
    assert not folder.exists() and (run.artifact, run.artifact_bytes) == (None, None)
    assert re.fullmatch(r"Trained, but not saved: .*No space left on device; free some space.*", run.advice)
    with pytest.raises(KeyboardInterrupt), store.saving(run) as folder:
        folder.mkdir()
        raise KeyboardInterrupt
    assert not folder.exists()


def test_a_record_that_the_disk_does_not_take_is_one_clear_sentence(store, monkeypatch):
    def full(*_):
        raise FULL

    monkeypatch.setattr("workbench.training.store.write_json", full)
    with pytest.raises(RunError, match=r"a-run could not be recorded in .*No space left on device\); free some space"):
        store.save(record())


@pytest.mark.parametrize("id", ["../outside", "a/b", "", ".hidden", "a..b", "a\\b", "C:x"])
def test_names_cannot_leave_the_folder(store, id):
    for act in (store.get, store.delete, lambda id: store.save(record(id))):
        with pytest.raises(RunError, match="cannot name a run"):
            act(id)


def test_ids_are_new_and_readable(store):
    first = store.new_id("my data.csv", "lora r=8", "s0")
    assert first.startswith("my-data.csv-lora-r-8-s0-")
    assert store.new_id("my data.csv", "lora r=8", "s0") != first  # another process may be using it, unsaved


@pytest.mark.parametrize("name", ["data..v2", "../data", "a. .b", "..", "x" * 300, "數據"])
def test_a_task_of_any_name_has_runs(store, name):
    for id in (store.new_id(name, "lora r=8", "s0"), f"{slug(name, 'lora r=8')}-0123456789"):
        store.save(record(id))
        assert store.get(id).id == id


def test_what_cannot_be_stored_is_found_before_it_is_there(store):
    store.check(record())
    for run, words in (
        (record("a..b"), "cannot name a run"),
        (record(seconds=float("inf")), "cannot be written as JSON"),
        (record(config={"seed": object()}), "cannot be written as JSON"),
    ):
        with pytest.raises(RunError, match=words):
            store.check(run)


def test_deleting_takes_record_and_artifact(store):
    store.save(record())
    (store.path / "a-run").mkdir()
    store.delete("a-run")
    assert list(store.path.iterdir()) == [] and store.all() == []


def test_the_table_is_flat():
    row = table([record(metrics={"exact_match": 0.5}, peak_memory_bytes=2_000_000)])[0]
    assert row["exact_match"] == 0.5 and row["peak_memory_mb"] == 2.0 and row["artifact_mb"] is None


def test_runs_go_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "there"))
    assert RunStore().path == tmp_path / "there"


# Records written at commit 7bbbcbd: each method, a diverged and an interrupted run, and two of a sweep.
OLD_RECORDS = Path(__file__).parents[1] / "fixtures" / "records"


def test_records_of_earlier_versions_load_and_are_written_back_unchanged(tmp_path):
    store = RunStore(OLD_RECORDS)
    runs = store.all()
    assert {run.method["name"] for run in runs} == {"lora", "qlora", "hybrid", "full"}
    assert {run.status for run in runs} == {"finished", "diverged", "interrupted"}
    assert len(runs) == len(list(OLD_RECORDS.glob("*.json"))) == len(table(runs)) == 8
    for run in runs:
        copy = RunStore(tmp_path).save(run)
        assert json.loads(copy.read_text()) == json.loads((OLD_RECORDS / copy.name).read_text())


def test_a_store_stays_where_it_is_when_the_current_folder_changes(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = RunStore("my_runs")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store.path == tmp_path / "my_runs"
