"""The reference study: a row can be trained again, and it goes on where it stopped without training anything twice."""

import json
import random
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from support.study_rows import run
from workbench import TrainConfig, load_task
from workbench.errors import RunError
from workbench.results.reference import FIRST_STUDY, STUDY, read_rows, study_rows
from workbench.study import plan, repeat
from workbench.study.settings import SETTINGS, config_of, task_of
from workbench.tasks.tasks import RECALLED

SHIPPED = ("protocol", "tickets", "facts", "orders")  # the rows of `docs` depend on the packages that are installed


def short_rows():
    """Two rows on tasks of short rows; others are drawn whenever the file has changed."""
    able = [row for row in read_rows(STUDY) if row["task"] in ("protocol", "tickets", "facts")]
    able = [row for row in able if row["quantization"] is None and not row["settings"]["method"]["dora"]]
    return random.Random(STUDY.read_bytes()).sample(able, 2)


@pytest.mark.slow
@pytest.mark.parametrize("row", short_rows(), ids=lambda row: f"{row['task']}-{row['name']}-{row['id']}")
def test_a_row_begins_again_as_recorded(row):
    done = repeat.repeat(row["id"])
    assert len(done.again) == plan.FIRST_LOSSES and done.agrees, done.again


def test_a_row_that_is_not_there_is_refused():
    with pytest.raises(RunError, match="0 rows with the id 'nothing'"):
        repeat.repeat("nothing")


def test_losses_that_differ_by_more_than_rounding_do_not_agree():
    assert repeat.Repetition({}, (2.0, 1.0), (2.001, 1.005)).agrees
    assert not repeat.Repetition({}, (2.0, 1.0), (2.0, 1.05)).agrees


@pytest.fixture
def quick(small, tmp_path, monkeypatch):
    """The study on a small random model and eight facts, two steps a run, with its files in a folder of its own."""
    monkeypatch.setattr(plan, "STUDY", tmp_path / "study.jsonl")
    monkeypatch.setattr(plan, "STORE", tmp_path / "build")
    monkeypatch.setattr(plan, "base", lambda quantization: small)
    monkeypatch.setattr(plan, "task_of", lambda name: load_task("facts").head(8))

    def config(task: str, setting: str, seed: int = 0) -> TrainConfig:
        return replace(config_of(task, setting, seed), steps=2, batch_size=2)

    monkeypatch.setattr(plan, "config_of", config)


@pytest.mark.slow
def test_rates_are_swept_on_one_seed_and_the_best_has_the_others(quick):
    plan.tune("facts", "lora")
    rows = plan.rows("facts", "lora")
    chosen = [row for row in rows if row["seed"] == plan.CHOOSING]
    best, rates = plan.tuned_rate("facts", "lora"), sorted(row["learning_rate"] for row in chosen)
    assert best == min(chosen, key=lambda row: (-row["exact_match"], row["loss"]))["learning_rate"]
    first = plan.first_rates("facts", "lora")
    assert set(rates) >= set(first) and len(rates) <= len(first) + plan.WIDENED
    assert rates[0] < best < rates[-1] or len(rates) == len(first) + plan.WIDENED
    compared = Counter(row["learning_rate"] for row in rows if row["seed"] != plan.CHOOSING)
    assert compared == {best: len(plan.COMPARING)}
    assert all(row["right"] and row["first_losses"] and row["test_rows"] == 8 and row["kl"] > 0 for row in rows)
    assert not list(plan.STORE.glob("*/*.safetensors")), "weights are left behind"

    before = plan.STUDY.read_bytes()
    plan.tune("facts", "lora")
    assert plan.STUDY.read_bytes() == before, "what is stored is trained again"


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    """The study with runs that take no time, whose score is a function of name, rate and seed."""
    monkeypatch.setattr(plan, "STUDY", tmp_path / "study.jsonl")
    monkeypatch.setattr(plan, "method_of", lambda name, task, rate: rate)

    def simulate(score):
        def measured(task, name, rate, seed):
            stored = {(row["name"], row["learning_rate"], row["seed"]) for row in plan.rows(task)}
            if (name, rate, seed) not in stored:
                row = run(task, name, score(name, rate, seed), seed, rate, forgot=1e3 * rate)
                with plan.STUDY.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")

        monkeypatch.setattr(plan, "measure", measured)
        return measured

    return simulate


@pytest.mark.parametrize(("spread", "seeds"), [(0.0, 3), (0.1, 9)])
def test_seeds_are_added_where_they_differ_too_much(simulated, spread, seeds):
    measured = simulated(lambda name, rate, seed: {"lora": 0.7 + spread * (seed % 3 - 1), "full": 0.75}[name])
    for seed in (plan.CHOOSING, *plan.COMPARING):
        for name in ("lora", "full"):
            measured("tickets", name, 1e-3, seed)
    plan.more_seeds("tickets")
    counts = Counter(row["name"] for row in plan.rows("tickets") if row["seed"] != plan.CHOOSING)
    assert counts == {"lora": seeds, "full": seeds}


