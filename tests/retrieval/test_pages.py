"""Pages as images: rows read and split, faults told, and the whole path from image to NDCG on a small encoder."""

import io
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
import pytest

from support.tiny_encoder import save_tiny_encoder
from support.tiny_pages import page, page_rows, save_pages, save_tiny_page_encoder
from workbench.adapters.methods import full, hybrid, lora
from workbench.cli import main
from workbench.errors import RetrievalError
from workbench.retrieval import encoder as loading, pages
from workbench.retrieval.corpus import Page
from workbench.retrieval.encoder import embed, load_encoder
from workbench.retrieval.experiment import Experiment
from workbench.retrieval.pages import page_experiment, read_pages
from workbench.retrieval.tuning import prepare, transformer

ROWS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_tiny_page_encoder(tmp_path_factory.mktemp("encoder")))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return str(save_pages(tmp_path_factory.mktemp("data"), page_rows(ROWS)))


def bytes_of(image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# --- reading


def test_training_test_and_validation_rows_follow_each_other(source):
    test, validation = read_pages(source), read_pages(source, "validation")
    rows = page_rows(ROWS)
    queries = [row["query"] for row in rows]
    assert test.queries == tuple(queries[45:54]) and validation.queries == tuple(queries[54:60])
    assert list(test.triplets["query"]) == queries[:45] == list(validation.triplets["query"])
    assert test.triplets.column_names == ["query", "document", "negative"]
    for query, answer in zip(test.queries, test.answers, strict=True):
        shown = rows[queries.index(query)]["image"]
        assert np.array_equal(np.asarray(test.documents[answer].image()), np.asarray(shown))
    assert len(test.documents) == 3 * 9  # each row's page and its two others


def test_pages_and_queries_that_stand_twice_are_kept_once_and_not_trained_on(tmp_path):
    rows = [{"query": f"query {n}", "image": page(f"{n}"), "negative_0": page(f"other {n}")} for n in range(20)]
    rows[16]["query"] = rows[15]["query"]
    rows[8]["image"] = rows[19]["image"]  # of the validation
    rows[17]["negative_0"] = rows[18]["image"]  # one page, two queries' rows
    rows[3]["image"] = rows[17]["image"]
    rows[4]["negative_0"] = rows[15]["image"]
    rows[5]["query"], rows[6]["image"], rows[7]["negative_0"] = None, None, None
    corpus = read_pages(str(save_pages(tmp_path / "pages", rows)))
    # 19 rows with a query: 14 to train on (0 to 14 without 5), 3 of the test (15 to 17), 2 of the validation
    assert corpus.queries == ("query 15", "query 17") and len(corpus.documents) == len(set(corpus.documents)) == 6
    assert list(corpus.triplets["query"]) == [f"query {n}" for n in range(15) if n not in (3, 4, 5, 6, 7, 8)]


def test_what_a_corpus_depends_on_is_its_pages(source, tmp_path):
    same = save_pages(tmp_path / "same", page_rows(ROWS))
    assert read_pages(str(same)).sha256 == read_pages(source).sha256
    assert read_pages(str(same)).train_sha256 == read_pages(source).train_sha256
    rows = page_rows(ROWS)
    rows[0]["negative_0"], rows[46]["negative_1"] = page("new"), page("also new")
    other = read_pages(str(save_pages(tmp_path / "other", rows)))
    assert other.sha256 != read_pages(source).sha256 and other.train_sha256 != read_pages(source).train_sha256


def test_what_is_no_data_set_of_pages_is_told(tmp_path):
    with pytest.raises(RetrievalError, match=r"The pages of '.*missing' could not be read .*Name a folder"):
        read_pages(str(tmp_path / "missing"))
    one = save_pages(tmp_path / "one", [{"query": "a", "image": page("a"), "negative_1": page("b")}])
    with pytest.raises(RetrievalError, match="and 'negative_0' with images; it has query, image, negative_1"):
        read_pages(str(one))
    datasets.DatasetDict({"train": datasets.load_from_disk(one)}).save_to_disk(tmp_path / "several")
    with pytest.raises(RetrievalError, match="it has several splits: name the folder of one"):
        read_pages(str(tmp_path / "several"))
    with pytest.raises(RetrievalError, match=r"A page is not a whole image .* leave it out"):
        Page(bytes_of(page("cut"))[:60]).image()


# --- an encoder of images


def test_pages_are_embedded_one_by_one_as_in_pieces(folder, monkeypatch):
    encoder, some = load_encoder(folder), [Page(bytes_of(page(f"page {n}"))) for n in range(5)]
    whole = embed(encoder, some)
    monkeypatch.setattr(loading, "PAGES_AT_ONCE", 2)
    assert np.allclose(embed(encoder, some), whole, atol=1e-6) and whole.shape == (5, 64)
    assert len({row.tobytes() for row in whole}) == 5, "the encoder does not see the pages"


def test_a_page_has_no_more_pixels_than_the_limit(folder, monkeypatch):
    big = Page(bytes_of(page("big").resize((1600, 960))))
    sizes = []
    for most in (200 * 200, 600 * 600):
        monkeypatch.setattr(loading, "PIXELS", (28 * 28, most))
        encoder = load_encoder(folder)
        sizes.append(int(encoder.preprocess([big.image()])["image_grid_thw"].prod()) * 16 * 16)
    assert sizes[0] <= 200 * 200 < 4 * sizes[0] and sizes[1] <= 600 * 600 < 1.2 * sizes[1]


def test_an_encoder_of_texts_refuses_pages(tmp_path):
    encoder = load_encoder(str(save_tiny_encoder(tmp_path)))
    with pytest.raises(RetrievalError, match="this encoder reads text only; name one that reads images"):
        embed(encoder, [Page(bytes_of(page("one")))])


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="this asks what is said without torchvision")
def test_without_torchvision_the_package_is_named(folder, tmp_path):
    """The whole processor of Qwen3-VL needs it, for videos."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    file = copy / "processor_config.json"
    file.write_text(file.read_text().replace("PageProcessor", "Qwen3VLProcessor"))
    (copy / "video_preprocessor_config.json").write_text('{"video_processor_type": "Qwen3VLVideoProcessor"}')
    with pytest.raises(RetrievalError, match=r"needs torchvision: python -m pip install -c constraints\.txt"):
        load_encoder(str(copy))


@pytest.mark.parametrize("method", [lora(rank=2), full(), hybrid(["language_model.layers.1.mlp"], rank=2)])
def test_the_part_that_sees_is_left_alone(folder, method):
    encoder = load_encoder(folder)
    prepare(encoder, method)
    trained = {name for name, parameter in transformer(encoder).named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("language_model.") for name in trained)
    assert {"language_model.layers.0", "language_model.layers.1"} <= {".".join(name.split(".")[:3]) for name in trained}


@pytest.mark.slow
@pytest.mark.parametrize("method", [lora(4, 8, 1e-2), full(1e-3)])
def test_the_whole_path_from_image_to_ndcg(folder, source, method):
    experiment = page_experiment("test", folder, source)
    assert experiment.rows == 45
    outcome, _ = experiment.run(method, seed=1)
    record = experiment.record(outcome)
    assert 0 < record["before"]["ndcg"] < 1 and record["after"]["ranks"] != record["before"]["ranks"]
    assert (
        record["queries"] == 9 and record["documents"] == 27 and set(record["after"]["cut"]) == {"32", "16", "8", "2"}
    )
    assert method.name == "full" or record["merging_error"] < 1e-5


@pytest.mark.slow
def test_the_gradient_in_pieces_is_that_of_the_whole_batch(folder, source, monkeypatch):
    """One page at a time, or all at once: the losses of every step agree."""
    losses = []
    for count in (1, 64):
        monkeypatch.setattr("workbench.retrieval.tuning.PAGES_AT_ONCE", count)
        experiment = Experiment(read_pages(source), folder, 40, 8)
        losses.append(experiment.run(full(1e-3), seed=1)[0].tuned.losses)
    assert np.allclose(*losses, rtol=1e-4) and len(set(losses[0])) == len(losses[0]) == 5


@pytest.mark.slow
def test_the_command_searches_pages(folder, source, capsys):
    assert main(["retrieval", "--pages", source, "--model", folder, "--rank", "2", "--rows", "16", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["encoder"] == folder and record["rows"] == 16 and record["source"] == source
    assert record["method"]["learning_rate"] == 2e-4
    assert main(["retrieval", "--pages", source, "--model", folder, "--rows", "900"]) == 2
    assert "has 45 rows to train on, and 900 were asked for; ask for fewer rows" in capsys.readouterr().err


def test_the_split_is_that_of_the_published_numbers():
    """There the first 10,000 rows are for training, and what is searched comes after them."""
    assert (pages.TRAIN, pages.TEST) == (10_000, 1_200)
