"""`workbench retrieval`: what it prints, and what it refuses."""

import json

import pytest

from support.tiny_encoder import save_tiny_encoder, small_corpus
from workbench.cli import main
from workbench.retrieval import corpus
from workbench.retrieval.metrics import unpack_ranks


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The arguments for a tiny encoder and a small corpus."""
    monkeypatch.setattr(corpus, "read_corpus", small_corpus)
    monkeypatch.setattr("workbench.retrieval.tuning.MARGIN", 0.0)
    return ["retrieval", "--model", str(save_tiny_encoder(tmp_path)), "--rows", "16"]


@pytest.mark.slow
def test_it_prints_before_and_after_with_intervals(small, capsys):
    assert main([*small, "--rank", "2", "--learning-rate", "1e-2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("lora r=2, seed 0: 1,792 weights trained in ") and told[0].endswith("; 32 queries")
    assert [line.split(":")[0].strip() for line in told[1:]] == ["NDCG@10", "recall@10", "MRR", "other text"]
    assert all(" -> " in line and " to " in line for line in told[1:4])


@pytest.mark.slow
def test_the_record_says_what_it_depends_on(small, capsys):
    arguments = ["--method", "hybrid", "--full-modules", "layer.1.output", "--seed", "3", "--json"]
    assert main([*small, *arguments]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["method"]["full_modules"] == ["layer.1.output"] and record["method"]["alpha"] == 16
    assert record["seed"] == 3 and record["rows"] == 16 and record["corpus_sha256"] == small_corpus().sha256
    assert len(unpack_ranks(record["after"]["ranks"]).ranks) == record["queries"] == 32
    assert {"sentence-transformers", "torch", "peft"} <= record["versions"].keys()
    assert record["before"]["kept"] == pytest.approx(1) and record["merging_error"] < 1e-5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "full", "--rank", "8"], "--rank: full fine-tuning has no adapters; leave it out"),
        (["--method", "hybrid"], "hybrid() needs full_modules"),
        (["--rows", "500"], "were asked for; ask for fewer rows"),
        (["--rank", "0"], "rank=0 must be a whole number of at least 1"),
    ],
)
def test_wrong_usage_is_told_in_a_sentence(small, arguments, words, capsys):
    assert main([*small, *arguments]) == 2
    assert words in capsys.readouterr().err
