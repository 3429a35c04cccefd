"""The shipped data: what the generator writes today is what is committed, and it keeps the rules of its datasheet."""

import json
import re
import statistics
from collections import Counter

import pytest
from scipy.stats import chi2_contingency
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import generate_tasks as generate
from workbench.paths import DATA
from workbench.tasks.example import SHIPPED
from workbench.tasks.tasks import LIVE_ROWS, information_bits, load_task

SIZES = {"orders": (1000, 1000), "tickets": (900, 1008), "facts": (192, 192), "protocol": (1200, 1000)}
LARGE = ("orders", "tickets", "protocol")
TOKENS = {"orders": (90, 75), "tickets": (55, 35), "facts": (30, 30), "protocol": (90, 65)}  # longest, mean


def wordings(name):
    return json.loads((DATA / "wordings" / f"{name}.json").read_text(encoding="utf-8"))


def fixed_words(wording):
    """The longest piece of a wording between its slots, in lower case."""
    return max(re.split(r"\{\w+\}", wording.lower()), key=len)


def wording(row, task):
    """The program, request or need that a test row was written with, which decides most about it."""
    if task == "protocol":
        return row.prompt.split(" | ")[1]
    words = wordings(task)
    if task == "tickets":
        intent = words["intents"][row.completion.strip()]
        pool = intent["test"]["need"] + intent["added"]["need"]
    else:
        pool = words["request"]["test"] + words["request"]["added"]
    return max(
        (text for text in pool if fixed_words(text) in row.prompt.lower()), key=lambda text: len(fixed_words(text))
    )


@pytest.fixture(scope="module")
def tasks():
    return {name: load_task(name) for name in SHIPPED}


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A folder with a datasheet into which the generator has written."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "README.md").write_text("top\n<!-- files -->\nold\n<!-- end of files -->\nend\n", encoding="utf-8")
    (folder / "everyday_facts.jsonl").write_bytes((DATA / "everyday_facts.jsonl").read_bytes())
    generate.generate(folder)
    return folder


def test_regenerating_gives_the_committed_bytes(generated):
    written = sorted(generated.glob("tasks/*/*.jsonl"))
    assert len(written) == 8
    for path in written:
        assert path.read_bytes() == (DATA / path.relative_to(generated)).read_bytes(), path.name


def test_the_datasheet_lists_the_hashes_of_the_files_and_is_kept_up_to_date(generated):
    sheet = (DATA / "README.md").read_text(encoding="utf-8")
    table = generate.hash_table(DATA)
    assert table.count(".jsonl`") == 9 and f"\n{table}\n" in sheet
    rewritten = (generated / "README.md").read_text(encoding="utf-8")
    assert rewritten == f"top\n<!-- files -->\n{table}\n<!-- end of files -->\nend\n"


@pytest.mark.parametrize("name", SHIPPED)
def test_row_counts_and_form(tasks, name):
    task = tasks[name]
    assert (len(task.train), len(task.test)) == SIZES[name]
    for row in (*task.train, *task.test):
        assert row.completion.startswith(" ") and "\n" not in row.completion
        assert row.prompt == row.prompt.strip() and "{" not in row.prompt and "  " not in row.prompt
    prompts = Counter(row.prompt for row in task.train)
    assert max(prompts.values()) == 1


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "facts"])
def test_no_test_row_is_close_to_a_training_row(tasks, name):
    task = tasks[name]
    assert not {row.prompt for row in task.train} & {row.prompt for row in task.test}
    training = [generate.word_trigrams(row.prompt) for row in task.train]
    assert max(generate.largest_overlap(row.prompt, training) for row in task.test) <= 0.6


@pytest.mark.parametrize("name", LARGE)
def test_the_prompts_of_a_test_set_are_distinct(tasks, name):
    assert len({row.prompt for row in tasks[name].test}) == len(tasks[name].test) >= 1000


