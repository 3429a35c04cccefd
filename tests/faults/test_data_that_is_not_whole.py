"""Parts of a data set that are missing, names that stand twice, fields of turns, giants: told, or refused."""

import gzip
import json

import pytest

from workbench.errors import TaskError
from workbench.tasks import load_task
from workbench.tasks.reading import texts

ROWS = [{"prompt": f"Ask {letter * 3}", "completion": f" say {letter}"} for letter in "abcdefgh"]


@pytest.fixture
def said(capsys, monkeypatch):
    """Load a task, and what was said meanwhile."""
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    return lambda path, **options: (load_task(path, **options), capsys.readouterr().err)


def write(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        (["00000-of-00003", "00001-of-00003"], ["00002-of-00003"]),
        (["00001-of-00003"], ["00000-of-00003", "00002-of-00003"]),
        (["1-of-4", "3-of-4"], ["2-of-4", "4-of-4"]),
        (["00000-of-99999999999"], ["00001-of-99999999999"]),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_parts_of_a_split_are_named(there, missing, split, tmp_path, said):
    for place, part in enumerate(there):
        write(tmp_path / f"{split}-{part}.jsonl", ROWS[2 * place : 2 * place + 2])
    write(tmp_path / f"{'test' if split == 'train' else 'train'}.jsonl", ROWS[4:])
    _, words = said(tmp_path)
    assert all(f'"{split}-{part}"' in words for part in missing)
    assert "missing part" in words and f'"{split}-{there[0]}"' not in words


@pytest.mark.parametrize("parts", [["00000-of-00002", "00001-of-00002"], ["1-of-2", "2-of-2"]])
def test_a_whole_split_misses_nothing(parts, tmp_path, said):
    for place, part in enumerate(parts):
        write(tmp_path / f"train-{part}.jsonl", ROWS[4 * place : 4 * place + 4])
    assert "missing" not in said(tmp_path)[1]


@pytest.mark.parametrize("name", ["train-00000-of-00002", "data-1-of-2"])
def test_the_other_parts_of_a_file_are_named(name, tmp_path, said):
    other = name.replace("00000-", "00001-").replace("1-of-2", "2-of-2")
    write(tmp_path / f"{other}.jsonl")
    assert f'left unread: file "{other}.jsonl"' in said(write(tmp_path / f"{name}.jsonl"))[1]


@pytest.mark.parametrize("folders", [["data"], ["train", "test"]])
def test_data_in_folders_below_is_found_for_the_person(folders, tmp_path):
    for folder in folders:
        write(tmp_path / folder / "rows.jsonl")
    with pytest.raises(TaskError, match=f'Its folders .*"{folders[0]}".* hold some: give one of them'):
        load_task(tmp_path)


ONE, TWICE = '{"prompt": "a b", "completion": "c"}', '{"prompt": "first", "prompt": "second", "completion": "c"}'


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("x.jsonl", f"{ONE}\n{TWICE}\n", "row 2"),
        ("x.json", f"[{ONE}, {TWICE}]", "x.json"),
        ("x.jsonl", '{"messages": [{"role": "user", "content": "a", "content": "b"}]}\n', "row 1"),
    ],
)
def test_a_name_that_stands_twice_in_an_object_is_refused(name, text, where, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(TaskError, match=f'{where}: .*"(prompt|content)" stands twice'):
        load_task(tmp_path / name)


@pytest.mark.parametrize(
    "field", [{"weight": 0}, {"reasoning_content": "well"}, {"train": False}, {"images": ["a.png"]}]
)
@pytest.mark.parametrize("keys", [("role", "content"), ("from", "value")])
def test_fields_of_turns_that_are_not_read_are_named(field, keys, tmp_path, said):
    def chat(word):
        asked, answered = (dict(zip(keys, turn, strict=True)) for turn in (("user", word), ("assistant", f"a {word}")))
        return {"messages": [asked, answered | field | {"refusal": None, "audio": {}}]}

    _, words = said(write(tmp_path / "chats.jsonl", [chat(word) for word in ("ant", "bee", "cat", "dog")]))
    assert f'left unread in turns: "{next(iter(field))}".' in words


def test_labels_that_differ_in_case_or_spaces_are_told(tmp_path, said):
    rows = [
        {"text": f"about {row['prompt']}", "label": label} for row, label in zip(ROWS, "ab" * 3 + "BB", strict=True)
    ]
    task, words = said(write(tmp_path / "x.jsonl", rows))
    assert task.labels == ("B", "a", "b") and "the labels 'B' and 'b' differ in case or spaces alone" in words


@pytest.mark.parametrize("packed", [True, False])
def test_more_than_the_memory_holds_is_refused_before_it_is_there(packed, tmp_path, monkeypatch):
    file = tmp_path / ("x.jsonl.gz" if packed else "x.jsonl")
    with gzip.open(file, "wb") if packed else file.open("wb") as stream:
        for _ in range(40):
            stream.write(b"\n" * 1_000_000)
    monkeypatch.setattr(texts, "MEMORY_A_BYTE", 100_000)
    with pytest.raises(TaskError, match=r"do not fit into the memory of this computer\. Give a part of it"):
        load_task(file)


@pytest.mark.parametrize(
    "options", [{"test_fraction": "x"}, {"label_names": 3}, {"label_names": "ab"}, {"prompt": 3}, {"completion": b"x"}]
)
def test_arguments_of_another_type_are_refused(options, tmp_path):
    with pytest.raises(TaskError, match=f"{next(iter(options))}.* must"):
        load_task(write(tmp_path / "x.jsonl"), **options)
