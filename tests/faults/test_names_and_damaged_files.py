"""Whatever is asked for and whatever a folder holds, load_base answers in a sentence of its own."""

import http.server
import os
import pickle
import socket
import threading
from contextlib import contextmanager

import pytest
import torch
from huggingface_hub import HfApi

from support.bases_on_disk import write_base
from support.random_bases import random_base
from workbench import RunStore, adapters, load_base
from workbench.errors import AdapterError, MemoryModelError, ModelError, RunError, WorkbenchError
from workbench.memory.configs import model_config
from workbench.models.sources import hub
from workbench.paths import cache_dir

NAMES = {
    "letters": "a" * 5000,
    "a path": "/tmp/" + "b" * 300,
    "a deep path": "./" + "c/" * 3000,
    "a hub id": "org/" + "d" * 400,
    "no user": "~nobody_here/model",
    "a zero byte": "model\0",
    "a line": "model\nname",
    "nothing": "",
    "a space": " ",
    "bytes": b"model",
    "a number": 3,
    "dots": "org/..",
    "half a letter": "\ud800",
    "a url": "https://huggingface.co/org/model",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_odd_name_is_answered(name):
    with pytest.raises(ModelError) as caught:
        load_base(name)
    assert len(str(caught.value)) < 1500 and "\n" not in str(caught.value)


NO_FOLDERS = ("letters", "a path", "no user", "a zero byte", "bytes", "a number", "half a letter")


@pytest.mark.parametrize("name", NO_FOLDERS)
def test_what_names_no_folder_is_answered(name, tmp_path):
    model = random_base("llama").model
    for call in (
        lambda: RunStore(NAMES[name]),
        lambda: adapters.load(random_base("llama"), NAMES[name]),
        lambda: adapters.save(model, NAMES[name]),
    ):
        with pytest.raises((RunError, AdapterError)) as caught:
            call()
        assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)
    for call in (RunStore(tmp_path).get, RunStore(tmp_path).delete):
        with pytest.raises(RunError, match="cannot name a run"):
            call(NAMES[name])


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(AdapterError, match="choose another folder"):
            adapters.save(random_base("llama").model, place)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
@pytest.mark.parametrize("locked", ["folder", "config.json", "model.safetensors", "tokenizer.json"])
def test_what_may_not_be_read_is_said(locked, tmp_path):
    folder = write_base(tmp_path / "outer" / "model", "llama")
    tmp_path.chmod(0o755)
    target = folder.parent if locked == "folder" else folder / locked
    root = os.geteuid() == 0
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    target.chmod(0)
    try:
        os.seteuid(65534) if root else None
        with pytest.raises(ModelError, match=r"may read|Permission denied"):
            load_base(folder, dtype="float32")
    finally:
        os.seteuid(0) if root else None
        target.chmod(0o755)


@pytest.mark.parametrize("variable", ["WORKBENCH_CACHE", None])
def test_without_a_home_a_folder_is_asked_for(variable, monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("WORKBENCH_CACHE", raising=False)

    def no_entry(_):
        raise KeyError

    if variable:
        monkeypatch.setenv(variable, "~nobody_here/cache")
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    with pytest.raises(WorkbenchError, match="set WORKBENCH_CACHE to"):
        cache_dir()
    with pytest.raises(WorkbenchError, match="No home folder is known"):
        load_base("smollm2-135m")


class Command:
    """What a pickle may do when it is read."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def damage(folder, kind, ran):
    (folder / "model.safetensors").unlink(missing_ok=True)
    file = folder / ("model.safetensors" if kind.startswith("safe") else "pytorch_model.bin")
    if kind == "a command":
        torch.save({"model.norm.weight": Command(ran)}, file)
    elif kind == "a plain pickle":
        file.write_bytes(pickle.dumps({"model.norm.weight": Command(ran)}))
    elif kind == "a whole model":
        torch.save({"model": torch.nn.Linear(2, 2)}, file)
    else:
        file.write_bytes(KINDS[kind])


KINDS = {
    "a command": b"",
    "a plain pickle": b"",
    "a whole model": b"",
    "a web page": b"<!DOCTYPE html><html>Sign in</html>",
    "nothing": b"",
    "noise": bytes(range(256)) * 4,
    "safetensors of nothing": b"",
    "safetensors of noise": bytes(range(255, -1, -1)) * 4,
    "safetensors cut off": b"\x80\x00\x00\x00\x00\x00\x00\x00{",
}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_weights_are_refused_without_advice_to_run_them(kind, tmp_path):
    folder, ran = write_base(tmp_path / "llama", "llama"), tmp_path / "ran"
    base = load_base(folder, dtype="float32")
    damage(folder, kind, ran)
    for ask, error in (
        (lambda: load_base(folder, dtype="float32"), ModelError),
        (lambda: adapters.load(base, folder), AdapterError),
    ):
        with pytest.raises(error) as caught:
            ask()
        words = str(caught.value)
        assert not ran.exists() and "weights_only" not in words and "\n" not in words
        if kind in ("a command", "a plain pickle", "a whole model", "a web page"):
            assert "reading it could run code, so it is refused" in words


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '"text"', "\x00\x01"])
def test_damaged_configurations_are_answered(file, content, tmp_path):
    folder = write_base(tmp_path / "llama", "llama")
    (folder / file).write_text(content)
    try:
        load_base(folder, dtype="float32")
    except ModelError as error:
        assert "\n" not in str(error)


@contextmanager
def a_silent_hub():
    """An address that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(20)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def a_hub_that_says(code):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "SECONDS", 0.3)
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")

    def use(address):
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint=address))

    return use


def test_a_hub_that_stays_silent_is_asked_once(online, capsys):
    with a_silent_hub() as address:
        online(address)
        assert not hub.answers("org/model", None)
        assert "The Hub does not answer (ReadTimeout); looking for org/model" in capsys.readouterr().err
        with pytest.raises(ModelError, match="not in the local cache or the network is down"):
            load_base("org/model", dtype="float32")
        with pytest.raises(MemoryModelError, match="neither in the local cache nor could it be downloaded"):
            model_config("org/model")
        assert "The Hub does not answer" in capsys.readouterr().err
    online(address)  # closed now
    assert not hub.answers("org/model", None)


@pytest.mark.parametrize("code", [401, 404, 429, 503, 200])
def test_a_hub_that_says_anything_is_left_to_its_client(code, online):
    with a_hub_that_says(code) as address:
        online(address)
        assert hub.answers("org/model", None)


def test_offline_the_hub_is_not_asked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", None)
    assert hub.answers("org/model", None)
