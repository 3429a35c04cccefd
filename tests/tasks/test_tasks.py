"""Loading people's own data, its faults named; tokens, batches and tensors."""

import json
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from workbench.errors import TaskError
from workbench.tasks import Encoded, Example, batches, collate, encode, load_task

ROWS = [{"prompt": f"Question {i}?", "completion": f" answer {i % 3}"} for i in range(10)]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def fault(*args, **kwargs) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(*args, **kwargs)
    return str(caught.value)


# --- loading


def test_built_in_task_says_where_it_came_from_and_previews():
    task = load_task("tickets")
    assert task.name == task.source == "tickets" and len(task.labels) == 12
    assert re.fullmatch(r"[0-9a-f]{64}", task.sha256) and task.sha256 == load_task("tickets").sha256
    preview = task.preview(2)
    assert preview.count("⟶") == 2 and task.test[1].prompt in preview


def test_one_file_is_split_by_seed(tmp_path):
    path = write_jsonl(tmp_path / "mine.jsonl", ROWS)
    task = load_task(path, test_fraction=0.3, seed=1)
    assert (task.name, len(task.train), len(task.test), task.labels) == ("mine", 7, 3, None)
    assert task == load_task(path, test_fraction=0.3, seed=1)
    assert task.test != load_task(path, test_fraction=0.3, seed=2).test
    assert {row.prompt for row in (*task.train, *task.test)} == {row["prompt"] for row in ROWS}


def test_csv_with_own_column_names_quotes_commas_newlines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_bytes('\ufeffquestion,answer,note\n"a, b\nc?", yes,x\nd?, no,y\n'.encode())
    task = load_task(path, prompt="question", completion="answer", test_fraction=0.5, labelled=True)
    assert {*task.train, *task.test} == {Example("a, b\nc?", " yes"), Example("d?", " no")}
    assert task.labels == ("no", "yes")


def test_a_whole_emoji_is_kept(tmp_path):
    path = write_jsonl(tmp_path / "mine.jsonl", [*ROWS, {"prompt": "Glad?", "completion": " 😀"}])
    assert "\\ud83d\\ude00" in path.read_text(encoding="utf-8")  # JSON writes it as two halves
    task = load_task(path)
    assert Example("Glad?", " 😀") in {*task.train, *task.test}


def test_folder_with_train_and_test_files(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", ROWS[:6])
    (tmp_path / "test.csv").write_text("prompt,completion\nNew?, answer\n", encoding="utf-8")
    task = load_task(tmp_path)
    assert (len(task.train), task.test) == (6, (Example("New?", " answer"),))


def test_a_repeated_prompt_stays_on_one_side_of_the_split(tmp_path):
    path = write_jsonl(tmp_path / "mine.jsonl", [{"prompt": f"q{i // 3}", "completion": f" {i}"} for i in range(30)])
    for seed in range(5):
        load_task(path, seed=seed)  # would raise on a shared prompt


# --- faults, each with file, row and remedy


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"}', r'row 2: no column "completion" \(columns: prompt\).*completion="answer"'),
        ('{"prompt": "a", "completion": "  "}', 'row 2: column "completion" is empty'),
        ('{"prompt": "a", "completion": 3}', 'row 2: column "completion" must be text, and holds int'),
        ('{"prompt": null, "completion": "b"}', 'row 2: column "prompt" must be text, and holds nothing'),
        (r'{"prompt": "a", "completion": "x\ud83d"}', r'row 2: column "completion" holds half .*\\ud83d'),
        ('{"prompt": "a", ', r"row 2: bad JSON \(.*character \d+\)"),
        ('["a", "b"]', "row 2: a list, but each row must be one JSON object"),
        ('{"prompt": ' + "9" * 5000 + "}", "row 2: JSON that cannot be read"),
        ("[" * 100_000, "row 2: JSON that cannot be read"),
    ],
)
def test_a_faulty_jsonl_row_is_named(tmp_path, line, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + line + "\n", encoding="utf-8")
    text = fault(path)
    assert text.startswith(str(path)) and re.search(message, text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt,wanted\na,b\n", r'row 1: no column "completion" \(columns: prompt, wanted\).*completion="wanted"'),
        ("prompt,completion\na,b\nc\n", 'row 2: column "completion" must be text, and holds nothing'),
        ("prompt,completion\na,b,c\n", "row 1: more fields than the header has"),
        ('prompt,completion\n"a"b,c\n', "line 2: bad CSV"),
        ("prompt,completion,completion\na,b,c\n", 'the header names column "completion" twice'),
        ("prompt,completion\n", "no rows"),
        ("", "no rows"),
    ],
)
def test_a_faulty_csv_row_is_named(tmp_path, content, message):
    path = tmp_path / "mine.csv"
    path.write_text(content, encoding="utf-8")
    assert re.search(message, fault(path))


