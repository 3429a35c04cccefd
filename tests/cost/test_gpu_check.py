"""`workbench gpu-check`, rehearsed on the CPU with a small model."""

import json
import subprocess
import sys

import pytest
import torch

from workbench.cli import main
from workbench.cost.gpu_check import check as gpu_check, child
from workbench.cost.gpu_check.cases import COMPARISONS, GPU_SCALE, SMALL_SCALE, STEP, Case, Scale, cases
from workbench.paths import CHECKOUT

FEW = Scale(SMALL_SCALE.model, lengths=(16,), batches=(1,), rank=2, timed_steps=1)


def test_the_grid_of_a_gpu_has_every_method_length_batch_and_checkpointing():
    every = cases(GPU_SCALE, "cuda")
    steps = [case for case in every if case.kind == STEP]
    assert len(steps) == 5 * 2 * 3 * 2 and {case.kind for case in every} == {STEP, *COMPARISONS}
    labels = {case.label for case in every}
    assert len(labels) == len(every) and "DoRA, 4 x 1024, checkpointing" in labels and "QLoRA, 1 x 256" in labels
    assert all(case.setup.device == "cuda" for case in steps)


@pytest.mark.parametrize("case", cases(FEW, "cpu"), ids=lambda case: case.label)
def test_a_case_survives_the_way_to_its_process(case):
    assert Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(FEW, "cpu"), ids=lambda case: case.label)
def test_every_case_can_be_measured(case):
    """In this process, to save starting one for each."""
    found = json.loads(json.dumps(child.measured(case, torch.device("cpu"))))
    if case.kind == "float16":
        assert found["ways"] == {"skipped": "float16 needs a GPU"}
        return
    assert found["status"] == "measured", found
    if case.setup:
        assert gpu_check._compared(case, found, "cpu")["errors"]["allocated_bytes"] == pytest.approx(0, abs=0.05)
        assert found["step_seconds"] > 0
    else:
        one, other = found["ways"].values()
        assert one["losses"] == pytest.approx(other["losses"], rel=1e-3)


@pytest.mark.slow
def test_the_check_is_rehearsed_end_to_end(tmp_path, capsys, monkeypatch):
    """A few cases, each in a process of its own, as on a machine with a GPU."""
    chosen = [case for case in cases(FEW, "cpu") if case.kind == "adapters at once" or case.label.startswith("QLoRA")]
    monkeypatch.setattr(gpu_check, "cases", lambda *_: chosen)
    out = tmp_path / "found.json"
    assert main(["gpu-check", "--device", "cpu", "--small", "--minutes", "60", "--out", str(out)]) == 0
    told, found = capsys.readouterr().out, json.loads(out.read_text())
    assert not found["not_reached"] and "none failed" in told and found["versions"]["torch"]
    assert [finding["label"] for finding in found["findings"]] == [case.label for case in chosen]
    for finding in found["findings"]:
        assert finding["status"] == "measured", finding
        assert f"| {finding['label']} |" in told


def finding(status: str, **fields):
    return subprocess.CompletedProcess([], 0, f"noise\nmeasured: {json.dumps({'status': status, **fields})}\n", "")


@pytest.mark.quick
def test_out_of_memory_and_crashes_are_recorded_and_gone_on_from(tmp_path, monkeypatch):
    answers = [
        finding("out of memory", allocated_bytes=None, words="CUDA out of memory."),
        subprocess.CompletedProcess([], -9, "", "killed\n"),
        finding("skipped", words="QLoRA is left out: bitsandbytes does not load (ImportError)."),
    ]
    measured = finding("measured", allocated_bytes=10**6, reserved_bytes=None, step_seconds=0.1)
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda *_, **__: answers.pop(0) if answers else measured)
    predicted = {"predicted": {"allocated_bytes": 10**6}, "errors": {}, "bound_seconds": 0.025}
    monkeypatch.setattr(gpu_check, "_compared", lambda *_: predicted)
    found = gpu_check.check(FEW, "cpu", 5, tmp_path / "found.json")
    statuses = [one["status"] for one in found["findings"]]
    assert statuses[:3] == ["out of memory", "failed", "skipped"] and set(statuses[3:]) == {"measured"}
    assert "exit status -9: killed" in found["findings"][1]["words"]
    lines = list(gpu_check.table(found))
    assert "out of memory: CUDA out of memory." in lines[2] and "QLoRA is left out" in lines[4]
    assert "| 0.100 (25%) |" in lines[5]
    assert json.loads((tmp_path / "found.json").read_text())["findings"] == found["findings"]


@pytest.mark.quick
def test_the_gpu_tier_of_lessons_is_run_while_there_is_time(monkeypatch):
    assert "cannot be reached" in gpu_check.lessons(600)["all"]  # tests are offline
    monkeypatch.setattr(gpu_check, "is_offline_mode", lambda: False)
    monkeypatch.setattr(gpu_check.hub, "answers", lambda *_: True)
    asked = []

    def run(command, **_):
        asked.append(command[4])
        return subprocess.CompletedProcess(command, 0, f"passed  {command[4]}  90 s\n1 passed, 0 failed\n", "")

    monkeypatch.setattr(gpu_check.subprocess, "run", run)
    assert gpu_check.lessons(600) == {name: f"passed  {name}  90 s" for name in gpu_check.LESSONS}
    assert asked == list(gpu_check.LESSONS)
    assert all((CHECKOUT / "notebooks" / f"{name}.ipynb").is_file() for name in asked)
    assert set(gpu_check.lessons(30).values()) == {"not reached"}


@pytest.mark.quick
def test_nothing_is_started_after_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "_measure", lambda *_: pytest.fail("started"))
    found = gpu_check.check(FEW, "cpu", 0, tmp_path / "found.json")
    assert not found["findings"] and len(found["not_reached"]) == len(cases(FEW, "cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys, tmp_path):
    assert main(["gpu-check", "--out", str(tmp_path / "found.json")]) == 2
    assert "No GPU is visible to torch here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_without_bitsandbytes_skips_qlora_with_a_sentence(tmp_path):
    (case,) = (one for one in cases(FEW, "cpu") if one.label == "QLoRA, 1 x 16")
    code = "import sys; sys.modules['bitsandbytes'] = None\nfrom workbench.cost.gpu_check.child import main; main()"
    asked = json.dumps({"case": case.to_dict(), "device": "cpu"})
    done = subprocess.run([sys.executable, "-c", code], input=asked, capture_output=True, text=True)
    assert done.returncode == 0 and "QLoRA is left out: bitsandbytes does not load" in done.stdout, done.stderr


@pytest.mark.quick
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_check, "_measure", lambda *_: pytest.fail("started"))
    (tmp_path / "file").write_text("")
    assert main(["gpu-check", "--device", "cpu", "--small", "--out", str(tmp_path / "file" / "found.json")]) == 2
    assert "cannot be written (" in capsys.readouterr().err
