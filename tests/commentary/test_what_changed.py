"""The words of lesson 07 say what the numbers say, whichever way these fall."""

from support.places import BASE, DROP, KEEP, SCALE, TUNED, WAYS, place
from support.records import run
from support.study_rows import runs
from workbench.analysis import Cuts
from workbench.claims.study import comparisons
from workbench.commentary import what_changed as say
from workbench.results import reference

CUTS = Cuts(base=0.0, whole=0.75, by_rank={0: 0.1, 8: 0.6, 64: 0.75}, rows=64)


def test_shares_fall_into_thirds():
    assert [say.third(share) for share in (0, 0.3, 0.34, 0.66, 0.7, 1.1)] == [
        *[say.THIRDS[0]] * 2, *[say.THIRDS[1]] * 2, *[say.THIRDS[2]] * 2
    ]  # fmt: skip


def test_the_best_repair_undoes_half_and_keeps_the_most():
    found = say.repairs(TUNED, WAYS)
    assert [(one.way, one.setting) for one in found] == [(SCALE, "t = 0.5"), (KEEP, "rank 1"), (DROP, "no later half")]
    assert say.winner(TUNED, WAYS) == SCALE


def test_a_lead_of_few_rows_names_no_winner():
    close = WAYS | {KEEP: {"rank 4": place(0.66, 0.6)}}
    assert say.winner(TUNED, close) == say.NOBODY
    assert say.winner(place(0.5, 0.19), WAYS) == "none of them"
    assert say.winner(place(0.5, 0.01), WAYS) == "nothing to repair"
    assert "hardly any damage" in say.answer(CUTS, 8, {"lora": place(0.5, 0.01)}, {"lora": WAYS})
    assert f"(too close to tell from it: {KEEP})" in say.answer(CUTS, 8, {"lora": TUNED}, {"lora": close})


def test_the_answer_holds_the_numbers_of_the_run_that_forgot_more():
    text = say.answer(CUTS, 8, {"lora": TUNED, "full": place(0.7, 0.4)}, {"lora": WAYS, "full": {}})
    assert text.startswith("**The answer:** Cut to its 8 largest directions in each weight, full fine-tuning's update")
    assert "keeps 80% of what it gained on the task (60% of 64 rows right, uncut 75%)" in text
    assert "its perplexity is 5 times the base's after LoRA, 1.5 times the base's after full fine-tuning" in text
    assert (
        f"repair of LoRA that undoes half of the damage is to {SCALE} (t = 0.5), which leaves 70% of the rows" in text
    )
    assert "No way back that was tried" in say.answer(CUTS, 8, {"full": place(0.7, 0.4)}, {"full": {}})


def test_a_run_that_learned_nothing_is_said_to_have():
    nothing = Cuts(0.0, 0.0, {8: 0.0}, 4)
    assert "learned nothing" in say.update_answer(nothing, 8) and "learned nothing" in say.update_title(nothing, 8)
    assert say.update_title(CUTS, 8) == "8 directions a weight keep 80% of what full fine-tuning gained"


def test_tables_have_a_row_for_each_model_and_way():
    trained = run("lora", metrics={"fact_accuracy": 0.4}, before={"fact_accuracy": 0.625})
    table = say.measured_in_words(BASE, {"lora": TUNED}, [trained])
    assert "| base | 0% | 1 times the base's | 62% | 0 nats |" in table
    assert "| lora | 75% | 5 times the base's | 40% | 1.6 nats |" in table
    table = say.repairs_in_words({"lora": TUNED}, {"lora": WAYS | {"other": {"a": place(0.7, 1.5)}}})
    assert f"| lora | {SCALE} | t = 0.5 | 70% | 1.6 |" in table
    assert "| lora | other | no setting tried undoes half | | |" in table


def test_intruders_are_counted_by_layer():
    found = {"lora": {"a": [0, 1], "b": []}, "full": {"a": [], "b": []}}
    assert "- LoRA: 2 of 20 directions, in 1 of 2 layers" in say.intruders_in_words(found, 10)
    assert "- full fine-tuning: 0 of 20 directions, in 0 of 2 layers" in say.intruders_in_words(found, 10)


def test_a_title_says_when_intruders_come():
    title = say.pushed_title({"lora": {1: (0, 4.0), 2: (0, 300.0), 4: (2, 1e6)}, "full": {1: (0, 1.5), 8: (0, 80.0)}})
    assert title == "LoRA: first intruder at 4 times the update; full fine-tuning: none up to 8 times the update"


def test_hybrids_are_listed_by_size_with_their_interval_over_lora():
    sizes = {"lora": 2_000_000, "hybrid": 4_000_000, "hybrid, last block": 5_000_000, "attention": 1}
    rows = [
        row | {"trainable_parameters": size}
        for (name, size), score in zip(sizes.items(), (0.7, 0.8, 0.9, 0.9), strict=True)
        for row in runs("t", name, score)
    ]
    *lines, _, counted = say.hybrids_in_words(rows).splitlines()[2:]
    assert [line.split(" | ")[1:3] for line in lines] == [
        ["lora", "8"], ["LoRA + last MLP", "16"], ["LoRA + last block", "20"]
    ]  # fmt: skip
    (paired,) = comparisons(rows, "hybrid", "lora").values()
    assert f"| {paired.numbers} points |" in lines[1] and paired.low > 0
    assert "ahead of LoRA in 2 of 2 comparisons" in counted and "less than LoRA on 0 of 1 tasks" in counted
    unpaired = [{key: value for key, value in row.items() if key != "right"} for row in rows]
    assert "+11 points (give or take " in say.hybrids_in_words(unpaired).splitlines()[3]
    assert "not reached" in say.hybrids_in_words([row for row in rows if row["name"] == "lora"])


def test_the_shipped_study_can_be_told():
    rows = reference.study_rows()
    assert len(say.hybrids_in_words(rows).splitlines()) > 4
