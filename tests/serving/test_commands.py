"""`workbench merge`, `export` and `serve` as typed."""

import os
import re
import socket
import subprocess
import sys

import pytest
from openai import OpenAI

from support.processes import is_running
from support.saved_runs import saved_run
from workbench.cli import main


@pytest.fixture
def saved(small, store):
    return saved_run(small, store)


def typed(*words: object) -> int:
    return main([str(word) for word in words])


def test_merge_writes_a_whole_model_in_the_dtype_asked_for(saved, store, tmp_path, capsys):
    assert typed("merge", saved.id, "--out", store.path, "--to", tmp_path / "whole", "--dtype", "bfloat16") == 0
    assert "merged into" in capsys.readouterr().out
    from transformers import AutoConfig

    assert str(AutoConfig.from_pretrained(tmp_path / "whole").dtype) == "torch.bfloat16"


def test_export_writes_adapter_and_card(saved, store, tmp_path, capsys):
    assert typed("export", saved.id, "--out", store.path, "--to", tmp_path / "adapter") == 0
    assert "adapter and model card" in capsys.readouterr().out
    assert (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8").startswith("---\n")


def test_bad_input_is_a_sentence_and_status_2(saved, store, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wrong = {
            ("merge", "nobody", "--to", tmp_path / "new"): "No run 'nobody'",
            ("merge", saved.id, "--to", tmp_path / "full"): "is not empty",
            ("export", saved.id, "--to", tmp_path / "full"): "is not empty",
            ("serve", "nobody", "--port", "0"): "No run 'nobody'",
            ("serve", saved.id, "--port", port): f"Port {port} of 127.0.0.1 is not available",
            ("serve", saved.id, f"{saved.id}={saved.id}", "--port", "0"): "Two runs have one name",
        }
        for words, told in wrong.items():
            assert typed(*words, "--out", store.path) == 2, words
            assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_serve_answers_until_it_is_stopped_and_leaves_no_process(saved, store):
    command = [sys.executable, "-m", "workbench.cli", "serve", f"mine={saved.id}", "--port", "0"]
    command += ["--out", str(store.path), "--dtype", "float32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        line = process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+/v1) answers for mine\. Stop it with Ctrl-C\.", line)
        assert found, line + process.stderr.read()
        import psutil

        (server,) = psutil.Process(process.pid).children()
        client = OpenAI(base_url=found[1], api_key="none")
        answer = client.completions.create(model="mine", prompt="Hello", max_tokens=4, temperature=0)
        assert answer.usage.completion_tokens == 4
    finally:
        process.terminate()  # as Ctrl-C; a test in the background may inherit that SIGINT is ignored
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and told.endswith("workbench: stopped.\n")
    assert not is_running(server.pid)
