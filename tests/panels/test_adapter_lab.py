"""AdapterLab without a browser: its numbers against dense matrices, and its thread with a slow score."""

import threading
from types import SimpleNamespace

import pytest
import torch
from peft.tuners.lora import LoraLayer

from support.small_models import write_model
from workbench import TrainConfig, full, load_base, load_task, lora, qlora, train
from workbench.adapters.lowrank import best_rank_r
from workbench.adapters.methods import ATTENTION
from workbench.errors import RunError
from workbench.models import in_float32, shared_copy
from workbench.panels import adapter_lab
from workbench.panels.adapter_lab import AdapterLab, weight_bytes
from workbench.scoring import evaluation
from workbench.tasks import Example

TASK = load_task("tickets")
CONFIG = TrainConfig(steps=6, batch_size=4, test_limit=4, evaluate=False)


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    from workbench import RunStore

    return train(small, TASK, lora(4, 8, 2e-2), CONFIG, RunStore(tmp_path_factory.mktemp("lab")))


@pytest.fixture
def lab(small, trained):
    return AdapterLab(small, trained, TASK, rows=4)


def settings_of(lab, **changes) -> dict:
    return lab.values | changes


def dense(base, run, rank, alpha, kinds):
    """The base with the changed update added to its weights as a full matrix, without PEFT."""
    plain = shared_copy(base.model)
    with torch.no_grad():
        for name, layer in run.load(base).model.named_modules():
            if isinstance(layer, LoraLayer) and name.rpartition(".")[2] in kinds:
                update = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * layer.scaling["default"]
                linear = plain.get_submodule(name.removeprefix("base_model.model."))
                linear.weight = torch.nn.Parameter(linear.weight + alpha / 8 * best_rank_r(update, rank))
    return plain


def test_the_scores_are_those_of_the_dense_update(lab, small, trained):
    numbers = lab.compute(**settings_of(lab, rank=2, alpha=16.0, mlp=False)).numbers
    model = dense(small, trained, 2, 16, ATTENTION)
    expected = evaluation.score(model, lab.rows)
    assert numbers["loss"] == pytest.approx(expected["loss"], abs=2e-5)
    assert numbers["general_loss"] == pytest.approx(evaluation.score(model, lab.general)["loss"], abs=2e-5)
    base = evaluation.score(small.model, lab.general)["loss"]
    assert numbers["forgotten"] == pytest.approx(numbers["general_loss"] - base, abs=2e-5)


def test_the_curves_are_the_singular_values_of_the_dense_updates(lab, trained, small):
    figure = lab.compute(**settings_of(lab, rank=2, alpha=24.0, attention=False)).figure
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left") == "Singular values"]
    now = {line.get_label(): line.get_ydata() for line in axes.lines}
    _, then = [line.get_ydata() for line in axes.lines if line.get_label().startswith("_")]  # attention, MLP
    values = []
    for name, layer in trained.load(small).model.named_modules():
        if isinstance(layer, LoraLayer) and name.rpartition(".")[2] not in ATTENTION:
            update = layer.get_delta_weight("default")
            values.append(torch.linalg.svdvals(update)[:4])
    median = torch.stack(values).median(0).values
    assert then == pytest.approx(median.tolist(), rel=1e-4)
    assert now["MLP, now"] == pytest.approx((3 * median[:2]).tolist(), rel=1e-4)
    assert "attention, now" not in now, "switched off"


def test_an_adapter_switched_off_is_the_base_to_the_last_bit(lab, small):
    for off in ({"alpha": 0.0}, {"attention": False, "mlp": False}):
        view = lab.compute(**settings_of(lab, **off))
        assert view.numbers["loss"] == evaluation.score(small.model, lab.rows)["loss"]
        assert view.numbers["forgotten"] == 0 and len(set(view.answers.values())) == 1


def test_the_answers_are_those_of_the_two_models(lab, small, trained):
    view = lab.compute(**settings_of(lab, prompt="The parcel is late.\nIntent:"))
    example = [Example("The parcel is late.\nIntent:", "")]
    wanted = [evaluation.answers(base, example, adapter_lab.ANSWER_TOKENS)[0] for base in (small, trained.load(small))]
    assert list(view.answers.values()) == [text or "(nothing)" for text in wanted]
    assert "<td" in lab.message.value and "The parcel is late." in view.figure.alt


