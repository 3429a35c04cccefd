"""Writes the data sets under data/ from hand-written wordings and one seed.

    .venv/bin/python tools/generate_tasks.py

Every set is drawn by its own `random.Random`, so that a change to one leaves the others byte for byte as they were.
Train and test are built from different wordings and different fillers; a test row that still shares more than
`MAX_OVERLAP` of its word trigrams with some training row is drawn again. The "added" rows are test rows too: they are
drawn last, from wordings of their own, which leaves the training rows as they were, and shuffled among the first ones.
"""

import hashlib
import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from workbench.paths import DATA
from workbench.tasks.tasks import FACT_DIGITS

SEED = 2025
MAX_OVERLAP = 0.6

ORDERS_TRAIN, ORDERS_TEST, ORDERS_ADDED = 1000, 150, 850
LONGEST_PROMPT = 145  # characters; one long row would pad its whole batch
TICKETS_TRAIN, TICKETS_TEST, TICKETS_ADDED = 75, 20, 64  # rows for each of the 12 intents
ASIDE_SHARE = 0.85  # share of tickets that also mention a second subject, settled or denied
FACTS = 192
PROTOCOL_TRAIN, PROTOCOL_TEST = 1200, 1000

# The three knobs of `protocol`: more steps, a wider register and more operations each make it harder.
PROTOCOL_STEPS = 3
PROTOCOL_WIDTH = 4
PROTOCOL_OPERATIONS = ("vel", "sil", "bon", "gar", "nar")

Row = dict[str, str]


def word_trigrams(text: str) -> set[tuple[str, ...]]:
    """The set of lower-case word triples in `text`; punctuation separates words and is dropped."""
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))


def largest_overlap(prompt: str, training: Iterable[set[tuple[str, ...]]]) -> float:
    """The largest share of `prompt`'s word trigrams found in any one training row (0 to 1)."""
    own = word_trigrams(prompt)
    return max((len(own & other) / len(own) for other in training), default=0.0) if own else 0.0


def _draw_rows(count: int, draw: Callable[[], Row], taken: set[str], accept: Callable[[str], bool]) -> list[Row]:
    """`count` rows with prompts that are new (`taken` grows) and accepted; raises if the wordings run out."""
    rows: list[Row] = []
    for _ in range(200 * count):
        if len(rows) == count:
            return rows
        row = draw()
        if row["prompt"] not in taken and accept(row["prompt"]):
            taken.add(row["prompt"])
            rows.append(row)
    raise RuntimeError(f"Only {len(rows)} of {count} rows could be drawn: add wordings or fillers.")


def _fits(prompt: str) -> bool:
    return len(prompt) <= LONGEST_PROMPT


def _test_rows(count: int, draw: Callable[[], Row], train: list[Row], earlier: Sequence[Row] = ()) -> list[Row]:
    """Test rows that differ from all `train` and `earlier` rows and keep within MAX_OVERLAP of every train row."""
    taken = {row["prompt"] for row in (*train, *earlier)}
    trigrams = [word_trigrams(row["prompt"]) for row in train]
    return _draw_rows(
        count, draw, taken, lambda prompt: _fits(prompt) and largest_overlap(prompt, trigrams) <= MAX_OVERLAP
    )


def _split(
    train_count: int, test_count: int, draw_train: Callable[[], Row], draw_test: Callable[[], Row]
) -> tuple[list[Row], list[Row]]:
    """Train rows, then test rows; no prompt is overlong."""
    train = _draw_rows(train_count, draw_train, set(), _fits)
    return train, _test_rows(test_count, draw_test, train)


def _wordings(name: str) -> dict:
    return json.loads((DATA / "wordings" / f"{name}.json").read_text(encoding="utf-8"))


# --- orders: an e-mail becomes one line of JSON -----------------------------------------------------------------


def _plural(noun: str) -> str:
    return noun + ("es" if noun.endswith(("sh", "ch", "x", "s")) else "s")


def _amount(rng: random.Random, forms: dict[str, list]) -> tuple[str, int | None]:
    """Surface form and value: digits, a number word, "a dozen", or a vague word whose value is None."""
    kind = rng.random()
    if kind < 0.12:
        return rng.choice(forms["vague"]), None
    if kind < 0.20:
        return "a dozen", 12
    if kind < 0.60:
        value = rng.randrange(len(forms["words"]))
        return forms["words"][value], value + 1
    value = rng.choice(forms["digits"])
    return str(value), value


def _due(rng: random.Random, weekdays: list[str], months: list[str]) -> tuple[str, str]:
    """Surface form and value: a weekday is copied; "June 12" and "12 June" both become "12 June"."""
    if rng.random() < 0.65:
        day = rng.choice(weekdays)
        return day, day
    day, month = rng.randint(1, 28), rng.choice(months)
    return rng.choice((f"{day} {month}", f"{month} {day}")), f"{day} {month}"