def test_forgetting_is_compared_below_the_lowest_rates_of_the_sweep(simulated):
    """From 1e-3 down scores fall; at LoRA's second rate the seeds that did not choose it are worse."""
    falls = {"lora": {1e-3: 0.9, 5e-4: 0.85}, "full": {1e-3: 0.9, 5e-4: 0.88, 2.5e-4: 0.86}}

    def score(name, rate, seed):
        return falls[name].get(rate, 0.5) - 0.2 * (name == "lora" and rate < 1e-3 and seed > 0)

    measured = simulated(score)
    for name in ("lora", "full"):
        measured("tickets", name, 1e-3, plan.CHOOSING)
    plan.gentler("tickets")
    rows = plan.rows("tickets")
    lowest = {name: min(row["learning_rate"] for row in rows if row["name"] == name) for name in falls}
    assert lowest == {"lora": 2.5e-4, "full": 1.25e-4}
    seeds = Counter((row["name"], row["learning_rate"]) for row in rows)
    assert (
        seeds["lora", 1e-3] == seeds["full", 2.5e-4] == 4
    )  # where they are compared: LoRA's lower rate was one seed's luck
    assert seeds["full", 1e-3] == 1


@pytest.mark.slow
def test_what_another_name_has_trained_is_copied(quick, monkeypatch):
    method = SETTINGS["lora"].make(1e-3, "facts", 1e-3)
    plan.measure("facts", "lora", method, 0)
    monkeypatch.setattr(plan, "train", lambda *_, **__: pytest.fail("trained again"))
    plan.measure("facts", "auto", method, 0)
    (own,), (copied,) = plan.rows("facts", "lora"), plan.rows("facts", "auto")
    assert copied == own | {"name": "auto", "id": copied["id"]} and copied["id"] != own["id"]


@pytest.mark.slow
def test_a_run_that_was_stopped_leaves_no_row_and_is_trained_again(quick, monkeypatch):
    method = SETTINGS["lora"].make(1e-3, "facts", 1e-3)
    trained = plan.train
    with monkeypatch.context() as stopped, pytest.raises(SystemExit, match="interrupted; the same command goes on"):
        stopped.setattr(plan, "train", lambda *asked: trained(*asked, on_step=lambda report: True))
        plan.measure("facts", "lora", method, 0)
    assert plan.rows("facts") == []
    plan.measure("facts", "lora", method, 0)
    assert [row["status"] for row in plan.rows("facts")] == ["finished"]


def test_the_first_rates_are_around_the_best_of_the_first_study():
    assert plan.first_rates("protocol", "full") == pytest.approx((4e-4, 8e-4, 1.6e-3))
    assert plan.first_rates("docs", "full") == SETTINGS["full"].rates


@pytest.mark.slow
def test_a_hybrids_adapters_take_loras_best_rate(quick):
    plan.tune("facts", "lora")
    method = plan.method_of("hybrid", "facts", 3e-5)
    assert (method.learning_rate, method.full_learning_rate) == (plan.tuned_rate("facts", "lora"), 3e-5)


def test_the_rows_are_of_the_tasks_that_ship():
    ship = {task: task_of(task).sha256 for task in SHIPPED}
    for row in read_rows(STUDY):
        assert row["task_sha256"] == ship.get(row["task"], row["task_sha256"]), row["id"]
        assert row["settings"]["config"]["steps"] == row["steps"] and row["status"] in (
            "finished",
            "diverged",
            "destroyed",
        )
        assert row["precision"] == "float32" and row["id"] == plan.row_id(row["task"], row["name"], row["settings"])


def test_every_row_has_an_id_of_its_own():
    assert max(Counter(row["id"] for row in read_rows(STUDY)).values()) == 1


def test_no_two_settings_of_the_study_are_taken_for_one():
    told = [
        json.dumps(plan.settings_of(setting.make(setting.rates[0], "facts", 1e-3), config_of("facts", name)))
        for name, setting in SETTINGS.items()
        if name != "hybrid, largest gradients"  # takes a backward pass of the whole model
    ]
    assert len(set(told)) == len(told)


def test_what_is_compared_is_scored_on_every_test_row():
    settings = [(task, name, seed) for task in SHIPPED for name in SETTINGS for seed in plan.COMPARING]
    assert all(config_of(*each).test_limit is None for each in settings)
    assert all(len(task_of(task).test) >= 1000 for task in SHIPPED if task not in RECALLED)


def test_a_task_that_is_not_done_keeps_the_rows_of_the_first_study(tmp_path, monkeypatch):
    few = [row for row in read_rows(STUDY) if row["seed"] == plan.CHOOSING]
    partial = tmp_path / "study.jsonl"
    partial.write_text("".join(json.dumps(row) + "\n" for row in few), encoding="utf-8")
    monkeypatch.setattr("workbench.results.reference.STUDY", partial)
    assert study_rows() == [row | {"first_study": True} for row in read_rows(FIRST_STUDY)]
    monkeypatch.setattr("workbench.results.reference.STUDY", shutil.copy(STUDY, partial))
    assert {row["task"] for row in study_rows()} >= {row["task"] for row in read_rows(FIRST_STUDY)}
