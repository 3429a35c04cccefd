"""What a learner has done: kept file by file, shown as a map, and gone after `workbench reset`."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.records import run
from workbench import exercises, learner
from workbench.cli import main
from workbench.exercises.progress import course_map, lessons
from workbench.panels.predict import predict_choice
from workbench.paths import RUNS_VARIABLE
from workbench.training.store import RunStore


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(RUNS_VARIABLE, str(tmp_path))
    return tmp_path


def test_a_solved_exercise_is_kept_and_a_wrong_answer_is_not(folder):
    one = exercises.find("00.size")
    exercises.check("00.size", one.answer_from(one.wrong[0].answer))
    assert learner.noted(learner.SOLVED) == []
    exercises.check("00.size", one.answer_from(one.solution))
    assert learner.noted(learner.SOLVED) == ["00.size"]


def test_a_lesson_counts_when_it_compares_the_prediction(folder, monkeypatch):
    predict_choice("Which?", ["a", "b"]).compare("a")
    assert learner.noted(learner.LESSON) == [], "nobody said which notebook it is"
    monkeypatch.setenv("JPY_SESSION_NAME", "/somewhere/notebooks/06_lora_vs_full.ipynb")
    predict_choice("Which?", ["a", "b"]).compare("a")
    assert learner.noted(learner.LESSON) == ["06"]


def test_facts_of_notebooks_that_run_at_once_are_all_kept(folder):
    names = [f"{number:02}.x" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: learner.note(learner.SOLVED, name), names * 3))
    assert learner.noted(learner.SOLVED) == names
    learner.note(learner.SOLVED, "../escape")
    assert learner.noted(learner.SOLVED) == names and not list(folder.glob("*.json"))


def test_a_disk_that_takes_nothing_stops_no_lesson(folder):
    (folder / "learner").write_text("a file where the folder should be")
    learner.note(learner.SOLVED, "00.size")
    assert learner.noted(learner.SOLVED) == []


def test_the_map_has_every_lesson_and_exercise(folder):
    learner.note(learner.SOLVED, "00.size"), learner.note(learner.LESSON, "00")
    shown = course_map()
    assert all(title in shown for title in lessons().values())
    assert shown.count("●") == 2 and shown.count("○") == len(exercises.identifiers()) + len(lessons()) - 2
    assert f"1 of {len(exercises.identifiers())} exercises solved, 1 lessons run" in shown


@pytest.mark.parametrize(("typed", "gone"), [("yes\n", True), ("no\n", False), ("", False)])
def test_reset_says_what_goes_and_asks(folder, monkeypatch, capsys, typed, gone):
    store = RunStore(folder)
    store.save(run("lora", artifact_bytes=3_000_000))
    learner.note(learner.SOLVED, "00.size")
    (folder / "notes.txt").write_text("mine")
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert main(["reset"]) == (0 if gone else 1)
    said = capsys.readouterr().out
    assert "1 run with 3 MB" in said and "1 file of bets, progress" in said
    assert (store.all() == [] and not (folder / "learner").exists()) == gone
    assert (folder / "notes.txt").exists()


def test_reset_of_nothing_asks_nothing(folder, capsys):
    assert main(["reset"]) == 0 and "Nothing to remove" in capsys.readouterr().out
