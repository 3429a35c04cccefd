"""What lies in a person's data and is not read is named; what cannot be read is told in a sentence.

Reported for others as Lightning-AI/litgpt#1951 and #2010, huggingface/autotrain-advanced#462 and #591.
"""

import json
import os
import sys

import datasets
import pytest
from datasets import Dataset, DatasetDict

from workbench.errors import TaskError
from workbench.tasks import Example, load_task

ROWS = [{"prompt": f"Ask {i}", "completion": f" say {i % 3}"} for i in range(8)]
OTHERS = [{"prompt": f"Other {i}", "completion": " x"} for i in range(3)]


@pytest.fixture(autouse=True)
def spoken(monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")


@pytest.fixture
def said(capsys):
    """Load a task, and what was said meanwhile."""

    def load(*args, **options):
        task = load_task(*args, **options)
        return task, capsys.readouterr().err

    return load


def write(path, rows=ROWS):
    if path.suffix.lower() == ".csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- columns


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("column", ["context", "input", "system"])
def test_a_column_that_holds_text_in_some_rows_is_named(tmp_path, said, suffix, column):
    rows = [{**row, column: "Read this." if i == 5 else ""} for i, row in enumerate(ROWS)]
    _, words = said(write(tmp_path / f"mine{suffix}", rows))
    assert f'left unread: column "{column}". What the model should read belongs into the prompt.' in words
    assert words.count("\n") == 1


def test_several_columns_are_one_line_and_empty_ones_are_none(tmp_path, said):
    rows = [{"q": f"{i}?", "a": "b", "turns": [{"role": "user"}], "n": i, "none": None, "no": ""} for i in range(4)]
    _, words = said(write(tmp_path / "mine.jsonl", rows), prompt="q", completion="a")
    assert 'left unread: column "turns", "n".' in words
    many = [{**row, **{f"column {n}": "x" for n in range(9)}} for row in ROWS]
    assert '"column 5" and 3 more.' in said(write(tmp_path / "mine.csv", many))[1]


def test_nothing_is_said_where_all_is_read(tmp_path, said):
    assert said(write(tmp_path / "mine.jsonl"))[1] == ""
    write(tmp_path / "train.jsonl"), write(tmp_path / "test.csv", OTHERS)
    (tmp_path / "mine.jsonl").unlink()
    (tmp_path / "README.md").write_text("words")
    (tmp_path / ".hidden").write_text("words")
    assert said(tmp_path)[1] == ""
    for name in ("orders", "tickets", "facts", "protocol"):
        assert said(name)[1] == ""


# --- files


@pytest.mark.parametrize("name", ["validation.jsonl", "valid.csv", "val.jsonl", "dev.csv", "Eval.JSONL"])
def test_validation_rows_are_the_test_where_there_is_no_other(tmp_path, said, name):
    write(tmp_path / "train.jsonl"), write(tmp_path / name, OTHERS)
    task, words = said(tmp_path)
    assert [row.prompt for row in task.test] == ["Other 0", "Other 1", "Other 2"] and len(task.train) == len(ROWS)
    assert f'"{name}" holds the test rows' in words and "unread" not in words


@pytest.mark.parametrize("name", ["validation.jsonl", "train-2.jsonl", "test.xlsx", "dev.csv", "more"])
def test_other_files_of_a_folder_are_named(tmp_path, said, name):
    write(tmp_path / "train.jsonl"), write(tmp_path / "test.jsonl", OTHERS)
    (tmp_path / name).mkdir() if name == "more" else write(tmp_path / name)
    task, words = said(tmp_path)
    assert f'left unread: file "{name}"' in words and len(task.test) == 3


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("train.jsonl", "test.jsonl"),
        ("train.csv", "validation.json"),
        ("my-train.csv", "my-dev.csv"),
        ("Train.jsonl", "VAL.csv"),
    ],
)
def test_files_beside_the_one_that_was_given_are_named(tmp_path, said, name, beside):
    write(tmp_path / name), write(tmp_path / beside), write(tmp_path / "unlike.csv")
    _, words = said(tmp_path / name)
    assert f'left unread: file "{beside}".' in words


def test_a_fraction_is_named_where_test_rows_are_there(tmp_path, said):
    write(tmp_path / "train.jsonl"), write(tmp_path / "test.jsonl", OTHERS)
    assert "test_fraction is not used, since there are test rows" in said(tmp_path, test_fraction=0.5)[1]


# --- splits of the Hub


