"""Flags that are no flags, files that a command must not destroy, and folders that it cannot remove."""

import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from support.records import record, run
from workbench import TrainConfig, load_task, lora
from workbench.advice.run_report import report
from workbench.cli import main
from workbench.commentary.lora_or_full import forgotten_in_words
from workbench.course import doctor
from workbench.errors import MemoryModelError, MethodError, TaskError, TrainingError
from workbench.memory.setup import FLAGS, Setup
from workbench.training.store import RunStore

GENERAL = {"general_loss": 3.0, "fact_accuracy": 0.6}


@pytest.mark.parametrize("value", [0, 1, "no", None])
def test_a_flag_is_true_or_false(value):
    for name in ("rslora", "dora", "pissa"):
        with pytest.raises(MethodError, match=f"{name}={value!r} must be True or False"):
            lora(**{name: value})
    for name in ("checkpointing", "evaluate", "save"):
        with pytest.raises(TrainingError, match=f"{name}={value!r} must be True or False"):
            TrainConfig(**{name: value})
    for name in FLAGS:
        with pytest.raises(MemoryModelError, match=f"{name}={value!r} must be True or False"):
            Setup(lora(), **{name: value})


def test_an_unknown_model_leaves_the_findings_of_an_earlier_gpu_check(tmp_path, capsys):
    earlier = tmp_path / "gpu.json"
    earlier.write_text('{"findings": [1]}')
    assert main(["gpu-check", "--device", "cpu", "--small", "--model", "typo", "--out", str(earlier)]) == 2
    assert "typo" in capsys.readouterr().err and earlier.read_text() == '{"findings": [1]}'


@pytest.mark.parametrize("out", [".", "/"])
def test_a_path_without_a_name_is_no_file(out, capsys):
    assert main(["gpu-check", "--device", "cpu", "--small", "--minutes", "0", "--out", out]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_home_folder_is_known_where_no_shell_expands_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    RunStore(tmp_path / "runs").save(run("lora", hardware={"processor": "x"}))
    assert main(["report", "--runs-folder=~/runs", "--out=~/report.html"]) == 0
    assert (tmp_path / "report.html").is_file() and not (tmp_path / "~").exists()


def test_a_report_that_fails_leaves_the_earlier_one(tmp_path, capsys):
    store, out = RunStore(tmp_path / "runs"), tmp_path / "r.html"
    store.save(run("lora", hardware={"processor": "x"}))
    out.write_text("earlier")
    arguments = ["report", "--runs-folder", str(store.path), "--out"]
    assert main([*arguments, str(out), "--title", "\udcff"]) == 2
    assert "cannot be written" in capsys.readouterr().err and out.read_text() == "earlier"
    assert sorted(tmp_path.iterdir()) == [out, store.path], "and nothing half-written"
    (file,) = store.path.glob("*.json")
    before = file.read_bytes()
    assert main([*arguments, str(file)]) == 2 and file.read_bytes() == before


def test_reset_says_what_it_could_not_remove(tmp_path, monkeypatch, capsys):
    store = RunStore(tmp_path)
    store.save(record())
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "bets.json").write_text("{}")

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("shutil.rmtree", refuse)
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["reset", "--out", str(tmp_path)]) == 1 and "Nothing was removed" in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", type("Typed", (), {"readline": lambda self: "yes\n"})())
    assert main(["reset", "--out", str(tmp_path)]) == 2
    assert "Not all was removed: " in capsys.readouterr().err and (tmp_path / "learner" / "bets.json").exists()


def test_a_run_whose_artifact_is_a_link_loses_the_link_alone(tmp_path):
    store, elsewhere = RunStore(tmp_path / "runs"), tmp_path / "elsewhere"
    store.save(record("linked"))
    elsewhere.mkdir()
    (store.path / "linked").symlink_to(elsewhere)
    store.delete("linked")
    assert list(store.path.iterdir()) == [] and elsewhere.is_dir()


def test_what_a_destroyed_model_forgot_is_more_than_a_number_holds():
    broken = run("full", before=GENERAL, metrics=GENERAL | {"exact_match": 0.0, "general_loss": 2000.0})
    broken.forgetting["general_loss"] = 1997.0
    assert "times inf" in report([broken]) and "| inf |" in forgotten_in_words([broken])
    assert "times 7.39" in report([run("full", forgot=2.0)])


@pytest.mark.parametrize("text", ["", "{}", '{"argv": []}'])
def test_a_damaged_kernel_is_a_finding(tmp_path, monkeypatch, text):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(text)
    monkeypatch.setattr("jupyter_client.kernelspec.KernelSpecManager.ensure_native_kernel", False)
    monkeypatch.setattr("jupyter_client.kernelspec.jupyter_path", lambda *_: [str(tmp_path / "kernels")])
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    found = doctor._tried("Kernel", doctor._kernel)
    assert found.level == "blocked" and "damaged" in found.value and "ipykernel install" in found.remedy


def test_the_end_of_a_search_is_no_limit(capsys):
    assert main(["fits", "--gpu", "B200", "--model", "smollm2-135m"]) == 0
    assert "32,768 or more | 128 or more" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--max-length", "3"], ["--max-length", "0", "--model", "smollm2-135m"]])
def test_a_length_that_nobody_would_check_is_refused(arguments, capsys):
    assert main(["data", "tickets", *arguments]) == 2
    assert "--max-length must be at least 1, and needs --model" in capsys.readouterr().err


def far(rows):
    return pa.array([pa.scalar(400_000 * 366, pa.date32())] * rows)


@pytest.mark.parametrize("make", [far, lambda rows: pa.array([[("a", 1)]] * rows, pa.map_(pa.string(), pa.int64()))])
def test_a_column_that_cannot_be_decoded_is_named_as_the_reason(tmp_path, make):
    table = pa.table({"prompt": [f"p{n}" for n in range(30)], "completion": [" a"] * 30, "x": make(30)})
    parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(TaskError, match=r"a column cannot be read .* Keep the columns with the texts"):
        load_task(tmp_path / "rows.parquet")


@pytest.mark.parametrize("seed", [None, [1], 1.5])
def test_a_split_has_a_whole_number_as_its_seed(tmp_path, seed):
    (tmp_path / "rows.csv").write_text("prompt,completion\n" + "".join(f"p{n}, c{n}\n" for n in range(30)))
    with pytest.raises(TaskError, match="must be a whole number, so that the split is the same"):
        load_task(tmp_path / "rows.csv", seed=seed)


@pytest.mark.parametrize("names", [{"no": 0, "yes": 1}, {"no", "yes"}, iter(["no", "yes"])])
def test_names_of_labels_have_an_order(tmp_path, names):
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"t{n},{n % 2}\n" for n in range(30)))
    with pytest.raises(TaskError, match="must be a list of names"):
        load_task(tmp_path / "rows.csv", label_names=names)
