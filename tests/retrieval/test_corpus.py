"""The corpus of real documentation: large enough, no module on two sides; and bad corpora are refused."""

import re
from importlib import metadata

import pytest

from workbench.errors import RetrievalError, TaskError
from workbench.paths import cache_dir
from workbench.retrieval import corpus as reading
from workbench.retrieval.corpus import PACKAGES, PARTS, Corpus, Pair, corpus_of, pair_of, read_corpus
from workbench.tasks import docstrings
from workbench.tasks.docstrings import mixed_order, trigrams


@pytest.fixture(scope="module")
def corpora():
    return {part: read_corpus(part) for part in ("test", "validation")}


@pytest.mark.slow
def test_it_is_large_and_says_what_it_was_read_from(corpora):
    test, validation = corpora["test"], corpora["validation"]
    assert len(test.documents) >= 3000 and len(test.queries) >= 1000 and len(test.train) >= 2000
    assert len(validation.queries) >= 500 and validation.train == test.train
    for package in PACKAGES:
        version = metadata.version({"sklearn": "scikit-learn"}.get(package, package))
        assert f"{package} {version}" in test.source
    assert re.fullmatch("[0-9a-f]{64}", test.sha256) and test.sha256 != validation.sha256


@pytest.mark.slow
def test_no_module_and_no_text_of_the_test_is_in_training(corpora):
    train = corpora["test"].train
    modules = {pair.module for pair in train}
    assert all(mixed_order(module)[0] in PARTS["train"] for module in modules)
    known = [trigrams(pair.document) for pair in train]
    for held in corpora.values():
        queries = {query.lower() for query in held.queries}
        assert not queries & {pair.query.lower() for pair in train}
        for document in held.documents[:400]:
            mine = trigrams(document)
            assert max(len(mine & other) / min(len(mine), len(other)) for other in known if other) <= 0.5


@pytest.mark.slow
def test_reading_again_takes_it_from_the_cache(corpora, monkeypatch):
    monkeypatch.setattr(reading, "read_pairs", lambda: pytest.fail("read again"))
    assert read_corpus() == corpora["test"]


def test_a_damaged_cache_is_read_again(monkeypatch, tmp_path):
    built = []
    pairs = [Pair(f"query {i} of them", f"document {i}", f"m{i}") for i in range(60)]
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(reading, "read_pairs", lambda: built.append(1) or pairs)
    first = read_corpus()
    (file,) = (cache_dir() / "retrieval").iterdir()
    for content in ("[[", '{"queries": ["a"], "documents": [], "modules": []}', '{"queries": [1]}'):
        file.write_text(content, encoding="utf-8")
        assert read_corpus() == first == read_corpus()
    assert len(built) == 4


def test_a_missing_package_is_named(monkeypatch):
    installed = metadata.version
    monkeypatch.setattr(
        docstrings.metadata, "version", lambda name: installed("no-such" if name == "scikit-learn" else name)
    )
    with pytest.raises(TaskError, match="search corpus reads the documentation of sklearn, which is not installed"):
        read_corpus()


def test_a_query_is_the_summary_without_the_name_and_the_document_is_the_prose_after_it():
    docstring = (
        "Sort an ``array`` by mergesort, in_place.\n\n"
        "The :func:`sort` is stable, which means that equal elements keep their order of before.\n\n"
        "Parameters\n----------\na : the array"
    )
    found = pair_of(docstring, ("Sorter", "mergesort"), "m.sorting")
    assert found == Pair(
        "Sort an array by , in_place.",
        "The sort is stable, which means that equal elements keep their order of before.",
        "m.sorting",
    )
    assert pair_of("Sort.\n\n" + docstring.split("\n\n")[1], (), "m") is None  # too short a query
    assert pair_of(docstring.split("\n\n")[0], (), "m") is None  # nothing after it


def test_modules_decide_the_part():
    pairs = [Pair(f"query {i}", f"document {i}", f"m{i}") for i in range(300)]
    test, validation = (corpus_of(pairs, part) for part in ("test", "validation"))
    everything = [*test.documents, *validation.documents, *(pair.document for pair in test.train)]
    assert sorted(everything) == sorted(pair.document for pair in pairs)
    assert test.queries[7] == test.documents[test.answers[7]].replace("document", "query")


# --- what is refused, in a sentence


@pytest.mark.parametrize(
    ("documents", "queries", "answers", "train", "words"),
    [
        (["a", " "], ["q"], [0], [], r"Document 2 is empty; leave it out"),
        (["a"], ["q", ""], [0, 0], [], r"Query 2 is empty; leave it out"),
        (
            ["a", "b", "a"],
            ["q"],
            [0],
            [],
            r"Document 3 is the same as document 1, so that no search can tell",
        ),
        (["a"], ["q", "q"], [0, 0], [], r"Query 2 is the same as query 1"),
        (["a"], ["q"], [1], [], r"Query 1 has no relevant document: its answer is 1, and there are documents 0 to 0"),
        (["a"], ["q"], [], [], r"1 queries and 0 answers; give one of each"),
        ([], ["q"], [0], [], r"There are no documents; give at least one"),
        (["a"], [], [], [], r"There are no queries; give at least one"),
        (["a"], ["q"], [0], [Pair("r", "a", "m")], r"Training pair 1 has a document of the test"),
    ],
)
def test_bad_corpora_are_refused(documents, queries, answers, train, words):
    with pytest.raises(RetrievalError, match=words):
        Corpus(tuple(documents), tuple(queries), tuple(answers), tuple(train))