@pytest.mark.parametrize("quantization", ["int8", "nf4", "fp4"])
def test_each_quantization_is_that_of_the_loaded_base(lab, small, trained, quantization):
    numbers = lab.compute(**settings_of(lab, quantization=quantization)).numbers
    base = load_base(small.name, quantization, dtype="float32")
    tuned = in_float32(trained.load(base).model)
    assert numbers["loss"] == evaluation.score(tuned, lab.rows)["loss"]
    assert numbers["base_mb"] * 1e6 == weight_bytes(base.model) < weight_bytes(small.model)


def test_a_qlora_run_is_shown_on_its_own_base_only(small, store):
    """`Run.load` refuses its adapter on weights stored in another way."""
    base = load_base(small.name, "nf4", dtype="float32")
    lab = AdapterLab(base, train(base, TASK, qlora(2, 4, 1e-2), CONFIG, store), TASK, rows=2)
    assert lab.controls["quantization"].options == (("nf4", "nf4"),) and "stored as nf4" in lab.current.text


def test_stored_bytes_by_arithmetic(small):
    linear = sum(out * into for out, into in [(64, 64), (32, 64), (32, 64), (64, 64), *[(128, 64)] * 3]) * 2
    rest = sum(parameter.numel() for parameter in small.model.parameters()) - linear
    assert weight_bytes(small.model) == 4 * (rest + linear)
    # int8: a byte a weight and a float32 scale a row; 4 bits: half a byte, and double-quantized scales of blocks of 64
    rows = sum([64, 32, 32, 64, 128, 128, 64]) * 2
    assert weight_bytes(load_base(small.name, "int8", dtype="float32").model) == 4 * rest + linear + 4 * rows
    scales = weight_bytes(load_base(small.name, "nf4", dtype="float32").model) - 4 * rest - linear // 2
    codes = 14 * (16 + 256) * 4  # every layer holds the two tables of its codes
    assert linear / 64 <= scales - codes <= linear / 64 + 14 * 4 * 6


def test_the_adapter_weighs_four_bytes_a_number(lab):
    view = lab.compute(**settings_of(lab, rank=3, attention=False))
    assert view.numbers["adapter_mb"] * 1e6 == 4 * 3 * 2 * 3 * (64 + 128)


def test_settings_seen_before_do_not_change_the_trained_adapter(lab, small, trained):
    fresh = AdapterLab(small, trained, TASK, rows=4)
    lab.compute(**settings_of(lab, rank=1, alpha=2.0, mlp=False))
    assert lab.compute(**settings_of(lab, rank=3)).numbers == fresh.compute(**settings_of(lab, rank=3)).numbers


def test_what_was_seen_is_not_computed_again(lab, monkeypatch):
    lab.controls["rank"].value = 2
    lab.wait()
    first = lab.current
    monkeypatch.setattr(adapter_lab.evaluation, "score", None)
    monkeypatch.setattr(adapter_lab.evaluation, "answers", None)
    for rank in (4, 2):
        lab.controls["rank"].value = rank
        lab.wait()
    assert lab.current is first and "alert" not in lab.message.value


@pytest.fixture
def slow(monkeypatch):
    """A score that waits: `begun` is set when one begins, `go` lets them all through; `calls` counts."""
    score, slow = evaluation.score, SimpleNamespace(begun=threading.Event(), go=threading.Event(), calls=0)

    def waiting(model, rows):
        slow.calls += 1
        slow.begun.set()
        assert slow.go.wait(20)
        return score(model, rows)

    monkeypatch.setattr(adapter_lab.evaluation, "score", waiting)
    yield slow
    slow.go.set()


def test_it_says_that_it_works_and_drops_what_is_stale(lab, slow):
    lab.controls["rank"].value = 3
    assert slow.begun.wait(20)
    assert 'role="status"' in lab.message.value
    lab.controls["rank"].value = 2
    lab.controls["rank"].value = 1
    slow.go.set()
    lab.wait()
    assert lab.current.text.startswith("Rank 1 of 4") and "workbench-busy" not in lab.canvas._dom_classes
    assert slow.calls == 3, "one part of rank 3, nothing of rank 2, both parts of rank 1"


