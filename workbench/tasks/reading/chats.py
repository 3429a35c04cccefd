"""Chats: each turn of the assistant is a completion, and its prompt is all that was said before it.

Read are lists of `role` and `content` (OpenAI, Hugging Face) and of `from` and `value` (ShareGPT).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.console import first_line
from workbench.errors import TaskError
from workbench.tasks.reading.files import listed
from workbench.tasks.reading.layouts import half_character, refuse
from workbench.tasks.reading.tables import Row, Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = "plain"  # the template without a model: "User: ...\nAssistant: ..."
READ = ("role", "from", "content", "value", "tool_calls", "tool_call_id")  # of a turn
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "function_response"), "tool"),
}


@dataclass(frozen=True)
class Turn:
    """One turn: role is "system", "user", "assistant" or "tool". calls: whether its text holds a call of a tool."""

    role: str
    text: str
    calls: bool = False


class _FaultError(ValueError):
    """What is wrong with one chat."""


def chat_pairs(
    table: Table, column: str, chat: str | PreTrainedTokenizerBase
) -> tuple[list[tuple[int, str, str]], list[str]]:
    """(row number, prompt, completion) for each turn of an assistant, and notes on what is special.

    chat: "plain", or a tokenizer whose chat template is used. Raises TaskError that names row, turn and fault.
    """
    pairs, faults = list[tuple[int, str, str]](), dict[str, list[int]]()
    called, unanswered = 0, 0
    for number, row in table.rows:
        try:
            turns = _turns(row, column)
            pairs += [(number, *pair) for pair in _pairs(turns, chat)]
        except _FaultError as error:
            faults.setdefault(str(error), []).append(number)
            continue
        called += any(turn.calls for turn in turns)
        unanswered += turns[-1].role != "assistant"
    refuse(table.where, faults)
    count = len(table.rows)
    unread = _unread_of_turns(row.get(column) for _, row in table.rows)
    said = {
        f"{len(pairs):,} answers in {count:,} chats, each a row of its own": len(pairs) != count,
        f"calls of tools are kept as JSON text (chats: {called:,})": called,
        f"what follows the assistant's last turn is not used (chats: {unanswered:,})": unanswered,
        f"left unread in turns: {listed(unread)}": unread,
    }
    return pairs, [note for note, holds in said.items() if holds]


def _unread_of_turns(chats: Iterable[Any]) -> list[str]:
    """The names of what turns hold besides role and text, such as a weight or the thoughts before an answer."""
    found = dict.fromkeys(
        str(name)
        for chat in chats
        for turn in (chat if isinstance(chat, list) else ())
        for name, value in (turn.items() if isinstance(turn, dict) else ())
        if name not in READ and value not in (None, "", [], {})
    )
    return list(found)


def _turns(row: Row, column: str) -> list[Turn]:
    chat = row.get(column)
    if not isinstance(chat, list) or not chat:
        held = "nothing" if not chat else type(chat).__name__
        raise _FaultError(f'column "{column}" must be a list of turns, and holds {held}.')
    system = row.get("system")
    turns = [Turn("system", system)] if isinstance(system, str) and system.strip() else []
    turns += [_turn(number, turn) for number, turn in enumerate(chat, start=1)]
    if not any(turn.role == "assistant" for turn in turns):
        raise _FaultError("no turn of the assistant, so there is nothing to learn. Remove the row.")
    return turns


def _turn(number: int, turn: Any) -> Turn:
    if not isinstance(turn, dict):
        raise _FaultError(f"turn {number} must be an object with a role and a text, and is a {type(turn).__name__}.")
    named: Any = turn.get("role", turn.get("from"))
    if str(named) not in ROLES:
        raise _FaultError(f"turn {number} has the role {named!r}. Known are {', '.join(ROLES)}.")
    role = ROLES[named]
    text, calls = _text(number, turn.get("content", turn.get("value"))), _calls(number, turn.get("tool_calls"))
    if calls:
        text = "\n".join([*([text] if text else []), *(_call(call) for call in calls)])
    if not text.strip() and role != "system":
        raise _FaultError(f"turn {number} ({named}) is empty.")
    if fault := half_character(text, f"turn {number}"):
        raise _FaultError(fault)
    return Turn(role, text, bool(calls) or named in ("function_call", "tool_call"))


def _text(number: int, content: Any) -> str:
    """The text of a turn, which may be a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _FaultError(f"turn {number} must be text, and is a {type(content).__name__}.")
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise _FaultError(f"turn {number} holds a part of type {kind!r}; only text can be learnt here.")
    return "".join(part["text"] for part in content)


def _calls(number: int, calls: Any) -> list[dict[str, Any]]:
    """The calls of a turn, each with its name and arguments, or with a `function` that has them."""
    listed = [calls] if isinstance(calls, dict) else calls or []
    if not isinstance(listed, list) or not all(
        isinstance(call, dict) and isinstance(call.get("function", call), dict) for call in listed
    ):
        raise _FaultError(f'turn {number} has "tool_calls" that are not a list of objects with a name and arguments.')
    return listed


def _call(call: dict[str, Any]) -> str:
    """The call of a tool as one line of JSON: its name and arguments."""
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):  # JSON within JSON, as OpenAI writes it
        with suppress(ValueError):
            arguments = json.loads(arguments)
    return json.dumps({"name": function.get("name"), "arguments": arguments}, ensure_ascii=False)


def _pairs(turns: Sequence[Turn], chat: str | PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    places = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    if isinstance(chat, str):
        return [(_plain(turns[:place]), f" {turns[place].text.strip()}") for place in places]
    return [_templated(turns[: place + 1], chat) for place in places]


def _plain(turns: Sequence[Turn]) -> str:
    return "".join(f"{turn.role.capitalize()}: {turn.text.strip()}\n" for turn in turns) + "Assistant:"


def _templated(turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The last turn as the model's template writes it, and all before it. Its end-of-text token is left to `encode`."""
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    try:
        prompt = str(tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True))
        whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception as error:  # the template's own: a role it does not know, turns in another order
        why = first_line(error).rstrip(".")
        raise _FaultError(
            f'the model\'s chat template refuses this chat: {why}. Mend it, or use chat="plain".'
        ) from error
    if not whole.startswith(prompt):
        raise _FaultError(
            'the model\'s chat template writes earlier turns otherwise once the answer follows. Use chat="plain".'
        )
    for turn in turns:
        if turn.text.strip() not in whole:
            raise _FaultError(f'the model\'s chat template leaves out a turn of the {turn.role}. Use chat="plain".')
    completion = whole[len(prompt) :].rstrip()
    end = str(tokenizer.eos_token)
    return prompt, completion.removesuffix(end) if completion.endswith(end) else completion


def check_template(chat: object) -> None:
    """Raise TaskError for what is neither "plain" nor a tokenizer with a chat template."""
    if isinstance(chat, str) and chat == PLAIN:
        return
    if not hasattr(chat, "apply_chat_template"):
        raise TaskError(f'chat={chat!r} must be "plain", or a tokenizer such as base.tokenizer.')
    if not getattr(chat, "chat_template", None):
        raise TaskError('This tokenizer has no chat template. Use chat="plain".')
