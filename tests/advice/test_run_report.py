"""The report: one file with everything in it, its numbers those of the runs, and no word of a run taken for HTML."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from support.records import run
from workbench.advice.run_report import report, run_names
from workbench.cli import main
from workbench.errors import RunError
from workbench.scoring.scores import pack_rows
from workbench.training.store import RunStore

ROWS = np.random.default_rng(0).random(400)


def scored(name, score, **changes):
    fields = {
        "right": {"exact_match": pack_rows(score > ROWS)},
        "before": {"exact_match": 0.02},
        "config": {"seed": 0, "steps": 60, "batch_size": 16, "test_limit": None},
        "precision": {"frozen": "float32", "compute": "float32"},
        "hardware": {"processor": "A <fast> one"},
        "task": {"name": "mails", "source": "t", "sha256": "0", "test_sha256": "1", "train_rows": 90, "test_rows": 400},
    }
    return run(name, score, **(fields | changes))


RUNS = [scored("lora", 0.7), scored("full", 0.8, memory=3e9)]


class Reader(HTMLParser):
    """Collects the tags, and what a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.tags, self.fetched, self.open = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "poster")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(page) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader


def test_the_file_needs_no_other_file_and_no_script():
    reader = read(report(RUNS))
    assert reader.fetched and all(each.startswith("data:image/png;base64,") for each in reader.fetched)
    assert not {"script", "link", "iframe"} & set(reader.tags) and "math" in reader.tags
    assert "url(" not in report(RUNS) and "@import" not in report(RUNS)


def test_its_numbers_are_those_of_the_runs():
    page = report(RUNS)
    for words in ("70% ± 5", "80% ± 4", "The highest exact match is 80%, by full.", "The base without training has 2%"):
        assert words in page
    assert re.search(r"full is \d+\.\d points better \(95 % interval", page)
    assert "full needs 3.0 times the peak memory of LoRA." in page and "sha256 0" in page
    assert page.count("<figure>") == 3 and page.count('alt="') == 3


def test_words_of_a_run_are_no_html():
    page = report(RUNS, title="<script>alert(1)</script>")
    assert "<script>" not in page and "A &lt;fast&gt; one" in page


def test_one_run_alone_is_reported_without_a_comparison():
    page = report(RUNS[:1])
    assert "Row by row" not in page and "No claim can be judged" in page
    bare = report([run("lora", metrics={}, forgetting={}, hardware={"processor": "x"})])
    assert "<td>-</td>" in bare


def test_runs_of_other_lengths_judge_no_claim():
    longer = scored("full", 0.8, config={**RUNS[0].config, "steps": 200})
    assert "No claim can be judged" in report([RUNS[0], longer]) and "No claim" not in report(RUNS)


def test_runs_of_several_tasks_are_no_report():
    other = scored("full", 0.8, task={**RUNS[0].task, "sha256": "9"})
    with pytest.raises(RunError, match="are of 2 tasks; a report is about one"):
        report([RUNS[0], other])
    with pytest.raises(RunError, match="There are no finished runs to report"):
        report([])


def test_the_command_writes_the_runs_that_can_be_compared(tmp_path, capsys):
    store = RunStore(tmp_path / "runs")
    arguments = ["report", "--runs-folder", str(store.path), "--out", str(tmp_path / "report.html")]
    assert main(arguments) == 2 and "There are no finished runs" in capsys.readouterr().err
    for one in RUNS:
        store.save(one)
    assert main(arguments) == 0 and "2 runs" in capsys.readouterr().out
    assert "80% ± 4" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main(["report", "lora", *arguments[1:]]) == 0
    assert "80%" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert main([*arguments[:3], "--out", str(tmp_path / "no" / "x.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main(["report", "nothing", *arguments[1:]]) == 2


def adapters(**changes):
    method = {
        "name": "lora",
        "label": "lora r=2",
        "learning_rate": 1e-3,
        "rank": 2,
        "alpha": 4.0,
        "targets": "all-linear",
    }
    return scored("lora", 0.7, method=method | changes)


def test_runs_of_one_label_are_told_apart():
    runs = [adapters(), adapters(alpha=64.0), adapters(targets=["q_proj"]), adapters(layers=[0, 1]), adapters()]
    names = run_names(runs)
    assert len({*names[:4]}) == 4 and names[1] == "lora r=2, alpha 64, all-linear" and "q_proj" in names[2]
    assert "blocks 0, 1" in names[3]
    text = report(runs[:3])
    assert text.count("alpha 64, all-linear") >= 3, "in the scores, row by row, and in how to repeat it"
    assert "Row by row against lora r=2, alpha 4, all-linear" in text


def test_one_test_row_is_compared_with_nothing():
    one = {"right": {"exact_match": pack_rows(np.array([True]))}}
    assert "Row by row" not in report([scored("lora", 0.7, **one), scored("full", 0.8, **one)])