def test_a_draft_shows_at_once_what_needs_no_score(lab, slow):
    whole = lab.canvas.facts
    lab.controls["rank"].value = 3
    drafted = lab.canvas.facts
    assert drafted["digest"] != whole["digest"] and drafted["settings"] is None, "a draft counts as tried"
    assert slow.begun.wait(20) and 'role="status"' in lab.message.value
    slow.go.set()
    lab.wait()
    assert lab.canvas.facts["settings"] == lab.values and lab.canvas.facts["digest"] != drafted["digest"]
    charts = {chart["title"]: chart for chart in lab.canvas.facts["charts"]}
    of_draft = {chart["title"]: chart for chart in drafted["charts"]}
    assert [text["text"] for text in of_draft["Exact match"]["texts"]].count("...") == 1
    assert of_draft["Weights"] == charts["Weights"], "bytes are known without a score"


def test_what_cannot_be_drafted_greys_the_old_picture(lab, slow):
    old = lab.canvas.facts
    lab.controls["quantization"].value = "nf4"
    assert slow.begun.wait(60) and "workbench-busy" in lab.canvas._dom_classes and lab.canvas.facts == old
    slow.go.set()
    lab.wait()
    assert "workbench-busy" not in lab.canvas._dom_classes


def test_going_there_and_back_while_it_works_ends_right(lab, slow):
    picture = lab.canvas.facts
    lab.controls["rank"].value = 3
    assert slow.begun.wait(20)
    lab.controls["rank"].value = 4
    slow.go.set()
    lab.wait()
    assert lab.current.text.startswith("Rank 4 of 4") and lab.canvas.facts == picture
    assert 'role="status"' not in lab.message.value


def test_errors_are_shown_in_the_panel_and_it_recovers(lab, monkeypatch):
    lab.controls["prompt"].value = "  "
    lab.wait()
    assert "The prompt is empty" in lab.message.value and lab.current is None
    lab.controls["prompt"].value = "Intent:"
    lab.wait()
    assert lab.current and "alert" not in lab.message.value


def test_a_base_that_is_gone_is_a_sentence(base, store, tmp_path):
    folder = write_model(tmp_path / "llama", "llama", base.tokenizer)
    start = load_base(str(folder), dtype="float32")
    lab = AdapterLab(start, train(start, TASK, lora(2, 4, 1e-2), CONFIG, store), TASK, rows=2)
    (folder / "config.json").unlink()
    lab.controls["quantization"].value = "nf4"
    lab.wait()
    assert "holds no config.json" in lab.message.value and 'role="alert"' in lab.message.value


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_thread_is_shown_too(lab, monkeypatch):
    monkeypatch.setattr(adapter_lab.evaluation, "score", None)
    lab.controls["rank"].value = 2
    lab.wait()
    assert "TypeError" in lab.message.value and "workbench-busy" not in lab.canvas._dom_classes


def test_other_kinds_of_runs_are_refused(small, store):
    for method in (full(1e-3), lora(2, dora=True)):
        run = train(small, TASK, method, CONFIG, store)
        with pytest.raises(RunError, match=rf"lora or qlora run apart, without DoRA; run .* is {method.label}\."):
            AdapterLab(small, run, TASK)


def test_it_goes_into_a_saved_notebook_with_its_numbers(lab, monkeypatch):
    from workbench.panels import base as common

    calls = []
    monkeypatch.setattr(common, "display", lambda data, metadata=None, raw=False: calls.append(data))
    lab._ipython_display_()
    assert calls[1]["text/plain"] == lab.current.text and "data:image/png" in calls[1]["text/html"]


def test_a_list_of_choices_shows_the_one_that_counts(lab):
    """With None as its value an ipywidgets list has no index, and the page shows an empty field."""
    assert lab.controls["quantization"].index == 0 and lab.controls["quantization"].label == "not quantized"
