"""The reference study: a row can be trained again, and it goes on where it stopped without training anything twice."""

import random
import shutil
from dataclasses import replace

import pytest

from support.records import record
from workbench import RunStore, TrainConfig, load_task, train
from workbench.results.reference import COSTS
from workbench.study import plan
from workbench.training.lifecycle import run_trials


def short_rows():
    """Two rows in float32, not on `orders`, whose rows are long; others are drawn whenever the file has changed."""
    rows = [row for row in plan.read_rows(plan.STUDY) if row["task"] != "orders" and row["precision"] == "float32"]
    rows = [row for row in rows if row["method"].startswith("lora") and row["learning_rate"] < 8e-3]  # else chaotic
    return random.Random(plan.STUDY.read_bytes()).sample(rows, 2)


@pytest.mark.parametrize("row", short_rows(), ids=lambda row: f"{row['task']}-{row['name']}-{row['learning_rate']:g}")
def test_a_row_begins_again_as_recorded(row, base, tmp_path):
    """Six steps of two minutes of training, against the recorded curve; at half or twice the rate they end 15 % off."""
    task, config = plan.task_and_config(row["task"])
    rank, alpha = row["rank"], row["alpha"]
    make = plan.METHODS[row["name"]][0] if row["name"] in plan.METHODS else lambda rate: plan.lora(rank, alpha, rate)
    method = make(row["learning_rate"])
    assert plan.identity(plan.as_row(row["name"], method, row["seed"])) == plan.identity(row)
    config = replace(config, seed=row["seed"], evaluate=False)
    run = train(base, task, method, config, RunStore(tmp_path), on_step=lambda entry: entry["step"] == 6)
    first, sixth = run.history[0]["loss"], run.history[5]["loss"]
    assert first == pytest.approx(row["losses"][0], rel=0.01)
    assert sixth == pytest.approx(row["losses"][1], rel=0.01)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """What the study would train, with its rows in a copy of the file."""
    monkeypatch.setattr(plan, "STUDY", shutil.copy(plan.STUDY, tmp_path / "study.jsonl"))
    asked = []
    monkeypatch.setattr(plan, "train", lambda task, named, seeds: asked.append((task, named, list(seeds))))
    return asked


@pytest.mark.parametrize("task", plan.TASKS)
@pytest.mark.parametrize("name", ["lora", "lora r=64"])
def test_what_is_stored_is_not_trained_again(trained, task, name):
    before = plan.rows(task)
    plan.measure(task, plan.grid(name))
    assert trained == [] and plan.rows(task) == before


def test_what_another_name_has_trained_is_copied(trained):
    row = next(row for row in plan.rows("tickets", "auto") if row["seed"] == 0)
    plan.measure("tickets", [("twin", plan.lora(8, 32, row["learning_rate"]))])
    (copied,) = plan.rows("tickets", "twin")
    assert trained == [] and copied == row | {"name": "twin"}


def test_what_is_missing_is_trained_together_where_that_is_possible(trained):
    named = [("lora", plan.lora(8, 32, 3e-3)), ("starved", plan.lora(1, 32, 3e-3, targets=["q_proj"], layers=[15]))]
    packed = [("qlora", plan.qlora(8, 32, rate)) for rate in (3e-3, 6e-3)]
    plan.measure("tickets", [*named, *packed, ("full", plan.full(3e-5))], seeds=(0, 1))
    together = [([name for name, _ in own], seeds) for _, own, seeds in trained]
    assert together == [
        (["lora", "starved"], [0, 1]),
        (["qlora", "qlora"], [0, 1]),
        (["full"], [0]),
        (["full"], [1]),
    ]


