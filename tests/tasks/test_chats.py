"""Chats of OpenAI and ShareGPT: written plainly or by a template, with the loss on the turns of the assistant."""

import json
import re

import pytest

from workbench.errors import TaskError
from workbench.tasks import encode, load_task

SHARE = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "One?"},
    {"from": "gpt", "value": "1."},
    {"from": "human", "value": "Two?"},
    {"from": "gpt", "value": "2."},
]
NAMES = {"human": "user", "gpt": "assistant", "system": "system"}
OPENAI = [{"role": NAMES[turn["from"]], "content": turn["value"]} for turn in SHARE]


@pytest.fixture(autouse=True)
def spoken(monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")


def write(path, *chats, column="messages"):
    path.write_text("".join(json.dumps({column: chat}) + "\n" for chat in chats), encoding="utf-8")
    return path


def another(turns, text="Three?"):
    return [{**turn, "content": text} if turn["role"] == "user" else turn for turn in turns]


def fault(*args, **options) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(*args, **options)
    return str(caught.value)


@pytest.mark.parametrize(("column", "chat"), [("messages", OPENAI), ("conversations", SHARE)])
def test_each_answer_is_a_row_and_all_before_it_the_prompt(tmp_path, capsys, column, chat):
    other = json.loads(json.dumps(chat).replace("One?", "Eins?"))
    task = load_task(write(tmp_path / "mine.jsonl", chat, other, column=column), test_fraction=0.5)
    ours = next(side for side in (task.train, task.test) if "One?" in side[0].prompt)
    assert [(row.prompt, row.completion) for row in ours] == [
        ("System: Be brief.\nUser: One?\nAssistant:", " 1."),
        ("System: Be brief.\nUser: One?\nAssistant: 1.\nUser: Two?\nAssistant:", " 2."),
    ]
    assert "4 answers in 2 chats, each a row of its own" in capsys.readouterr().err


def test_a_column_of_chats_may_have_any_name_and_a_system_column(tmp_path):
    rows = [{"dialog": SHARE[1:3], "system": f"Be {i}."} for i in range(4)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_task(tmp_path / "mine.jsonl", prompt="dialog")
    assert {row.prompt for row in (*task.train, *task.test)} == {
        f"System: Be {i}.\nUser: One?\nAssistant:" for i in range(4)
    }


def test_the_models_own_template_writes_the_text(tmp_path, base):
    """Against the template itself: prompt and completion together are what it makes of the whole chat."""
    task = load_task(write(tmp_path / "mine.jsonl", OPENAI, another(OPENAI)), chat=base.tokenizer, test_fraction=0.5)
    rows = next(side for side in (task.train, task.test) if "One?" in side[0].prompt)
    whole = base.tokenizer.apply_chat_template(OPENAI, tokenize=False)
    assert (rows[1].prompt + rows[1].completion + base.tokenizer.eos_token) == whole.rstrip()
    assert rows[0].completion == "1." and rows[0].prompt.endswith("<|im_start|>assistant\n")
    encoded = encode(rows, base.tokenizer, max_length=100)
    ids = base.tokenizer(whole.rstrip(), add_special_tokens=False)["input_ids"]
    assert list(encoded[1].ids) == ids and encoded[1].completion_tokens == 3  # 2, the full stop, end-of-text


def test_calls_of_tools_are_kept_as_text(tmp_path, capsys):
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
    chat = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "no"},
        {"role": "assistant", "content": [{"type": "text", "text": "It is dry."}]},
    ]
    write(tmp_path / "train.jsonl", chat), write(tmp_path / "test.jsonl", another(chat))
    task = load_task(tmp_path)
    text = '{"name": "weather", "arguments": {"city": "Köln"}}'
    assert [row.completion for row in task.train] == [f" {text}", " It is dry."]
    assert task.train[1].prompt.endswith(f"Assistant: {text}\nTool: no\nAssistant:")
    assert "calls of tools are kept as JSON text (chats: 1)" in capsys.readouterr().err


def test_what_follows_the_last_answer_is_said(tmp_path, capsys):
    chat = [*OPENAI, {"role": "user", "content": "Thanks."}]
    load_task(write(tmp_path / "mine.jsonl", chat, another(chat)), test_fraction=0.5)
    assert "what follows the assistant's last turn is not used (chats: 2)" in capsys.readouterr().err


def test_the_answers_of_a_chat_stay_on_one_side(tmp_path):
    chats = [another(OPENAI, f"word{i} of{i} mine{i}") for i in range(20)]
    for seed in range(3):
        task = load_task(write(tmp_path / "mine.jsonl", *chats), seed=seed)
        sides = [{re.search(r"word\d+", row.prompt)[0] for row in side} for side in (task.train, task.test)]
        assert sides[0].isdisjoint(sides[1]) and len(task.test) == 8


CALLS = 'turn 2 has "tool_calls" that are not a list of objects with a name and arguments'


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ("hello", r'row 2: column "messages" must be a list of turns, and holds str'),
        ([], "must be a list of turns, and holds nothing"),
        ([{"role": "user", "content": "a"}], "row 2: no turn of the assistant"),
        ([{"role": "narrator", "content": "a"}], "turn 1 has the role 'narrator'. Known are system, developer, user"),
        ([{"role": ["user"], "content": "a"}], "turn 1 has the role"),
        (["a"], "turn 1 must be an object with a role and a text, and is a str"),
        ([{"role": "user", "content": " "}, {"role": "assistant", "content": "a"}], r"turn 1 \(user\) is empty"),
        ([{"role": "user", "content": 3}], "turn 1 must be text, and is a int"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "turn 1 holds a part of type 'image_url'"),
        ([{"role": "user", "content": "\ud83d"}], r"turn 1 holds half a character"),
        *(
            ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": calls}], CALLS)
            for calls in ("f(1)", 5, ["f"], [{"function": None}], [{"type": "function", "function": "lookup"}])
        ),
    ],
)
def test_a_faulty_chat_is_named(tmp_path, chat, message):
    text = fault(write(tmp_path / "mine.jsonl", OPENAI, chat, chat))
    assert text.startswith(f"{tmp_path}/mine.jsonl, row 2: ") and re.search(message, text) and "same holds" in text


class Template:
    """A tokenizer that is nothing but a chat template."""

    eos_token = "</s>"

    def __init__(self, write):
        self.chat_template, self.write = "{{ messages }}", write

    def apply_chat_template(self, messages, tokenize, add_generation_prompt=False):
        return self.write(messages, add_generation_prompt)


def refuse(messages, _):
    raise ValueError("Roles must alternate.")


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        (Template(refuse), 'chat template refuses this chat: Roles must alternate. Mend it, or use chat="plain"'),
        (Template(lambda messages, _: f"{len(messages)} {messages}"), "writes earlier turns otherwise"),
        (Template(lambda messages, _: "".join(m["content"] for m in messages[1:])), "leaves out a turn of the system"),
        ("llama", "chat='llama' must be \"plain\", or a tokenizer such as base.tokenizer"),
    ],
)
def test_a_template_that_does_not_fit_is_told(tmp_path, chat, message):
    assert message in fault(write(tmp_path / "mine.jsonl", OPENAI, another(OPENAI)), chat=chat)


def test_a_tokenizer_without_a_template_is_told(tmp_path):
    bare = Template(refuse)
    bare.chat_template = None
    assert "has no chat template" in fault(write(tmp_path / "mine.jsonl", OPENAI), chat=bare)
