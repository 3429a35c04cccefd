"""The HTTP server: real requests through OpenAI's client, the answers of `generate`, and nothing left running."""

import socket
import subprocess
import sys

import pytest
import torch

from support.processes import is_running
from support.saved_runs import saved_run
from workbench.adapters import full, hybrid, lora, qlora
from workbench.errors import RunError, ServingError
from workbench.serving import engine, merge_run, serve, serving_folder
from workbench.serving.engine import stop, usable_port

PROMPT, TOKENS = "The access code of", 8


def generated(model, tokenizer) -> str:
    inputs = tokenizer(PROMPT, return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    return tokenizer.decode(ids[0, inputs.input_ids.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.slow
def test_the_served_answers_are_those_of_generate(small, store, tmp_path, monkeypatch):
    """Two adapters, a full run and a merged model, asked by name in turn on this computer; ended by its number.

    It listens on every address, and a proxy that is set, and does not answer, is not asked for this computer.
    """
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    runs = {name: saved_run(small, store, name, lora(rank=2), seed=seed) for seed, name in enumerate(("one", "two"))}
    runs["whole"] = saved_run(small, store, "whole", full())
    tuned = {name: run.load(small).model for name, run in runs.items()}
    merged = merge_run(runs["one"], small)
    folder = serving_folder({**runs, "merged": merged}, small, tmp_path / "models")
    expected = {name: generated(model, small.tokenizer) for name, model in tuned.items()}
    with serve(folder, host="0.0.0.0") as server:
        assert server.names == ("merged", "one", "two", "whole") and server.url.startswith("http://127.0.0.1:")
        for name in ("one", "two", "whole", "one"):
            assert server.ask(name, PROMPT, TOKENS) == expected[name]
        assert server.ask("merged", PROMPT, TOKENS) == generated(merged.model, small.tokenizer) == expected["one"]
        with pytest.raises(ServingError, match="No model is called 'three' here; there are merged, one"):
            server.ask("three", PROMPT)
        pid, port = server.pid, int(server.url.rpartition(":")[2].removesuffix("/v1"))
        with pytest.raises(ServingError, match=f"Port {port} of 127.0.0.1 is not available"):
            usable_port(port)
    assert len({*expected.values()}) == 3, "the models differ"
    assert not is_running(pid)
    assert usable_port(port) == port


def test_a_port_in_use_is_told_before_anything_starts(tmp_path):
    (tmp_path / "model").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServingError, match=f"Port {port} .*give another one, or 0"), serve(tmp_path, port):
            pass
    assert usable_port(port) == port
    for wrong in (-1, 2**16):
        with pytest.raises(ServingError, match="is not a port"):
            usable_port(wrong)


def test_a_server_needs_its_packages_and_models(tmp_path, monkeypatch):
    with pytest.raises(ServingError, match="holds no models"), serve(tmp_path):
        pass
    monkeypatch.setattr(engine, "NEEDED", ("uvicorn_of_nobody",))
    with pytest.raises(ServingError, match=r"Serving needs uvicorn_of_nobody: .*\[serving\]"), serve(tmp_path):
        pass


@pytest.mark.slow
def test_a_server_that_ends_by_itself_is_told_with_its_last_words(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(engine, "START", "print('no luck today'); raise SystemExit(3)")
    with pytest.raises(ServingError, match=r"ended by itself \(status 3\): no luck today"), serve(tmp_path):
        pass


@pytest.mark.slow
def test_a_server_that_does_not_stop_when_asked_is_killed(monkeypatch):
    monkeypatch.setattr(engine, "STOP_SECONDS", 0.5)
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
    process.stdout.read(1)
    stop(process)
    process.stdout.close()
    assert not is_running(process.pid)


def test_what_transformers_cannot_serve_as_an_adapter_is_to_be_merged(small, store, tmp_path):
    for number, method in enumerate((hybrid(["norm"], rank=2), lora(rank=2, dora=True))):
        run = saved_run(small, store, f"run-{number}", method)
        with pytest.raises(ServingError, match=f"workbench merge run-{number} --to FOLDER"):
            serving_folder({"it": run}, small, tmp_path / str(number))


@pytest.mark.parametrize("name", ["", "a/b", "..", "a@b", "über"])
def test_a_name_that_is_no_folder_is_refused(small, store, tmp_path, name):
    with pytest.raises(ServingError, match="cannot name a model"):
        serving_folder({name: saved_run(small, store)}, small, tmp_path / "models")


def test_a_run_of_another_base_is_refused(small, store, tmp_path, small_directory):
    from workbench import load_base

    packed = load_base(str(small_directory), quantization="nf4", dtype="float32")
    run = saved_run(packed, store, method=qlora(rank=2))
    with pytest.raises(ServingError, match="merge it first"):
        serving_folder({"it": run}, small, tmp_path / "one")
    plain = saved_run(small, store, "plain")
    plain.base["revision"] = "another"
    with pytest.raises(RunError, match="load that base"):
        serving_folder({"it": plain}, small, tmp_path / "two")
