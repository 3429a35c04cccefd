"""Data as people have it: formats, encodings, dialects, layouts of columns, and the sentence that each fault gets."""

import gzip
import json
import re

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from workbench.errors import TaskError
from workbench.tasks import Example, load_task

ROWS = [{"prompt": f"Größe {i}?", "completion": f" {i} Maß"} for i in range(8)]
PAIRS = {Example(row["prompt"], row["completion"]) for row in ROWS}


@pytest.fixture(autouse=True)
def spoken(monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")


def lines(rows=ROWS) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows=ROWS, delimiter=",") -> str:
    return "\n".join(delimiter.join(map(str, row)) for row in ([*rows[0]], *(row.values() for row in rows))) + "\n"


def all_rows(*args, **options) -> set[Example]:
    task = load_task(*args, **options)
    return {*task.train, *task.test}


def fault(*args, **options) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(*args, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- files


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.json"])
@pytest.mark.parametrize("content", [lines(), json.dumps(ROWS), json.dumps(ROWS, indent=2)])
def test_json_lines_and_a_json_list_are_told_apart_by_their_content(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert all_rows(tmp_path / name) == PAIRS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"rows": [\n{"prompt": "a"}\n]}', 'one JSON object over several lines.*Save the list under "rows" as a file'),
        ('{\n"a": 1\n}', "one JSON object over several lines.*Write one object a line"),
        ('[{"prompt": "a"},\n nonsense]', r"line 2: bad JSON \(.* at character 2\).*Write a list of objects"),
        ('[{"prompt": "a", "completion": "b"}, "c"]', "row 2: a str, but each row must be one JSON object"),
        ("[]", "no rows"),
    ],
)
def test_faults_of_a_json_list(tmp_path, content, message):
    (tmp_path / "mine.json").write_text(content, encoding="utf-8")
    assert re.search(message, fault(tmp_path / "mine.json"))


@pytest.mark.parametrize("mark", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["mine.csv", "mine.jsonl"])
def test_byte_order_marks_decide_the_encoding(tmp_path, capsys, mark, name):
    (tmp_path / name).write_bytes((table() if name == "mine.csv" else lines()).encode(mark))
    assert all_rows(tmp_path / name) == PAIRS
    said = capsys.readouterr().err
    assert ("read as" in said) == (mark != "utf-8-sig") and ("UTF-16" in said) == (mark == "utf-16")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_recognised(tmp_path, capsys, encoding):
    (tmp_path / "mine.csv").write_bytes(table().encode(encoding))
    assert all_rows(tmp_path / "mine.csv") == PAIRS
    assert "read as UTF-16" in capsys.readouterr().err


def test_windows_1252_is_read_and_said_with_a_line_to_check(tmp_path, capsys):
    rows = [*ROWS, {"prompt": "Was kostet es?", "completion": " 5 €"}]
    (tmp_path / "mine.csv").write_bytes(table(rows).encode("cp1252"))
    assert Example("Was kostet es?", " 5 €") in all_rows(tmp_path / "mine.csv")
    said = capsys.readouterr().err
    assert "not UTF-8, so it was read as Windows-1252; check this line: 'Größe 0?, 0 Maß'" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"prompt,completion\na,\x81\x8d\n", "line 2: neither UTF-8, UTF-16 nor Windows-1252 text. Save the file"),
        ("\ufeffprompt".encode("utf-16-le") + b"\x00\xd8", "line 1: not the UTF-16 text that it begins as"),
        (b"\xef\xbb\xbfprompt,completion\na,\xff\n", "line 2: not the UTF-8 text that it begins as"),
    ],
)
def test_bytes_that_are_no_text_are_a_sentence(tmp_path, content, message):
    (tmp_path / "mine.csv").write_bytes(content)
    assert message in fault(tmp_path / "mine.csv")


@pytest.mark.parametrize("name", ["mine.csv", "mine.jsonl", "mine.tsv"])
def test_gzip_is_unpacked(tmp_path, name):
    content = {"mine.csv": table(), "mine.jsonl": lines(), "mine.tsv": table(delimiter="\t")}[name]
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    task = load_task(tmp_path / f"{name}.gz")
    assert {*task.train, *task.test} == PAIRS and task.name == "mine"


