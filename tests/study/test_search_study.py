"""The study of search: rates swept and widened on validation queries, seeds on the test, stopped and gone on with."""

import json

import pytest

from support.tiny_encoder import save_tiny_encoder, small_corpus
from workbench.adapters.methods import full, lora
from workbench.retrieval.experiment import Experiment
from workbench.retrieval.rows import BASE, COMPARING, LORA, at_chosen_rate, best_rate, names, retrieval_rows
from workbench.study import retrieval as study


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The study on a tiny encoder, with its rows in a file of its own."""
    experiment = Experiment(small_corpus(), str(save_tiny_encoder(tmp_path)), rows=16, batch=8)
    monkeypatch.setattr("workbench.retrieval.tuning.MARGIN", 0.0)
    settings = {
        LORA: study.Setting(lambda rate, _: lora(2, 4, rate), (1e-3, 2e-3)),
        "full": study.Setting(lambda rate, _: full(rate), (1e-4, 2e-4)),
    }
    return study.Study(settings, tmp_path / "retrieval.jsonl", lambda part: experiment)


@pytest.mark.slow
def test_it_goes_on_where_it_stopped_and_every_setting_can_be_compared(small, monkeypatch):
    real, runs, most = Experiment.run, [], [4]

    def stopped_once(self, method, seed):
        if len(runs) == most[0]:
            raise KeyboardInterrupt
        runs.append((method, seed))
        return real(self, method, seed)

    monkeypatch.setattr(Experiment, "run", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        study.run(small)
    before, most[0] = small.file.read_text(encoding="utf-8"), 1000
    study.run(small)
    assert small.file.read_text(encoding="utf-8").startswith(before)
    assert len({json.dumps([method.to_dict(), seed]) for method, seed in runs}) == len(runs), "trained twice"
    rows = retrieval_rows(small.file)
    assert names(rows) == [BASE, LORA, "full"]
    for name in (LORA, "full"):
        assert [row["seed"] for row in at_chosen_rate(rows, name)] == list(COMPARING)
        swept = [row["rate"] for row in rows if (row["name"], row["part"]) == (name, "validation")]
        inside = min(swept) < best_rate(rows, name) < max(swept)
        assert inside or len(swept) == 2 + study.WIDENED
    assert all(row["method"]["learning_rate"] == row["rate"] for row in rows if row["name"] != BASE)