def test_all_rows_with_the_same_fault_are_counted(tmp_path):
    rows = [*ROWS[:2], *({**row, "completion": " "} for row in ROWS[2:])]
    text = fault(write_jsonl(tmp_path / "mine.jsonl", rows))
    assert 'row 3: column "completion" is empty. The same holds for 7 rows (4, 5, 6, 7, 8, ...)' in text


@pytest.mark.parametrize("rows", [0, -1])
def test_a_head_of_nothing_is_refused(rows):
    with pytest.raises(TaskError, match=f"head\\({rows}\\) leaves no rows"):
        load_task("facts").head(rows)


def test_duplicates_across_splits_are_refused(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "test.jsonl", [{"prompt": "New?", "completion": " x"}, ROWS[4]])
    assert "test row 2 has the prompt of train row 5" in fault(tmp_path)
    write_jsonl(tmp_path / "test.jsonl", [{"prompt": "New?", "completion": " x"}, *ROWS[4:7]])
    assert "The same holds for 2 more of the 4 test rows." in fault(tmp_path)


def test_unusable_places_say_what_to_give(tmp_path):
    assert "no such file or folder" in fault("nowhere/mine.csv")
    assert "no file in this folder that can be read (.jsonl, .json, .csv" in fault(tmp_path)
    (tmp_path / "mine.xlsx").write_bytes(b"PK")
    assert ".xlsx file type. Give a .jsonl, .json, .csv, .tsv, .parquet file." in fault(tmp_path / "mine.xlsx")
    for name in ("train.jsonl", "train.csv"):
        (tmp_path / name).touch()
    assert "both train.jsonl and train.csv. Keep one of them." in fault(tmp_path)


def test_a_split_needs_a_fraction_and_two_prompts(tmp_path):
    path = write_jsonl(tmp_path / "mine.jsonl", ROWS)
    assert "between 0 and 1, not 1.5" in fault(path, test_fraction=1.5)
    assert "two different prompts" in fault(write_jsonl(tmp_path / "one.jsonl", ROWS[:1]))


def test_an_unknown_name_without_network_is_one_clear_sentence():
    text = fault("nobody/no-such-data")
    assert '"nobody/no-such-data"' in text and "built in: orders, tickets, facts, protocol" in text
    assert "the network" in text and "\n" not in text


def test_a_hub_dataset_that_cannot_be_read_is_one_clear_sentence(tmp_path, monkeypatch):
    import datasets

    folder, real = tmp_path / "data", datasets.load_dataset
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n', encoding="utf-8")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: real(str(folder), cache_dir=str(tmp_path / "cache")))
    text = fault("somebody/broken-data")
    assert '"somebody/broken-data"' in text and "dataset: JSON parse error" in text and "\n" not in text


# --- tokens


def test_encode_joins_prompt_completion_and_end_of_text(base):
    row = Example("Where is it?\nIntent:", " track parcel")
    (encoded,) = encode([row], base.tokenizer, max_length=32)
    assert base.tokenizer.decode(encoded.ids[: encoded.prompt_length]) == row.prompt
    target = encoded.ids[encoded.prompt_length :]
    assert base.tokenizer.decode(target[:-1]) == row.completion and target[-1] == base.tokenizer.eos_token_id


@pytest.mark.parametrize("name", ["orders", "tickets", "facts", "protocol"])
def test_prompt_and_completion_meet_at_a_token_boundary(base, name):
    """Tokenized apart or together, the ids are the same: nothing at the boundary is out of the ordinary."""
    rows = load_task(name).test[:50]
    together = base.tokenizer([row.prompt + row.completion for row in rows])["input_ids"]
    assert [list(row.ids[:-1]) for row in encode(rows, base.tokenizer, max_length=128)] == together


class AddsBeginning:
    """The packaged tokenizer, but adding a beginning-of-text token by itself, as Llama's does."""

    def __init__(self, tokenizer):
        self.tokenizer, self.bos_token_id, self.eos_token_id = tokenizer, 1, 2

    def __call__(self, text, add_special_tokens=True):
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not add_special_tokens:
            return {"input_ids": ids}
        return {"input_ids": [1, *ids] if isinstance(text, str) else [[1, *row] for row in ids]}


