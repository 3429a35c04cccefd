"""KL as a predictor of forgetting: which runs are compared, and what is said of them."""

from types import SimpleNamespace

import pytest

from workbench.analysis.places import Place
from workbench.commentary import kl


def place(exact_match: float, forgotten: float, value: float) -> Place:
    return Place(exact_match, "4:0", forgotten, value, "")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.1, 0.2, 0.3), "KL orders 3 models"),
        ((0.3, 0.1, 0.2), "does not order"),
        ((0.1, 0.1, 0.1), "KL and forgetting"),
    ],
)
def test_a_title_says_whether_kl_orders_the_models(values, words):
    models = {"lora": [place(0.5, forgot, value) for forgot, value in zip((1, 2, 3), values, strict=True)]}
    assert words in kl.kl_title(models)


def test_other_runs_are_those_of_the_same_task_and_base_that_can_be_loaded(tmp_path, monkeypatch):
    def made(id, name="lora", sha="1", saved=True, status="finished", **base):
        folder = tmp_path / id
        if saved:
            folder.mkdir()
        fields = {"task": {"sha256": sha}, "base": {"name": "m", "revision": "r", "quantization": None} | base}
        fields |= {"method": {"name": name}, "status": status}
        return SimpleNamespace(id=id, artifact_dir=folder, load=lambda base: id, **fields)

    known = made("known")
    stored = [known, made("a"), made("b", "full"), made("c", "qlora"), made("d", sha="2"), made("e", saved=False)]
    stored += [made("h", revision="s"), made("i", "hybrid", quantization="nf4")]
    stored += [made("f", status="diverged"), *(made(f"g{n}") for n in range(5))]
    monkeypatch.setattr(kl, "place_of", lambda measure, model: model)
    found = kl.other_runs(SimpleNamespace(all=lambda: stored), [known], None, None)
    assert found == {"full": ["b"], "lora": [f"g{n}" for n in range(5)]}


def test_the_studys_runs_count_where_their_kl_was_measured():
    row = {"task": "tickets", "name": "lora", "exact_match": 0.5, "right": "4:c", "forgetting": 0.7, "kl": 0.2}
    without = {name: value for name, value in row.items() if name != "kl"}
    others = [row | {"name": "qlora"}, row | {"task": "orders"}, row | {"kl": None}, without]
    found = kl.stored_runs([row, row | {"name": "full", "kl": 0.1}, *others], "tickets")
    assert {name: [(one.kl, one.forgotten) for one in places] for name, places in found.items()} == {
        "lora": [(0.2, 0.7)],
        "full": [(0.1, 0.7)],
    }
