"""The stored results, and the best learning rate among rows."""

import pytest

from workbench.results import at_best_rate, best_rate, by_best_rate, reference
from workbench.results.rows import swept_rate


def row(name: str, rate: float, seed: int, score: float, loss: float = 1.0, **changes) -> dict:
    scores = {"exact_match": score, "loss": loss, "status": "finished"}
    return {"name": name, "learning_rate": rate, "seed": seed} | scores | changes


@pytest.mark.parametrize("task", ["tickets", "protocol"])
def test_the_study_has_what_lesson_06_draws_on(task):
    rows = reference.compared(task)
    assert {row["task"] for row in rows} == {task}
    best = {}
    for name, own in by_best_rate(rows, "name").items():
        assert len(own) >= reference.SEVERAL, f"{name} has {len(own)} seeds at its best rate"
        rates = {swept_rate(row) for row in rows if row["name"] == name}
        best[name] = swept_rate(own[0])
        at_end = not min(rates) < best[name] < max(rates)
        assert not at_end or len(rates) > 6, f"the best rate of {name} is at an end of {sorted(rates)}"  # or all alike
    assert tuple(best) == reference.COMPARED and best["lora"] > best["full"]


def test_a_task_without_every_method_is_named():
    with pytest.raises(ValueError, match="has no lora, qlora, hybrid, full on 'retrieval'"):
        reference.compared("retrieval")


def test_the_best_rate_goes_by_the_seed_that_all_have_and_then_by_the_loss():
    rows = [row("lora", 1e-3, 0, 0.5), row("lora", 1e-3, 1, 0.9)]
    rows += [row("lora", 2e-3, 0, 0.6, 0.5), row("lora", 4e-3, 0, 0.6, 0.4)]
    assert best_rate(rows) == 4e-3
    rows.append(row("lora", 8e-3, 0, 0.9, status="interrupted"))
    assert best_rate(rows) == 4e-3 and at_best_rate(rows) == [rows[3]]


def test_without_a_finished_row_no_rate_is_best():
    diverged = [row("full", 1e-3, 0, 0.9, status="diverged"), row("full", 2e-3, 0, 0.9, exact_match=None)]
    assert at_best_rate(diverged) == [] and by_best_rate(diverged, "name") == {}
    with pytest.raises(ValueError, match="so no learning rate is best"):
        best_rate(diverged)


def test_each_setting_is_taken_at_its_own_best_rate():
    full = [row("full", 1e-4, seed, score, rank=None) for seed, score in enumerate((0.7, 0.8))]
    lora = [row("lora", rate, 0, score, rank=rank) for rank, rate, score in ((8, 1e-3, 0.2), (8, 2e-3, 0.9))]
    lora.append(row("lora", 1e-3, 0, 0.5, rank=1))
    found = by_best_rate([*lora, *full])
    assert found == {8: [lora[1]], 1: [lora[2]], None: full} and list(found) == [8, 1, None]
    assert by_best_rate([*full, *lora], "name") == {"full": full, "lora": [lora[1]]}


def test_a_rate_is_converted_to_other_sizes():
    assert reference.learning_rate_for(1e-3, 576) == 1e-3
    assert reference.learning_rate_for(1e-3, 2048) == pytest.approx(3.7e-4, rel=0.02)


def test_one_seed_is_no_range():
    rows = [row("lora", 1e-3, 0, 0.8), row("lora", 1e-3, 1, 0.9), row("full", 1e-3, 0, 0.95)]
    words = "Here, exact match at each method's best rate: lora 85% (80% to 90%, 2 seeds), full 95% (1 seed)."
    assert reference.spread_in_words(rows, "exact_match", "Here") == words