def _distractor(rng: random.Random, pools: dict[str, list], used: dict) -> str:
    """A sentence whose items, colours, cities and numbers do not belong to the order."""
    other = {key: rng.choice([v for v in pools[key] if v != used[key]]) for key in ("item", "colour", "city")}
    return rng.choice(pools["distractor"]).format(
        n=rng.randint(2, 30),
        other_item=other["item"],
        other_items=_plural(other["item"]),
        other_colour=other["colour"],
        other_city=other["city"],
        other_day=rng.choice(pools["weekdays"]),
        phone=f"{rng.randint(200, 999)} {rng.randint(1000, 9999)}",
        price=f"{rng.randint(3, 60)}.{rng.choice(('00', '50', '90', '95'))}",
    )


def draw_order(rng: random.Random, wordings: dict, split: str) -> Row:
    """One order e-mail and its JSON; each of qty, colour, city and due may be missing (null)."""
    pools = {key: value[split] for key, value in wordings.items() if isinstance(value, dict) and split in value}
    pools["weekdays"] = wordings["weekdays"]
    amount, qty = _amount(rng, wordings["amounts"])
    due_text, due = _due(rng, wordings["weekdays"], wordings["months"])
    order = {
        "item": rng.choice(pools["item"]),
        "qty": qty,
        "colour": rng.choice(pools["colour"]) if rng.random() < 0.7 else None,
        "city": rng.choice(pools["city"]) if rng.random() < 0.7 else None,
        "due": due if rng.random() < 0.65 else None,
    }
    noun = order["item"] if qty == 1 else _plural(order["item"])
    what = rng.choice(pools["what" if order["colour"] else "what_plain"])
    what = what.format(amount=amount, colour=order["colour"], item=noun)
    absent = [f"{{{key}}}" for key in ("city", "due") if order[key] is None]
    request = rng.choice([text for text in pools["request"] if not any(slot in text for slot in absent)])
    clauses = [
        rng.choice(pools[f"{key}_clause"])
        for key in ("city", "due")
        if order[key] is not None and f"{{{key}}}" not in request
    ]
    clauses = [request, *rng.sample(clauses, len(clauses))]
    clauses = [text.format(what=what, city=order["city"], due=due_text) for text in clauses]
    for _ in range(rng.choices((0, 1, 2), (0.55, 0.42, 0.03))[0]):
        clauses.insert(rng.randint(0, len(clauses)), _distractor(rng, pools, order))
    body = " ".join(text[0].upper() + text[1:] for text in clauses)
    greeting = rng.choice(pools["greeting"]) + " " if rng.random() < 0.5 else ""
    sign_off = " " + rng.choice(pools["sign_off"]).format(name=rng.choice(pools["name"])) if rng.random() < 0.5 else ""
    body = body.replace(",.", ".").replace(",?", "?").replace(",,", ",")
    completion = " " + json.dumps(order, ensure_ascii=False)
    return {"prompt": f"{greeting}{body}{sign_off}\nJSON:", "completion": completion}


