"""Every exercise three ways: the stub is "not yet", the solution passes, each planted mistake gets its own message."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from workbench import exercises
from workbench.exercises.framework import function_from

ALL = exercises.identifiers()
NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
MISTAKES = [(id, mistake) for id in ALL for mistake in exercises.find(id).wrong]


@pytest.mark.parametrize("id", ALL)
def test_the_stub_is_not_yet(id):
    exercise = exercises.find(id)
    result = exercises.check(id, function_from(exercise.stub, exercise.function))
    assert not result.passed and not result.started and "returns nothing so far" in result.message
    assert repr(result).startswith("Not yet.")


@pytest.mark.parametrize("id", ALL)
def test_the_solution_passes(id):
    exercise = exercises.find(id)
    result = exercises.check(id, function_from(exercise.solution, exercise.function))
    assert result.passed and bool(result) and result.message == exercise.explanation


@pytest.mark.parametrize(("id", "mistake"), MISTAKES)
def test_each_mistake_gets_its_own_message(id, mistake):
    exercise = exercises.find(id)
    result = exercises.check(id, function_from(mistake.source, exercise.function))
    assert not result.passed and result.message == mistake.message


@pytest.mark.parametrize("id", ALL)
def test_messages_differ_and_every_exercise_is_complete(id):
    exercise = exercises.find(id)
    messages = [mistake.message for mistake in exercise.wrong]
    assert len(messages) >= 1 and len(set(messages)) == len(messages)
    assert exercise.id == id and exercise.difficulty in ("easy", "medium", "hard") and exercise.minutes > 0
    assert len(exercise.hints) >= 2 and f"def {exercise.function}(" in exercise.stub
    assert exercise.stub.count("\n") <= 15


@pytest.mark.parametrize("id", ALL)
def test_an_unforeseen_wrong_answer_is_shown_with_the_right_one(id):
    exercise = exercises.find(id)
    message = exercises.check(id, lambda *arguments: -12345.5).message
    assert f"{exercise.function}(" in message and "-12345.5" in message and "should give" in message


@pytest.mark.parametrize("id", ALL)
def test_an_exception_is_reported_with_its_type_and_line(id):
    def broken(*arguments):
        total = 0
        return 1 / total

    result = exercises.check(id, broken)
    assert not result.passed
    assert "ZeroDivisionError (division by zero) on its line 3: return 1 / total" in result.message


def test_an_exception_in_a_helper_is_reported_with_the_line_that_calls_it():
    def helper(value):
        return value / 0

    def broken(*arguments):
        return helper(1)

    message = exercises.check("02.scaling", broken).message
    assert message == "Your function raised ZeroDivisionError (division by zero) on its line 2: return helper(1)"


def test_the_right_values_in_another_kind_of_list_are_told_so():
    exercise = exercises.find("03.absmax")
    right = function_from(exercise.solution, exercise.function)
    hint = "it should give [4, -7, 2] (the values are right; return a plain list)."
    for kind in (tuple, np.array):
        result = exercises.check("03.absmax", lambda values, bits, kind=kind: kind(right(values, bits)))
        assert not result.passed and result.message.endswith(hint)
    assert "plain list" not in exercises.check("03.absmax", lambda values, bits: (1, 2, 3)).message
    assert "plain list" not in exercises.check("03.absmax", lambda values, bits: [*right(values, bits), 1]).message


def test_who_only_prints_is_told_that_this_is_not_returning():
    result = exercises.check("02.scaling", lambda *arguments: print("128"))
    assert not result.started and "use return, printing is not enough" in result.message


def test_a_function_with_the_wrong_arguments_is_reported():
    assert "TypeError" in exercises.check("02.scaling", lambda alpha: alpha).message
    assert "'a' is not defined" in exercises.check("02.scaling", lambda *x: a).message  # noqa: F821


@pytest.mark.parametrize("answer", [3.0, None, "matching_alpha"])
def test_a_value_instead_of_a_function_is_explained(answer):
    message = exercises.check("02.scaling", answer).message
    assert "without brackets" in message and "check('02.scaling', matching_alpha)" in message


@pytest.mark.parametrize("answer", [lambda *_: [np.ones(2)] * 3, lambda *_: [torch.ones(2)] * 3])
def test_a_list_of_arrays_is_wrong_and_no_error(answer):
    assert not exercises.check("03.absmax", answer).passed


def test_a_number_that_no_float_can_hold_is_wrong_and_no_error():
    assert not exercises.check("00.size", lambda *_: 10**400).passed


def test_answers_of_other_libraries_count():
    def with_torch(alpha, rank, new_rank, rslora):
        ratio = torch.tensor(new_rank / rank, dtype=torch.float64)
        return alpha * (ratio.sqrt() if rslora else ratio)

    assert exercises.check("02.scaling", with_torch)
    assert exercises.check("02.scaling", lambda a, r, n, rslora: np.float64(a) * (n / r) ** (0.5 if rslora else 1))
    assert not exercises.check("02.scaling", lambda *arguments: torch.zeros(3))


def test_a_learner_who_changes_the_arguments_does_not_spoil_the_check():
    def greedy(runs):
        runs.clear()
        return "lora"

    first, second = (exercises.check("06.fair", greedy).message for _ in range(2))
    assert first == second


def test_results_and_hints_are_readable_in_a_terminal_and_in_a_notebook():
    result = exercises.check("02.scaling", lambda *arguments: "<b>")
    assert repr(result).startswith("Not right. ") and "&lt;b&gt;" in result._repr_html_()
    hints = exercises.hint("02.scaling")
    assert hints._repr_html_().count("<details") == len(exercises.find("02.scaling").hints)
    assert "Hint 1 of" in repr(hints)
    assert "matching_alpha" in repr(exercises.solution("02.scaling"))
    assert "<pre>" in exercises.solution("02.scaling")._repr_html_()


def test_an_unknown_exercise_is_named():
    with pytest.raises(ValueError, match=r"there is no exercise '09\.none'; there are .*01\.rank"):
        exercises.check("09.none", print)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_holds_the_exercise_as_it_is_here(path):
    cells = nbformat.read(path, as_version=4).cells
    sources = [cell.source.strip() for cell in cells]
    used = re.findall(r'check\("(\d\d\.\w+)"', "\n".join(sources))
    for id in used:
        exercise = exercises.find(id)
        assert exercise.markdown().strip() in sources, f"{path.name}: text of {id}"
        assert exercise.stub.strip() in sources, f"{path.name}: stub of {id}"
        assert any(f'hint("{id}")' in source for source in sources), f"{path.name}: hint of {id}"
        assert any(f'solution("{id}")' in source for source in sources), f"{path.name}: solution of {id}"
    assert set(used) == {id for id in ALL if path.name.startswith(id[:2])}


def test_exercises_load_without_torch():
    """A learner's first check answers at once; torch takes seconds to load."""
    code = "import sys\nfrom workbench import exercises\n[exercises.find(id) for id in exercises.identifiers()]\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
