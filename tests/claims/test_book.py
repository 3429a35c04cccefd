"""The whole ledger: every claim once, the learner's own runs before ours, and what is not known said to be so."""

import json
from dataclasses import replace

import pytest

from support.records import run
from workbench.claims import claims
from workbench.claims.book import (
    LESSONS,
    LIMITS,
    OWN,
    PREDICTED,
    STUDY,
    as_markdown,
    as_text,
    book,
    comparable,
    entries,
    summary,
)
from workbench.claims.ledger import (
    DEPENDS,
    NOT_SUPPORTED,
    SUPPORTED,
    UNTESTED,
    Verdict,
    keep_verdicts,
    kept_verdicts,
)
from workbench.cli import main
from workbench.training.store import RunStore


def said(claim, verdict):
    return Verdict(claim, verdict, f"{claim} has its numbers.", "its condition")


@pytest.fixture
def written(tmp_path):
    store = RunStore(tmp_path)
    for one in (run("lora", seconds=1.0), run("full", seconds=2.0)):
        store.save(one)
    return store


def test_own_runs_outweigh_the_study_where_they_decide():
    found = {OWN: [said("speed", NOT_SUPPORTED), said("parity", UNTESTED)], STUDY: [said("parity", SUPPORTED)]}
    found[STUDY].append(said("speed", SUPPORTED))
    by_id = {one.claim.id: one for one in entries(found)}
    assert list(by_id) == list(claims())
    assert (by_id["speed"].lead, by_id["speed"].verdict) == (OWN, NOT_SUPPORTED)
    assert (by_id["parity"].lead, by_id["parity"].verdict) == (STUDY, SUPPORTED)
    assert (by_id["tokens"].lead, by_id["tokens"].verdict) == (None, UNTESTED)
    assert "1 are supported, 0 depend on the case, 1 are not supported" in summary(list(by_id.values()))
    assert "your own runs and lessons decided 1." in summary(list(by_id.values()))


def test_what_lessons_measured_outweighs_the_study_and_not_the_runs(written):
    keep_verdicts([said("swap", SUPPORTED), said("update", DEPENDS), said("modules", UNTESTED)], written)
    keep_verdicts([said("update", NOT_SUPPORTED), said("speed", NOT_SUPPORTED)], written)
    by_id = {one.claim.id: one for one in book(written)}
    assert (by_id["swap"].lead, by_id["swap"].verdict) == (LESSONS, SUPPORTED)
    assert (by_id["update"].lead, by_id["update"].verdict) == (LESSONS, NOT_SUPPORTED), "the latest counts"
    assert (by_id["modules"].lead, by_id["modules"].verdict) == (None, UNTESTED)
    assert (by_id["speed"].lead, by_id["speed"].verdict) == (OWN, SUPPORTED)
    assert "swap has its numbers. *measured once on this computer" in as_markdown(list(by_id.values()))


@pytest.mark.parametrize(
    "content", ["", "[]", '{"swap": 1}', '{"swap": {"verdict": "supported"}}', '{"swap": {"x": "y"}}']
)
def test_kept_verdicts_that_cannot_be_read_are_none(tmp_path, content):
    store = RunStore(tmp_path)
    keep_verdicts([said("swap", SUPPORTED)], store)
    (file,) = tmp_path.rglob("verdicts.json")
    file.write_text(content)
    assert kept_verdicts(store) == []


def test_runs_are_compared_only_with_runs_of_the_same_setting():
    """Another task, another seed and a failed run are no part of the set; the set with the most methods is taken."""
    pair = [run("lora"), run("full")]
    three = [run("lora", created="2026-02-01T00:00:00+00:00"), run("full"), run("hybrid")]
    three = [replace(one, config={**one.config, "seed": 1}) for one in three]
    alone = replace(run("qlora"), task={**pair[0].task, "sha256": "other"})
    assert comparable([*pair, *three, alone, run("qlora", status="diverged")]) != []
    assert {one.method["name"] for one in comparable([*pair, *three, alone])} == {"lora", "full", "hybrid"}
    assert comparable([run("lora"), alone]) == []


def test_the_ledger_of_this_repository_has_every_claim_with_its_limit(written):
    listed = book(written)
    assert [one.claim.id for one in listed] == list(claims())
    speed = next(one for one in listed if one.claim.id == "speed")
    assert speed.lead == OWN and speed.verdict == SUPPORTED and "2.00 times as long" in speed.found[OWN].evidence
    params = next(one for one in listed if one.claim.id == "params")
    assert params.lead == PREDICTED, "what needs the grid alone is a prediction"
    decided = [one for one in listed if one.lead]
    assert len(decided) > 10 and all(one.verdict in (SUPPORTED, DEPENDS, NOT_SUPPORTED) for one in decided)
    text = as_text(listed)
    assert "speed: supported (your runs)" in text and LIMITS[OWN] in text and text.count("\n  ") >= len(listed)
    assert as_markdown(listed).count("| **") == len(listed)


def test_the_command_prints_the_ledger_as_text_and_as_json(written, capsys):
    assert main(["claims", "--out", str(written.path), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    (speed,) = (one for one in listed if one["id"] == "speed")
    assert speed["decided_by"] == OWN and speed["evidence"][OWN]["limit"] == LIMITS[OWN]
    assert main(["claims", "--out", str(written.path)]) == 0
    assert "Of 29 claims" in capsys.readouterr().out
