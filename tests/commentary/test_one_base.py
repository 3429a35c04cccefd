"""What lesson 08 says follows its numbers, whichever way they fall."""

from workbench.commentary import one_base as say
from workbench.cost.gpus import gpus
from workbench.cost.roofline import serve
from workbench.serving.measure import Merging, Several
from workbench.tasks.example import Example

SEVERAL = Several(4, 40_000_000, 500_000_000, 0.002, 1.0, True, True)
SPEEDS = {"one batch": 300.0, "adapter by adapter": 150.0, "one by one": 100.0}
OWN = {"orders": 0.8, "tickets": 0.6, "facts": 0.0}


def test_the_answer_holds_its_numbers():
    words = say.answer(SEVERAL, SPEEDS, serve(20, 16e9, 80e6, gpus()["L4"]), 20, "llama-3.1-8b", "L4")
    assert words.startswith("**The answer:** One base serves many tasks at once")
    assert "each of our 4 adapters is 50 times smaller than the model, and a swap takes 2 ms" in words
    assert "wrote 3.0 times as many tokens a second" in words
    assert "2 L4 GPUs instead of 20, $1,168 a month instead of $11,680" in words
    assert say.fewer(serve(20, 16e9, 80e6, gpus()["L4"])) == 10


def test_a_task_counts_as_kept_at_half_of_what_its_own_adapter_reached():
    assert say.kept_tasks({"orders": 0.4, "tickets": 0.29, "facts": 0.5}, OWN) == 1
    assert say.kept_tasks(OWN, OWN) == 2, "what was never learned cannot be kept"
    scores = {"sum": dict.fromkeys(OWN, 0.0), "trained on all four": OWN}
    assert say.sum_in_words(scores, OWN) == "Tasks kept, of 3: 0 by the sum, 2 by training on all"


def test_whether_adapters_can_be_added_up_is_said_by_their_scores():
    own = {"orders": 0.8, "tickets": 0.6}
    alone = {name: dict.fromkeys(own, 0.0) | {name: own[name]} for name in own}
    scores = alone | {
        "sum": {"orders": 0.1, "tickets": 0.2},
        "TIES": {"orders": 0.1, "tickets": 0.4},
        "trained on all four": {"orders": 0.82, "tickets": 0.75},
        "base": dict.fromkeys(own, 0.0),
    }
    words = say.sums_answer(scores, own, 240)
    assert "the best way here is *TIES* with 1 of 2" in words and "keeps 2. By more than noise it is ahead" in words
    assert "tickets 75% against 60%" in words and "orders" not in words, "two points of 240 rows are noise"
    assert "noise" not in say.sums_answer(scores, own, 24)
    scores["trained on all four"] = {"orders": 0.7, "tickets": 0.1}
    assert "keeps 1. The papers" in say.sums_answer(scores, own, 24)


def test_tables_hold_what_was_measured():
    table = say.merging_table({"bfloat16": Merging(0.75, 0.7, 0.01234, 0.25)})
    assert "| bfloat16 | 75% | 70% | +0.0123 nats | 25.0% |" in table
    shown = say.same_prompt(
        Example("Five skirts.\nJSON:", ' {"qty": 5}'), {"orders": '{"a|b": 1}', "tickets": " cancel"}
    )
    assert shown.startswith("> Five skirts.") and '| wanted | `{"qty": 5}` |\n| orders | `{"a/b": 1}` |' in shown
    services = {count: serve(count, 16e9, 80e6, gpus()["L4"]) for count in (1, 20)}
    lines = say.services_table(services, "llama-3.1-8b", "L4").splitlines()
    assert lines[2].startswith("| 1 | 1 GPU ($")
    assert lines[3].endswith("| 10 |")


def test_what_the_server_did_is_told_as_ratios_and_megabytes():
    memory = {"a": 900_000_000, "b": 1_400_000_000, "c": 2_000_000_000}
    words = say.served("http://127.0.0.1:1/v1", " {}", {"merged": 0.5, "adapter": 0.75}, memory, 540_000_000)
    assert "| merged | 1.00 |\n| adapter | 1.50 |" in words and "and got `{}`" in words
    assert "900 MB after the first name and 2,000 MB after the last of 3: 550 MB for each further name" in words


def test_starting_values_are_those_of_the_lessons_models():
    table = say.starting_values()
    assert "| llama-3.1-8b | 84 MB | 16.1 GB | 2 x L4 | 20 x L4 |" in table