def test_a_stopped_sweep_leaves_the_rows_of_what_was_finished(tmp_path, monkeypatch):
    """Two methods, three seeds: one diverged, one was under way, the last of each has no scores or never began."""
    methods = [plan.lora(8, 32, 3e-3), plan.lora(16, 32, 3e-3)]
    named = [("lora", methods[0]), ("twin", methods[0]), ("lora r=16", methods[1])]
    scores = {"exact_match": 0.5, "loss": 1.0}
    ends = [(methods[0], 0, "finished", scores), (methods[0], 1, "diverged", {}), (methods[0], 2, "finished", {})]
    ends += [(methods[1], 0, "finished", scores), (methods[1], 1, "interrupted", {})]

    def stopped(*_, **__):
        for method, seed, status, metrics in ends:
            own = method.to_dict() | {"label": method.label}
            fields = {"method": own, "config": {"seed": seed, "steps": 60}, "before": {"exact_match": 0.0}}
            fields |= {"precision": {"compute": "float32"}, "hardware": {"processor": "any"}}
            fields |= {"task": {"name": "tickets", "sha256": "0"}, "metrics": metrics}
            yield record(f"{method.rank}-{seed}", status=status, **fields)

    monkeypatch.setattr(plan, "STUDY", tmp_path / "study.jsonl")
    monkeypatch.setattr(plan, "base", lambda quantization: None)
    monkeypatch.setattr(plan, "sweep", lambda *_, **__: list(stopped()))
    with pytest.raises(SystemExit, match="5 of 9 runs are done; the same command goes on"):
        plan.train("tickets", named, [0, 1, 2])
    stored = [(row["name"], row["seed"], row["status"]) for row in plan.rows("tickets")]
    of_first = [
        (name, seed, status) for seed, status in ((0, "finished"), (1, "diverged")) for name in ("lora", "twin")
    ]
    assert stored == [*of_first, ("lora r=16", 0, "finished")]


@pytest.mark.slow
def test_a_sweep_that_broke_off_is_taken_up_where_it_was(small, tmp_path, monkeypatch):
    """The second pass fails, as for want of memory or by a signal; what the first has trained is not trained again."""
    config = TrainConfig(steps=2, batch_size=2, test_limit=2, save=False)
    monkeypatch.setattr(plan, "STUDY", tmp_path / "study.jsonl")
    monkeypatch.setattr(plan, "STORE", tmp_path / "build")
    monkeypatch.setattr(plan, "base", lambda quantization: small)
    monkeypatch.setattr(plan, "task_and_config", lambda name: (load_task("facts"), config))
    named = [("lora", plan.lora(1, 32, 1e-3)), ("alone", plan.lora(2, 32, 1e-3, dora=True))]

    def run_trials_unless(several: bool, instead):
        """Train a pass, unless it has several trials (or one): then `instead` is called."""
        return lambda trials, *rest: instead() if (len(trials) > 1) == several else run_trials(trials, *rest)

    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr("workbench.sweeps.sweep.run_trials", run_trials_unless(False, lambda: 1 / 0))
        plan.train("facts", named, [0, 1])
    assert plan.rows("facts") == []
    again = run_trials_unless(True, lambda: pytest.fail("trained again"))
    monkeypatch.setattr("workbench.sweeps.sweep.run_trials", again)
    plan.train("facts", named, [0, 1])
    rows = plan.rows("facts", "lora") + plan.rows("facts", "alone")
    assert [(row["name"], row["seed"], row["together"]) for row in rows] == [
        *(("lora", seed, 2) for seed in (0, 1)),
        *(("alone", seed, None) for seed in (0, 1)),
    ]
    assert all(row["losses"] and row["task_sha256"] and row["base_exact_match"] is not None for row in rows)


def test_the_rows_are_of_the_tasks_that_ship():
    rows = plan.read_rows(plan.STUDY)
    ship = {task: plan.task_and_config(task)[0].sha256 for task in plan.TASKS}
    assert all(row["task_sha256"] == ship[row["task"]] for row in [*rows, *plan.read_rows(COSTS)])
    steps = {task: plan.task_and_config(task)[1].steps for task in plan.TASKS}
    assert all(row["steps"] == steps[row["task"]] and row["status"] in ("finished", "diverged") for row in rows)


def test_no_two_settings_of_the_study_are_taken_for_one(trained):
    settings = [plan.as_row(name, make(rates[0]), 0) for name, (make, rates) in plan.METHODS.items()]
    assert len({plan.identity(row)[1:] for row in settings}) == len(settings)
