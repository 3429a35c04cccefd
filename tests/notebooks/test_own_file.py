"""Lesson 10 with a file that a person brings: chats as ShareGPT exports them, and nothing in the folder of runs."""

import json

import pytest

from workbench.course.runner import find_notebooks, run_notebook

QUESTIONS = ("Where is my parcel", "How do I reset router", "Can I change the address of order", "What about lamp")


@pytest.mark.slow
def test_a_file_of_chats_comes_to_its_report(tmp_path):
    chats = [
        [
            {"from": "human", "value": f"{QUESTIONS[number % 4]} {number}?"},
            {"from": "gpt", "value": f"Please look at page {number % 4}."},
        ]
        for number in range(60)
    ]
    file = tmp_path / "chats.json"
    file.write_text(json.dumps([{"conversations": chat} for chat in chats]), encoding="utf-8")
    (path,) = find_notebooks(["10"])
    result = run_notebook(path, tmp_path / "executed", parameters={"data_file": str(file)})
    if not result.passed:
        pytest.fail(str(result.failure), pytrace=False)