def test_half_a_gzip_file_is_a_sentence(tmp_path):
    (tmp_path / "mine.csv.gz").write_bytes(gzip.compress(table().encode())[:-12])
    assert "the gzip file is damaged" in fault(tmp_path / "mine.csv.gz")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('prompt;completion\n"a; b";" c"\n"d ""e""";f\ng;h', {("a; b", " c"), ('d "e"', "f"), ("g", "h")}),
        ('prompt\tcompletion\r\na, b\tc\r\n"d\r\ne"\tf\r\n', {("a, b", "c"), ("d\ne", "f")}),
        ("prompt|completion\na|b\nc|d\n", {("a", "b"), ("c", "d")}),
        ("sep=;\nprompt;completion\na,b;c\nd;e\n", {("a,b", "c"), ("d", "e")}),
        ("'prompt','completion'\n'a, b','it''s'\n'c','d'\n", {("a, b", "it's"), ("c", "d")}),
        ('prompt,completion\n"say \\"a\\", b",c\nd,e\n', {('say "a", b', "c"), ("d", "e")}),
        ('"prompt", "completion"\n"a, b", "c"\n"d", "e"\n', {("a, b", "c"), ("d", "e")}),
        ("prompt,completion\n\na,b\n\nNA,None\n\n", {("a", "b"), ("NA", "None")}),
        ("prompt , completion,\na,b,1\nc,d,2\n", {("a", "b"), ("c", "d")}),
        ("prompt,completion\ra,b\rc,d\r", {("a", "b"), ("c", "d")}),
    ],
)
def test_any_dialect_of_csv(tmp_path, content, expected):
    (tmp_path / "mine.csv").write_bytes(content.encode())
    assert {(row.prompt, row.completion) for row in all_rows(tmp_path / "mine.csv", test_fraction=0.5)} == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt;completion\na;b\n\na;b;c\n", "row 3: more fields than the header has. Quote texts with semicolons"),
        ('prompt,completion\na,b\n"c,d\ne,f\n', "line 4: bad CSV .* Look for a quote that is not closed"),
        ("prompt,completion\na,b\n,\n", 'row 2: column "prompt" is empty'),
    ],
)
def test_faults_of_csv_name_the_row(tmp_path, content, message):
    (tmp_path / "mine.csv").write_text(content, encoding="utf-8")
    assert re.search(message, fault(tmp_path / "mine.csv"))


def test_parquet_with_the_names_of_its_classes(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["Versand", "Rückgabe"])})
    data = Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 1, 1, 0]}, features=features)
    data.to_parquet(str(tmp_path / "mine.parquet"))
    task = load_task(tmp_path / "mine.parquet")
    assert task.labels == ("Rückgabe", "Versand") and Example("Text: b\nLabel:", " Rückgabe") in {
        *task.train,
        *task.test,
    }


def test_a_damaged_parquet_file_is_a_sentence(tmp_path):
    (tmp_path / "mine.parquet").write_bytes(b"PAR1 and no more")
    assert "no readable parquet file" in fault(tmp_path / "mine.parquet")


# --- folders


def test_a_folder_of_files_without_names_of_splits_is_one_data_set(tmp_path, capsys):
    (tmp_path / "january.csv").write_text(table(ROWS[:4]), encoding="utf-8")
    (tmp_path / "february.jsonl.gz").write_bytes(gzip.compress(lines(ROWS[4:]).encode()))
    assert all_rows(tmp_path) == PAIRS
    assert "2 files read as one" in capsys.readouterr().err


def test_the_parts_of_a_split_are_read_together(tmp_path):
    for part, rows in enumerate((ROWS[:3], ROWS[3:6])):
        Dataset.from_list(rows).to_parquet(str(tmp_path / f"train-0000{part}-of-00002.parquet"))
    Dataset.from_list(ROWS[6:]).to_parquet(str(tmp_path / "test-00000-of-00001.parquet"))
    task = load_task(tmp_path)
    assert (len(task.train), len(task.test)) == (6, 2)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\na,b\n")
    (tmp_path / "b.csv").write_text("name,price\na,b\n")
    assert "have other columns: prompt, completion and name, price. Give one file." in fault(tmp_path)
    (tmp_path / "a.csv").rename(tmp_path / "test.csv")
    assert "no file called train, such as train.jsonl or train.csv" in fault(tmp_path)


@pytest.mark.parametrize("tested", ["test", "validation", None])
def test_a_folder_that_datasets_saved(tmp_path, tested):
    if tested:
        data = DatasetDict({"train": Dataset.from_list(ROWS[:6]), tested: Dataset.from_list(ROWS[6:])})
    else:
        data = Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "saved"))
    task = load_task(tmp_path / "saved")
    assert {*task.train, *task.test} == PAIRS and len(task.test) == 2