def test_beginning_of_text_comes_once_and_only_if_the_tokenizer_adds_it(base):
    rows = [Example("a b", " c"), Example("d", " e f")]
    plain, with_start = (encode(rows, tokenizer, 16) for tokenizer in (base.tokenizer, AddsBeginning(base.tokenizer)))
    for one, two in zip(plain, with_start, strict=True):
        assert two.ids == (1, *one.ids[:-1], 2) and two.prompt_length == one.prompt_length + 1


def test_a_prompt_without_tokens_is_refused(base):
    """Its first token would be predicted from the end of another row of the batch."""
    with pytest.raises(TaskError, match=r"Row 2 .*the prompt has no tokens"):
        encode([Example("a", " b"), Example("", " b")], base.tokenizer, 100)


def test_a_row_that_is_too_long_is_named(base):
    rows = [Example("short", " row"), Example("word " * 40, " row")]
    with pytest.raises(TaskError, match=r"Row 2 \('word word.*\d+ tokens, but max_length is 20"):
        encode(rows, base.tokenizer, max_length=20)
    with pytest.raises(TaskError, match=r"^Test row 2 .*2 more rows cannot be used either\.$"):
        encode([*rows, rows[1], rows[0], rows[1]], base.tokenizer, max_length=20, what="Test row")


# --- batches and tensors


def test_batches_are_whole_epochs_in_new_orders_and_depend_on_the_seed_alone():
    order = batches(10, 4, 5, seed=3)
    assert [len(batch) for batch in order] == [4] * 5
    flat = [index for batch in order for index in batch]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10)) and flat[:10] != flat[10:]
    assert order == batches(10, 4, 5, seed=3) != batches(10, 4, 5, seed=4)
    assert batches(10, 4, 7, seed=3)[:5] == order, "a longer run starts with the same batches"
    assert batches(3, 8, 1, seed=0)[0][:3] != [], "a batch may be larger than the data"
    assert len(batches(3, 8, 1, seed=0)[0]) == 8 and batches(3, 8, 0, seed=0) == []
    with pytest.raises(ValueError, match="not 0 and 4"):
        batches(0, 4, 1, seed=0)


def test_collate_points_at_the_position_before_each_completion_token():
    batch = collate([Encoded((5, 6, 7, 2), 2), Encoded((8, 9, 2), 1), Encoded((4, 3, 2, 1, 2), 4)], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 2, 0], [8, 9, 2, 0, 0], [4, 3, 2, 1, 2]]
    assert batch["rows"].tolist() == [0, 0, 1, 1, 2]
    assert batch["columns"].tolist() == [1, 2, 0, 1, 3]
    assert batch["targets"].tolist() == [7, 2, 9, 2, 2]
    assert batch["input_ids"][batch["rows"], batch["columns"] + 1].equal(batch["targets"])
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_gathered_loss_runs_on_the_meta_device():
    batch = collate([Encoded((5, 6, 7, 2), 2), Encoded((8, 9, 2), 1)], pad_id=0)
    batch = {key: tensor.to("meta") for key, tensor in batch.items()}
    hidden = nn.Embedding(16, 8, device="meta")(batch["input_ids"])
    logits = nn.Linear(8, 16, device="meta")(hidden[batch["rows"], batch["columns"]])
    nn.functional.cross_entropy(logits, batch["targets"]).backward()
    assert logits.shape == (4, 16)


def test_gathered_loss_equals_the_models_own_masked_loss(base):
    """Against transformers' loss with prompt and padding masked by -100."""
    encoded = encode(load_task("facts").test[:4], base.tokenizer, max_length=64)
    batch = collate(encoded, base.tokenizer.eos_token_id)
    labels = torch.full_like(batch["input_ids"], -100)
    labels[batch["rows"], batch["columns"] + 1] = batch["targets"]
    with torch.no_grad():
        whole = base.model(input_ids=batch["input_ids"], labels=labels)
    gathered = whole.logits[batch["rows"], batch["columns"]].float()
    assert nn.functional.cross_entropy(gathered, batch["targets"]).item() == pytest.approx(whole.loss.item(), rel=1e-5)


def test_reading_a_task_imports_no_torch():
    """Reading and checking data is quick to start, and `docs` reads packages that it must not import."""
    code = "import sys; from workbench.tasks import load_task; load_task('orders'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