def orders(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """E-mails with distractors and missing fields, each with one compact line of JSON."""
    draws = [partial(draw_order, rng, _wordings("orders"), split) for split in ("train", "test", "added")]
    train, test = _split(ORDERS_TRAIN, ORDERS_TEST, *draws[:2])
    test += _test_rows(ORDERS_ADDED, draws[2], train, test)
    rng.shuffle(test)
    return train, test


# --- tickets: what does the customer want now? ------------------------------------------------------------------


def draw_ticket(rng: random.Random, wordings: dict, split: str, label: str) -> Row:
    """A need of intent `label`, mostly beside an aside that names another intent's subject as settled or denied."""
    intents = wordings["intents"]
    item, other = rng.sample(wordings["item"][split], 2)
    clauses = [rng.choice(intents[label][split]["need"])]
    if rng.random() < ASIDE_SHARE:
        subject = rng.choice([name for name in intents if name != label])
        clauses.insert(rng.randint(0, 1), rng.choice(intents[subject][split]["aside"]))
    if rng.random() < 0.25:
        clauses.append(rng.choice(wordings["detail"][split]))
    if rng.random() < 0.4:
        clauses.insert(0, rng.choice(wordings["opener"][split]))
    text = " ".join(clauses).format(item=item, other=other, n=rng.randint(10000, 99999))
    text = re.sub(r"\b([Aa])(?= [aeiou])", r"\1n", text)
    return {"prompt": f"{text}\nIntent:", "completion": f" {label}"}


def tickets(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Customer messages in 12 balanced intents, shuffled; every 12 test rows in a row hold each intent once."""
    wordings = _wordings("tickets")
    train: list[Row] = []
    test: list[Row] = []
    for label in wordings["intents"]:
        draws = [partial(draw_ticket, rng, wordings, split, label) for split in ("train", "test")]
        for rows, new in zip((train, test), _split(TICKETS_TRAIN, TICKETS_TEST, *draws), strict=True):
            rows.extend(new)
    rng.shuffle(train)
    by_intent = []
    for label in wordings["intents"]:
        rows = [row for row in test if row["completion"] == f" {label}"]
        rows += _test_rows(TICKETS_ADDED, partial(draw_ticket, rng, wordings, "added", label), train, rows)
        by_intent.append(rng.sample(rows, len(rows)))
    return train, [row for each in zip(*by_intent, strict=True) for row in rng.sample(each, len(each))]


# --- facts: nothing to understand, only to remember -------------------------------------------------------------


def facts(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Invented names with random digits: no rule predicts one from another. Test = train, because recall is asked."""
    onsets, vowels, ends = "bdfghklmnprstvz", "aeiou", ("", "n", "r", "l", "s", "k", "x", "th")
    names: dict[str, None] = {}
    while len(names) < FACTS:
        syllables = "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.choice((2, 3))))
        names[(syllables + rng.choice(ends)).capitalize()] = None
    codes = [f" {rng.randrange(10**FACT_DIGITS):0{FACT_DIGITS}d}" for _ in names]
    rows = [
        {"prompt": f"The access code of {name} is", "completion": code} for name, code in zip(names, codes, strict=True)
    ]
    return rows, list(rows)


# --- protocol: an invented notation with the derivation written out ---------------------------------------------

OPERATIONS: dict[str, Callable[[list[int]], list[int]]] = {
    "vel": lambda r: r[::-1],  # reverse
    "sil": lambda r: r[1:] + r[:1],  # rotate to the left
    "bon": lambda r: [r[-1], *r[1:-1], r[0]],  # swap the two ends
    "gar": lambda r: [(digit + 1) % 10 for digit in r],  # add one to every digit, 9 becomes 0
    "nar": lambda r: [r[-1], *r[1:]],  # the last digit is written over the first
    "lum": lambda r: [9 - digit for digit in r],  # nine's complement of every digit (hard)
    "tem": lambda r: [(r[0] + r[-1]) % 10, *r[1:]],  # the first digit takes in the last, modulo 10 (hard)
}


def protocol_trace(register: str, program: Sequence[str]) -> str:
    """The completion for one program: the register after each operation, then "=" and its largest digit."""
    digits, steps = [int(character) for character in register], []
    for name in program:
        digits = OPERATIONS[name](digits)
        steps.append(f"{name}:{''.join(map(str, digits))}")
    return f" {' '.join(steps)} ={max(digits)}"


def protocol(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Random programs on random registers; a tenth of all programs and a tenth of all registers is kept for test."""
    programs = list(itertools.product(PROTOCOL_OPERATIONS, repeat=PROTOCOL_STEPS))
    registers = [f"{number:0{PROTOCOL_WIDTH}d}" for number in range(10**PROTOCOL_WIDTH)]
    rng.shuffle(programs)
    rng.shuffle(registers)

    def draw(held_out: bool) -> Row:
        program, register = (
            rng.choice(pool[: len(pool) // 10] if held_out else pool[len(pool) // 10 :])
            for pool in (programs, registers)
        )
        return {
            "prompt": f"Run {register} | {' '.join(program)}\nTrace:",
            "completion": protocol_trace(register, program),
        }

    return _split(PROTOCOL_TRAIN, PROTOCOL_TEST, lambda: draw(False), lambda: draw(True))


# --- writing ----------------------------------------------------------------------------------------------------

GENERATORS = {"orders": orders, "tickets": tickets, "facts": facts, "protocol": protocol}


def _write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode("utf-8"))  # bytes: no \r\n on Windows


def hash_table(root: Path) -> str:
    """A Markdown table of the rows and sha256 of every JSONL file below `root`."""
    lines = ["| file | rows | sha256 |", "| --- | --- | --- |"]
    for path in sorted([*root.glob("tasks/*/*.jsonl"), root / "everyday_facts.jsonl"]):
        content = path.read_bytes()
        rows, digest = content.count(b"\n"), hashlib.sha256(content).hexdigest()
        lines.append(f"| `{path.relative_to(root).as_posix()}` | {rows} | `{digest}` |")
    return "\n".join(lines)


def generate(root: Path = DATA) -> None:
    """Writes tasks/<name>/{train,test}.jsonl below `root` and the sha256 table into its README.md, if it has one."""
    for name, build in GENERATORS.items():
        for split, rows in zip(("train", "test"), build(random.Random(f"{SEED} {name}")), strict=True):
            _write(root / "tasks" / name / f"{split}.jsonl", rows)
    readme = root / "README.md"
    if readme.exists():
        before, rest = readme.read_text(encoding="utf-8").split("<!-- files -->\n")
        after = rest.split("<!-- end of files -->\n")[1]
        table = f"<!-- files -->\n{hash_table(root)}\n<!-- end of files -->\n"
        readme.write_bytes((before + table + after).encode("utf-8"))


if __name__ == "__main__":
    generate()