@pytest.mark.parametrize("split", ["validation", "dev", "val", "eval"])
def test_a_hub_dataset_without_a_test_split_is_tested_on_its_validation(monkeypatch, said, split):
    parts = DatasetDict({"train": Dataset.from_list(ROWS), split: Dataset.from_list(OTHERS)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: parts)
    task, words = said("somebody/data")
    assert len(task.train) == 8 and [row.prompt for row in task.test] == ["Other 0", "Other 1", "Other 2"]
    assert f'somebody/data: "{split}" holds the test rows' in words


def test_other_splits_and_columns_of_the_hub_are_named(monkeypatch, said):
    extra = Dataset.from_list([{**row, "context": "c"} for row in ROWS])
    parts = DatasetDict({"train": extra, "test": Dataset.from_list(OTHERS), "validation": extra, "raw": extra})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: parts)
    assert 'left unread: column "context"; split "validation", "raw".' in said("somebody/data")[1]


# --- prompts that are nearly the same


@pytest.mark.parametrize("near", ["ask 4", "Ask  4", " Ask 4\n", "ASK\u00a04"])
def test_prompts_that_differ_in_case_or_spaces_across_splits_are_told(tmp_path, said, near):
    write(tmp_path / "train.jsonl"), write(tmp_path / "test.jsonl", [*OTHERS, {"prompt": near, "completion": "x"}])
    _, words = said(tmp_path)
    assert (
        "1 of 4 test prompts differ from a train prompt in case or spaces alone, first test row 4 from train row 5"
        in words
    )


def test_such_prompts_stay_on_one_side_of_a_split(tmp_path, said):
    pairs = [
        {"prompt": form.format(i), "completion": "x"}
        for i in range(9)
        for form in ("Ask {}", "ask  {}", "caf\u00e9 {}")
    ]
    pairs += [{"prompt": f"cafe\u0301 {i}", "completion": "x"} for i in range(9)]
    for seed in range(4):
        assert said(write(tmp_path / "mine.jsonl", pairs), seed=seed)[1] == ""


# --- what cannot be read


def fault(*args, **options) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(*args, **options)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    return text


@pytest.mark.parametrize("name", ["a" * 5000, "b/" * 3000 + "c.csv", "x" * 300 + ".jsonl", "owner/" + "n" * 400])
def test_a_name_of_any_length_is_a_sentence(name):
    fault(name)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x.csv", "~nobody-of-this-name", "", "  ", "a\0b", "\udcff.csv"])
def test_odd_names_are_a_sentence(name):
    fault(name)


def test_a_home_that_is_not_there_is_a_sentence(monkeypatch):
    def unknown(_):
        raise KeyError

    accounts = pytest.importorskip("pwd")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(accounts, "getpwuid", unknown)
    assert "its ~ names no home folder here" in fault("~/mine.csv")


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "geteuid"), reason="needs Unix permissions")
@pytest.mark.parametrize("where", ["file", "folder", "file in a locked folder"])
def test_what_may_not_be_read_is_a_sentence(tmp_path, where):
    folder = tmp_path / "locked"
    folder.mkdir()
    file = write(folder / "train.jsonl")
    locked = file if where == "file" else folder
    locked.chmod(0)
    tmp_path.chmod(0o755), tmp_path.parent.chmod(0o755), tmp_path.parent.parent.chmod(0o755)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        assert "cannot be read: you may not read it" in fault(folder if where == "folder" else file)
    finally:
        if root:
            os.seteuid(0)
        locked.chmod(0o755)


@pytest.mark.parametrize("name", ["json", "csv", "parquet", "text", "imagefolder", "webdataset", "hdf5"])
def test_the_name_of_a_format_reads_nothing_of_this_folder(tmp_path, monkeypatch, name):
    (tmp_path / "private").mkdir()
    for suffix in ("jsonl", "csv", "txt"):
        write(tmp_path / "private" / f"letters.{suffix}")
    monkeypatch.chdir(tmp_path)
    assert f'No built-in task, file, folder or Hub dataset is called "{name}"' in fault(name)


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'h5py'"), KeyError("x"), EOFError(), RuntimeError("a\nb")]
)
def test_any_fault_of_the_hub_reader_is_a_sentence(monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    assert 'is called "somebody/data", and it could not be read as a Hub dataset' in fault("somebody/data")


def test_a_subset_is_of_the_hub(tmp_path):
    assert "subset='main' is for Hub datasets" in fault(write(tmp_path / "mine.jsonl"), subset="main")
    assert "subset='main' is for Hub datasets" in fault("orders", subset="main")


def test_capitals_in_a_suffix_are_the_same_kind_of_file(tmp_path):
    task = load_task(write(tmp_path / "MINE.CSV"))
    assert Example("Ask 0", " say 0") in {*task.train, *task.test}
