"""The task of real documentation: names masked, near-duplicates dropped, files on one side, read without importing."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from importlib import metadata

import pytest
from hypothesis import given, strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from workbench.errors import TaskError
from workbench.paths import cache_dir
from workbench.tasks import Example, docs, docstrings, load_task

WORDS = st.sampled_from(["a", "base", "matrix", "of", "the", "sorted", "graph", "edges", "returns", "new"])
TEXTS = st.lists(WORDS, min_size=4, max_size=20).map(" ".join)
PASSAGES = st.lists(
    st.builds(
        docs.Passage, TEXTS, st.just("numpy.lib"), st.sampled_from([f"numpy.lib.m{i}" for i in range(8)]), st.just(())
    )
)


@pytest.fixture(scope="module")
def passages():
    """All passages, with the names and the files that they are from, as they are read."""
    return docs.all_passages()


@pytest.fixture(scope="module")
def task():
    return load_task("docs")


def passage(row: Example) -> str:
    return re.fullmatch(r"Passage: (.*)\nPackage:", row.prompt)[1]


# --- the rows


@pytest.mark.slow
def test_there_are_enough_rows_of_each_of_many_labels(task):
    assert task.name == "docs" and task.labels == tuple(sorted(docs.LABELS)) and len(task.labels) >= 20
    assert len(task.train) >= 2000 and len(task.test) >= 1000
    for rows in (task.train, task.test):
        counts = Counter(row.completion for row in rows)
        assert (
            len(counts) == len(task.labels) and max(counts.values()) <= 0.1 * len(rows) and min(counts.values()) >= 20
        )
        assert len({passage(row) for row in rows}) == len(rows)


@pytest.mark.slow
def test_a_row_ends_with_a_sentence_and_holds_no_name(task, passages):
    names = {each.text: {*each.names, *each.module.split("."), *each.label.split(".")} for each in passages}
    for row in (*task.train, *task.test):
        text = passage(row)
        words = {word.lower() for word in re.findall(r"\w+", text)}
        assert 12 <= len(text.split()) <= 60 and row.completion[0] == " "
        assert not {name.lower() for name in names[text]} & words, text
        assert not any(name.lower() in text.lower() for name in docs.PACKAGES), text


@pytest.mark.slow
def test_files_of_train_and_test_are_apart_and_so_are_the_texts(task, passages):
    module = {each.text: each.module for each in passages}
    train, test = ([passage(row) for row in rows] for rows in (task.train, task.test))
    assert not {module[text] for text in train} & {module[text] for text in test}
    known = [docstrings.trigrams(text) for text in train]
    for mine in map(docstrings.trigrams, test):
        assert max(len(mine & other) / min(len(mine), len(other)) for other in known) <= 0.5


@pytest.mark.slow
def test_words_alone_answer_some_and_not_most(task):
    bag = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(bag, LogisticRegression(C=30, max_iter=500))
    model.fit([row.prompt for row in task.train], [row.completion for row in task.train])
    score = model.score([row.prompt for row in task.test], [row.completion for row in task.test])
    assert 0.35 < score < 0.7


@pytest.mark.slow
def test_reading_imports_none_of_the_packages_and_gives_the_same_rows(task, tmp_path):
    code = (
        "import sys; from workbench.tasks import load_task, docs; print(load_task('docs').sha256);"
        "print(*[name for name in docs.PACKAGES if name in sys.modules])"
    )
    environment = {**os.environ, "WORKBENCH_CACHE": str(tmp_path), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{task.sha256}\n\n" and done.stderr == ""


# --- the cache, versions and packages that are missing


@pytest.fixture
def two_passages(monkeypatch, tmp_path):
    """A cache of its own and rows that are quick to build; the number of times that they were built."""
    built = []
    rows = [Example("Passage: one\nPackage:", " numpy.lib")], [Example("Passage: two\nPackage:", " torch.nn")]
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(docs, "build_rows", lambda: built.append(1) or rows)
    return built


def test_rows_are_built_once_for_these_versions(two_passages, monkeypatch):
    first = load_task("docs")
    assert load_task("docs") == first and len(two_passages) == 1
    assert f"torch {metadata.version('torch')}" in first.source and "numpy" in first.source
    monkeypatch.setattr(docstrings.metadata, "version", lambda name: "9.9")
    other = load_task("docs")
    assert len(two_passages) == 2 and "torch 9.9" in other.source and other.sha256 == first.sha256


@pytest.mark.parametrize("content", ["[[", "[[]]", '[[["one"]], []]', json.dumps([[[1, 2]], []])])
def test_a_damaged_cache_is_built_again(two_passages, content):
    first = load_task("docs")
    (file,) = (cache_dir() / "docs").iterdir()
    file.write_text(content, encoding="utf-8")
    assert load_task("docs") == first == load_task("docs") and len(two_passages) == 2


def test_a_cache_that_cannot_be_written_is_named(two_passages, monkeypatch, tmp_path):
    (tmp_path / "docs").write_text("a file", encoding="utf-8")
    with pytest.raises(TaskError, match=r"could not be written to .*docs: .*set WORKBENCH_CACHE"):
        load_task("docs")


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    installed = metadata.version

    def version(name: str) -> str:
        return installed("no-such-package" if name == "sympy" else name)

    monkeypatch.setattr(docstrings.metadata, "version", version)
    with pytest.raises(TaskError, match=r"documentation of sympy, which is not installed.*pip install -c constraints"):
        load_task("docs")


def test_a_folder_called_docs_is_read_by_its_path(two_passages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir(exist_ok=True)
    (tmp_path / "docs" / "train.jsonl").write_text(
        '{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}'
    )
    assert load_task("docs").labels == ("numpy.lib", "torch.nn") and load_task("./docs").labels is None
    with pytest.raises(TaskError, match="subset='x' is for Hub datasets"):
        load_task("docs", subset="x")


# --- the rules, one by one


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Sum of the array elements", "Sum of the array elements"),
        ("A NumPy matrix, pytorch's or np.array", "A ___ matrix, ___'s or ___.array"),
        ("solve_it, solve-it, Solves, solve2, resolve", "___, ___-it, ___, ___, resolve"),
        ("Uses read_csv and read", "Uses ___ and read"),
    ],
)
def test_names_are_masked_as_words_and_packages_anywhere(text, hidden):
    assert docs.masked(text, ("solve", "_read_csv")) == hidden


@given(st.lists(WORDS, min_size=1), st.sets(WORDS))
def test_no_name_is_left_and_no_other_word_is_lost(words, names):
    text = docs.masked(" ".join(words), sorted(names)).split()
    assert all(new == (docstrings.MASK if old in names else old) for old, new in zip(words, text, strict=True))


def test_prose_ends_before_arguments_and_leaves_code_and_headings_out():
    docstring = (
        "Solve :func:`~a.f` for ``x`` [1]_.\n\n.. note:: old\n\n>>> f(1)\n2\n\nExplanation\n===========\n\nIt is slow."
        "\n\nSee Also\n--------\nother\n\nstill other\n\nArgs:\n    x: a number\n\nNever read."
    )
    assert docstrings.prose(docstring) == "Solve ~a.f for x. It is slow."


def test_a_passage_is_cut_at_the_end_of_a_sentence():
    sentence = "The result has one more of these than there were before it began."
    assert docs.passage_text(" ".join([sentence] * 9), ()) == " ".join([sentence] * 4)
    assert docs.passage_text("Too short to tell.", ()) is None
    assert docs.passage_text(sentence.replace(".", " and " * 60), ()) is None  # one sentence, too long
    assert docs.passage_text(sentence, ("the", "result", "one", "of")) is None  # mostly masked


@given(PASSAGES)
def test_whole_files_go_to_one_side_and_most_to_train(found):
    train, test = docs.split(found)
    assert not {each.module for each in train} & {each.module for each in test}
    assert len(test) <= len(found) / 3 and sorted(map(str, train + test)) == sorted(map(str, found))


@given(PASSAGES)
def test_no_two_that_are_kept_share_half_of_their_trigrams(found):
    kept = docs.distinct(found, lambda each: each.text)
    sets = [docstrings.trigrams(each.text) for each in kept]
    assert not found or kept[0] == found[0]
    assert all(len(a & b) <= 0.5 * min(len(a), len(b)) for i, a in enumerate(sets) for b in sets[:i])