def test_a_damaged_folder_of_datasets_is_a_sentence(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "dataset_info.json").write_text("{")
    assert "this saved data set cannot be read" in fault(tmp_path / "saved")


# --- layouts


def test_alpaca_with_and_without_input(tmp_path, capsys):
    rows = [{"instruction": f"Say {i}", "input": "here" if i % 2 else "", "output": str(i)} for i in range(6)]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    found = {row.completion: row.prompt for row in all_rows(tmp_path / "mine.json")}
    assert "paired with an input" in found["1"] and found["1"].endswith("### Input:\nhere\n\n### Response:\n")
    assert "paired" not in found["0"] and found["0"].endswith("### Instruction:\nSay 0\n\n### Response:\n")
    assert "read as Alpaca" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("columns", "first"),
    [
        (("question", "answer"), ("Question: q0\nAnswer:", " a0")),
        (("Text", "Category"), ("Text: q0\nCategory:", " a0")),
        (("prompt", "response"), ("Prompt: q0\nResponse:", " a0")),
    ],
)
def test_pairs_of_columns_that_are_known_by_name(tmp_path, capsys, columns, first):
    rows = [dict(zip(columns, (f"q{i}", f"a{i % 2}"), strict=True)) for i in range(4)]
    (tmp_path / "mine.csv").write_text(table(rows))
    task = load_task(tmp_path / "mine.csv")
    assert Example(*first) in {*task.train, *task.test}
    assert f'read as "{columns[0]}" and "{columns[1]}"' in capsys.readouterr().err
    assert task.labels == (("a0", "a1") if columns[1] == "Category" else None)


def test_a_mapping_overrides_what_was_recognised(tmp_path):
    rows = [{"text": f"t{i}", "label": i % 2, "title": f"T {i}"} for i in range(6)]
    (tmp_path / "mine.jsonl").write_text(lines(rows))
    mapping = {"prompt": "{title}: {text}\nKind:", "completion": " {label}"}
    task = load_task(tmp_path / "mine.jsonl", **mapping, label_names=["spam", "ham"])
    assert Example("T 1: t1\nKind:", " ham") in {*task.train, *task.test} and task.labels == ("ham", "spam")
    assert load_task(tmp_path / "mine.jsonl").labels == ("0", "1")


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            {"text": "a", "label": 2},
            {"label_names": ["x", "y"]},
            "row 3: column \"label\" holds '2', but the 2 label_n",
        ),
        ({"text": "a", "label": "b"}, {}, 'row 1: column "label" must be text, and holds int.*same holds for row 2'),
        ({"text": "a", "label": 0.5}, {}, 'row 1: column "label" must be text, and holds int'),
        ({"text": ["a"], "label": 1}, {}, 'row 3: column "text" must be text, and holds list'),
        ({"text": "a", "label": None}, {}, 'row 3: column "label" must be text, and holds nothing'),
        ({"text": "a", "label": 1}, {"chat": "plain"}, "chat= is for chats, and .*mine.jsonl holds"),
        ({"text": "a", "label": 1}, {"prompt": "{title}"}, 'no column "title"'),
        ({"text": "a", "label": "b"}, {"prompt": "{text} {titel}", "completion": "{label}"}, 'no column "titel"'),
    ],
)
def test_faults_of_labels_and_mappings(tmp_path, row, options, message):
    rows = [{"text": "t0", "label": 0}, {"text": "t1", "label": 1}, row]
    (tmp_path / "mine.jsonl").write_text(lines(rows))
    assert re.search(message, fault(tmp_path / "mine.jsonl", **options))


def test_one_class_only_is_refused(tmp_path):
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(f"t{i},spam\n" for i in range(9)))
    assert "all 9 rows have the label 'spam', so there is nothing to tell apart" in fault(tmp_path / "mine.csv")


def test_columns_that_tell_nothing_are_listed_with_the_call_that_names_them(tmp_path):
    (tmp_path / "mine.csv").write_text("Nachricht;Rubrik\na;b\nc;d\n")
    text = fault(tmp_path / "mine.csv")
    assert (
        '(columns: Nachricht, Rubrik). Name yours, e.g. load_task(..., prompt="Nachricht", completion="Rubrik")' in text
    )
    (tmp_path / "mine.csv").write_text("question;input;answer\na;b;c\n")
    assert "(columns: question, input, answer)" in fault(tmp_path / "mine.csv")
