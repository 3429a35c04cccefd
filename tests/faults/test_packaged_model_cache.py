"""The converted copy of the packaged weights: what a killed conversion left, damaged records, a wait for another."""

import json
import threading
import time

import pytest
from filelock import FileLock

from workbench.errors import ModelError
from workbench.models.identity import file_hash
from workbench.models.sources import packaged

NAMES = sorted(packaged.FILES)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def converted(monkeypatch):
    """A conversion in no time; the list of those that were made."""
    made = []

    def convert(gguf, target):
        made.append(target)
        write_whole(target)

    monkeypatch.setattr(packaged, "_convert", convert)
    monkeypatch.setattr(packaged, "_gguf", lambda: "weights.gguf")
    return made


def write_whole(folder):
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        (folder / name).write_text(f"content of {name}")
    digests = {name: file_hash(folder / name) for name in NAMES}
    (folder / "complete.json").write_text(json.dumps({"format": packaged.CACHE_FORMAT, "sha256": digests}))
    return folder


@pytest.mark.parametrize("whole", [True, False])
def test_what_killed_conversions_left_is_removed_with_a_line(whole, cache, converted, capsys):
    target = cache / packaged.PACKAGED
    if whole:
        write_whole(target)
    for end in ("x7_k2a9q", "abcdefgh"):
        (cache / f"{packaged.PACKAGED}{end}").mkdir()
        (cache / f"{packaged.PACKAGED}{end}" / "model.safetensors").write_bytes(bytes(2_000_000))
    kept = [cache / f"{packaged.PACKAGED}-of-mine", cache / "another"]
    for folder in kept:
        folder.mkdir()
    assert packaged.packaged_model() == target
    assert converted == ([] if whole else [target])
    assert {path.name for path in cache.iterdir() if path.is_dir()} == {target.name, *(path.name for path in kept)}
    said = capsys.readouterr().err
    assert said.count("2 MB that a killed conversion had left") == 2
    packaged.packaged_model()
    assert "killed" not in capsys.readouterr().err


DAMAGED = [
    *("null", "[]", "3", '""', "", "{", "[" * 100_000, '{"format": 1}', '{"sha256": {}}'),
    *('{"format": 1, "sha256": {}}', '{"format": 1, "sha256": []}', '{"format": 1, "sha256": {"config.json": 3}}'),
    *('{"format": "1", "sha256": {}}', '{"format": 2, "sha256": {}}', '{"format": 1, "sha256": {"../x": "y"}}'),
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_is_rebuilt(content, cache, converted):
    target = write_whole(cache / packaged.PACKAGED)
    assert packaged.packaged_model() == target and converted == []
    (target / "complete.json").write_text(content)
    assert packaged.packaged_model() == target and converted == [target]


@pytest.mark.parametrize("name", NAMES)
def test_a_record_that_leaves_a_file_out_is_not_whole(name, cache, converted):
    target = write_whole(cache / packaged.PACKAGED)
    record = json.loads((target / "complete.json").read_text())
    del record["sha256"][name]
    (target / "complete.json").write_text(json.dumps(record))
    packaged.packaged_model()
    assert converted == [target]


def test_weights_of_another_package_are_refused(tmp_path, monkeypatch):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(ModelError, match=r"is not installed; run `make lab` or `.* -m pip install"):
        packaged._gguf()
    (tmp_path / packaged.GGUF_FILE).write_bytes(b"GGUF of somebody else")
    with pytest.raises(ModelError, match=r"is damaged, or of another version than 0\.1\.2"):
        packaged._gguf()


def test_a_wait_for_another_process_is_said(cache, converted, capsys, monkeypatch):
    monkeypatch.setattr(packaged, "PATIENCE", 0.1)
    target = cache / packaged.PACKAGED
    held, other = threading.Event(), FileLock(target.with_suffix(".lock"))

    def convert_elsewhere():
        with other:
            held.set()
            time.sleep(0.5)

    threading.Thread(target=convert_elsewhere).start()
    held.wait()
    assert packaged.packaged_model() == target
    assert "Waiting for another process that converts the packaged weights" in capsys.readouterr().err
