"""What `workbench data` tells of a file: how it is read, three rows, and each finding with its row numbers."""

import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from workbench.cli import main
from workbench.tasks.checks import rows_needed, visible_gap
from workbench.tasks.report import data_report

ROWS = [{"prompt": f"Ask for the {word}", "completion": f" say {i}"} for i, word in enumerate("abcdefghij")]


def report(tmp_path, rows, **options):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data_report(path, **options)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([{"prompt": "Echo", "completion": " Echo"}], "Prompt and completion are the same: row 11."),
        ([ROWS[0], ROWS[3]], "Repeats an earlier row word for word: 2 rows (11, 12)."),
        ([{**ROWS[1], "completion": " no"}], "The same prompt has other completions: 2 rows (2, 11)."),
        ([{"prompt": "x " * 900, "completion": " y"}], "times those of the middle row or more: row 11."),
        ([{"prompt": "Word", "completion": "play"}], "('Wordplay'; begin the completion with a space): row 11."),
    ],
)
def test_rows_to_look_at_are_named(tmp_path, more, sentence):
    assert any(sentence in finding for finding in report(tmp_path, [*ROWS, *more]).findings)
    assert not any(sentence[:20] in finding for finding in report(tmp_path, ROWS).findings)


def test_one_answer_only_is_told(tmp_path):
    found = report(tmp_path, [{**row, "completion": " same"} for row in ROWS]).findings
    assert any("All completions are 'same'" in finding for finding in found)


def test_rows_that_do_not_fit_are_counted_in_tokens(tmp_path, base):
    rows = [*ROWS, {"prompt": "word " * 50, "completion": " x"}, {"prompt": "a", "completion": " word" * 50}]
    rows.append({"prompt": "b", "completion": f" x{base.tokenizer.eos_token} y"})
    found = "\n".join(report(tmp_path, rows, tokenizer=base.tokenizer, max_length=40).findings)
    assert "Longer than max_length=40 tokens (the longest has 53): 2 rows (11, 12)." in found
    assert "The prompt alone fills max_length=40, so the completion would be cut away: row 11." in found
    assert f"The completion holds end-of-text {base.tokenizer.eos_token!r} before its end" in found
    assert found.count("row 13") == 1


def test_near_duplicates_of_a_test_that_came_along_are_told(tmp_path):
    rows = [
        {"prompt": f"{'the quick brown fox jumps over it '}{' '.join(c * 3)} {c}", "completion": " x"}
        for c in "abcdefg"
    ]
    for name, part in (("train", rows[:5]), ("test", [{**rows[1], "prompt": rows[1]["prompt"] + " now"}, *rows[5:]])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    found = data_report(tmp_path).findings
    assert any(
        "1 of 3 test rows are nearly the same as a train row, first test row 1 and train row 2" in f for f in found
    )


def test_the_rows_that_a_difference_takes(tmp_path):
    few = report(tmp_path, ROWS).findings[-1]
    assert few.startswith("2 test rows show a difference of 100 points") and "for 5 points about 625 test rows" in few
    many = [{"prompt": f"{i} {i * 7} {i * 13} and {i * 17}", "completion": f" {i}"} for i in range(3200)]
    assert not any("test rows show" in finding for finding in report(tmp_path, many).findings)


@given(st.integers(10, 100_000), st.floats(0.05, 0.5))
def test_visible_gap_and_rows_needed_are_inverse(rows, disagree):
    assert rows_needed(visible_gap(rows, disagree), disagree) == pytest.approx(rows, rel=1e-6, abs=1)


@pytest.mark.parametrize(("gap", "disagree"), [(0.05, 0.2), (0.1, 0.3)])
def test_that_many_rows_do_tell_them_apart(gap, disagree):
    """Simulated: with the rows that the rule asks for, the 95 % interval excludes 0 about 8 times of 10."""
    rows, tries = rows_needed(gap, disagree), 2000
    shares = [(disagree + gap) / 2, (disagree - gap) / 2, 1 - disagree]
    better, worse, _ = np.random.default_rng(0).multinomial(rows, shares, size=tries).T
    mean = (better - worse) / rows
    error = np.sqrt(((better + worse) / rows - mean**2) / rows)
    assert 0.77 < np.mean(np.abs(mean) > 1.96 * error) < 0.83


def test_the_command_shows_columns_three_rows_and_findings(tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("Frage;Antwort;Datum\n" + "".join(f"f{i};a{i};1\n" for i in range(9)))
    arguments = ["data", str(tmp_path / "mine.csv"), "--prompt-column", "{Frage}\n", "--completion-column", "Antwort"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for words in ("columns: Frage, Antwort, Datum", 'left unread: column "Datum"', "columns divided by semicolons"):
        assert words in shown
    assert "row 3\n  Frage: 'f2'" in shown and "row 4" not in shown and r"prompt 3: 'f2\n'" in shown
    assert "7 rows to train on, 2 to test on (held out by a seeded draw, near-duplicates together)" in shown
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"][0].startswith("2 test rows show")


def test_the_command_names_what_it_cannot_read(tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("Frage;Antwort\na;b\n")
    assert main(["data", str(tmp_path / "mine.csv")]) == 2
    assert 'Name yours, e.g. load_task(..., prompt="Frage", completion="Antwort")' in capsys.readouterr().err
    assert main(["data", "orders", "--chat", "model"]) == 2
    assert "--chat model needs --model" in capsys.readouterr().err


def test_a_whole_set_of_findings_is_none_for_plain_data(tmp_path):
    many = [{"prompt": f"{i} {i * 7} {i * 13} and {i * 17}", "completion": f" {i}"} for i in range(3200)]
    assert "Look at: nothing; no check found a fault." in report(tmp_path, many).text()