def test_the_test_rows_are_written_with_many_wordings_none_of_them_common(tasks):
    orders = Counter(wording(row, "orders") for row in tasks["orders"].test)
    assert len(orders) >= 60 and max(orders.values()) <= 30
    tickets = Counter((row.completion, wording(row, "tickets")) for row in tasks["tickets"].test)
    for label in tasks["tickets"].labels:
        counts = [count for (completion, _), count in tickets.items() if completion == f" {label}"]
        assert sum(counts) == 84 and len(counts) >= 15 and max(counts) <= 84 // 6, label


@pytest.mark.parametrize("name", LARGE)
def test_the_rows_that_lessons_score_are_a_fair_sample_of_all(tasks, name):
    """The first rows and the others have the same mix of wordings, by a chi-squared test, and of labels exactly."""
    rows = tasks[name].test
    kinds = [wording(row, name) for row in rows]
    counts = [Counter(kinds[:LIVE_ROWS]), Counter(kinds[LIVE_ROWS:])]
    assert chi2_contingency([[count[kind] for kind in sorted(set(kinds))] for count in counts]).pvalue > 0.05
    if name == "tickets":
        assert set(Counter(row.completion for row in rows[:LIVE_ROWS]).values()) == {LIVE_ROWS // 12}
    else:
        lengths = [
            statistics.mean(len(row.completion) for row in part) for part in (rows[:LIVE_ROWS], rows[LIVE_ROWS:])
        ]
        assert lengths[0] == pytest.approx(lengths[1], rel=0.03)


def test_overlap_is_measured_in_word_trigrams():
    training = [generate.word_trigrams("Send the red mug today"), generate.word_trigrams("nothing in common here")]
    assert generate.largest_overlap("send THE red, mug now", training) == pytest.approx(2 / 3)
    assert generate.largest_overlap("two words", training) == 0


@pytest.mark.parametrize("name", SHIPPED)
def test_rows_fit_the_token_budget(tasks, name, base):
    rows = (*tasks[name].train, *tasks[name].test)
    ids = base.tokenizer([row.prompt + row.completion for row in rows])["input_ids"]
    lengths = [len(row) + 1 for row in ids]
    longest, mean = TOKENS[name]
    assert max(lengths) <= longest and sum(lengths) / len(lengths) <= mean


def test_stored_results_are_of_todays_rows_or_of_the_earlier_ones_that_the_datasheet_lists(tasks):
    sheet = (DATA / "README.md").read_text(encoding="utf-8")
    for file in sorted((DATA / "reference").glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for name, digest in {(row["task"], row["task_sha256"]) for row in rows if row.get("task") in LARGE}:
            assert digest == tasks[name].sha256 or f"`{name}` `{digest}`" in sheet, (file.name, name)


def test_orders_have_forty_wordings_and_keep_train_and_test_wordings_apart():
    words = wordings("orders")
    assert len(set(words["request"]["train"])) >= 40
    for key, pool in words.items():
        if isinstance(pool, dict) and "train" in pool and key not in ("what", "what_plain"):
            distinct = [*pool["train"], *pool["test"], *pool["added"]]
            assert len(distinct) == len(set(distinct)), key


def test_orders_complete_to_one_line_of_json_with_missing_fields_and_values_from_the_mail(tasks):
    missing = Counter()
    for row in (*tasks["orders"].train, *tasks["orders"].test):
        order = json.loads(row.completion)
        assert row.completion == " " + json.dumps(order)
        assert list(order) == ["item", "qty", "colour", "city", "due"]
        assert order["qty"] is None or 1 <= order["qty"] <= 50
        assert all(order[key] in row.prompt for key in ("item", "colour", "city") if order[key])
        assert order["due"] is None or all(word in row.prompt for word in order["due"].split())
        missing.update(key for key, value in order.items() if value is None)
    assert set(missing) == {"qty", "colour", "city", "due"} and min(missing.values()) > 100


def test_orders_hold_distractors_that_would_mislead(tasks):
    """In a good share of the test mails an item, colour or town is named that does not belong to the order."""
    pools = {key: wordings("orders")[key]["test"] for key in ("item", "colour", "city")}
    misled = Counter()
    for row in tasks["orders"].test:
        order = json.loads(row.completion)
        for key, pool in pools.items():
            misled[key] += any(re.search(rf"\b{word}", row.prompt) for word in pool if word != order[key])
    assert min(misled[key] for key in pools) >= 5 and sum(misled.values()) >= 30, misled


def test_tickets_are_balanced_and_keep_wordings_and_fillers_apart(tasks):
    words = wordings("tickets")
    intents = words["intents"]
    assert tasks["tickets"].labels == tuple(sorted(intents)) and len(intents) == 12
    for split, count in (("train", 75), ("test", 84)):
        assert set(Counter(row.completion for row in getattr(tasks["tickets"], split)).values()) == {count}
    for key in ("item", "opener", "detail"):
        assert not set(words[key]["train"]) & {*words[key]["test"], *words[key]["added"]}
    clauses = [
        clause for intent in intents.values() for split in intent.values() for kind in split.values() for clause in kind
    ]
    assert len(clauses) == len(set(clauses)) == 12 * (10 + 6 + 6 + 4 + 12 + 6)


def test_counting_words_does_not_solve_tickets(tasks):
    """A bag of words and word pairs stays under 85 %, at any strength of regularisation, yet is well above chance."""
    task, scores = tasks["tickets"], []
    for strength in (1, 10, 100):
        bag = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        model = make_pipeline(bag, LogisticRegression(C=strength, max_iter=2000))
        model.fit([row.prompt for row in task.train], [row.completion for row in task.train])
        scores.append(model.score([row.prompt for row in task.test], [row.completion for row in task.test]))
    assert max(scores) < 0.85 and min(scores) > 2 / 12


def test_facts_are_distinct_uniform_codes_and_their_content_is_known_in_bits(tasks):
    task = tasks["facts"]
    assert task.train == task.test
    assert all(re.fullmatch(r" \d{4}", row.completion) for row in task.train)
    digits = Counter("".join(row.completion.strip() for row in task.train))
    assert len(digits) == 10 and max(digits.values()) < 2 * min(digits.values())
    assert information_bits(192) == pytest.approx(2551.24, abs=0.01)
    assert information_bits(count=3) == pytest.approx(4 * 9.966, abs=0.004)


def test_protocol_traces_follow_the_operations_table():
    """Worked by hand from the table in data/README.md."""
    trace = generate.protocol_trace
    assert trace("7352", ["vel", "sil", "bon"]) == " vel:2537 sil:5372 bon:2375 =7"
    assert trace("9041", ["gar", "nar"]) == " gar:0152 nar:2152 =5"
    assert trace("9041", ["lum", "tem"]) == " lum:0958 tem:8958 =9"


def test_protocol_tests_on_new_programs_and_new_registers(tasks):
    parts = {
        split: [
            row.prompt.removeprefix("Run ").removesuffix("\nTrace:").split(" | ")
            for row in getattr(tasks["protocol"], split)
        ]
        for split in ("train", "test")
    }
    for position in (0, 1):
        assert not {pair[position] for pair in parts["train"]} & {pair[position] for pair in parts["test"]}
    assert {name for _, program in parts["train"] for name in program.split()} == set(generate.PROTOCOL_OPERATIONS)


def test_running_out_of_wordings_is_an_error_not_an_endless_loop():
    with pytest.raises(RuntimeError, match="Only 1 of 2 rows"):
        generate._draw_rows(2, lambda: {"prompt": "same", "completion": " x"}, set(), lambda prompt: True)


def test_everyday_facts_are_forty_short_pairs_outside_every_task(tasks):
    lines = (DATA / "everyday_facts.jsonl").read_text(encoding="utf-8").splitlines()
    facts = [json.loads(line) for line in lines]
    assert len({fact["prompt"] for fact in facts}) == len(facts) == 40
    assert all(set(fact) == {"prompt", "completion"} and fact["completion"].startswith(" ") for fact in facts)
    trained = {row.prompt for task in tasks.values() for row in task.train}
    assert not trained & {fact["prompt"] for fact in facts}
