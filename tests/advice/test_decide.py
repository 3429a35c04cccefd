"""The decision: a named number strikes out each option, and what would change it is tried, not asserted."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from support.study_rows import runs
from workbench.advice.decide import FULL, HYBRID, LORA, OPTIONS, PROMPTING, QLORA, Needs, decide, reports
from workbench.advice.measured import KINDS, forgetting_of, lead_of_full, measured
from workbench.cost.gpus import gpus
from workbench.errors import WorkbenchError
from workbench.results import reference

SMALL, LARGE = Needs(model="llama-3.2-1b", gpu="H200"), Needs(model="llama-3.1-8b", gpu="RTX 4090")
KIND = "a new format or way of reasoning"
FULL_IS_BETTER = [*runs("protocol", "lora", 0.7, forgot=0.1), *runs("protocol", "full", 0.9, forgot=0.5)]
ON_PAR = [*runs("protocol", "lora", 0.8, forgot=0.1), *runs("protocol", "full", 0.8, forgot=0.5)]
KNOWN = measured(FULL_IS_BETTER)


def choice(needs, study=()):
    return decide(needs, measured(study), alternatives=False).choice


def test_prompting_that_is_good_enough_ends_the_matter():
    found = decide(replace(SMALL, few_shot=0.8, wanted=0.75), measured(ON_PAR))
    assert found.choice == PROMPTING and len(found.steps) == 1 and "80%; 75% is wanted" in found.steps[0].finding
    assert choice(replace(SMALL, few_shot=0.7, wanted=0.75)) != PROMPTING
    assert "measure it on your test rows" in decide(SMALL, measured(ON_PAR), False).steps[0].finding


def test_the_memory_of_the_gpu_strikes_out_what_does_not_fit():
    found = decide(LARGE, measured(()))
    struck = next(step for step in found.steps if step.question == "What fits your GPU?").struck
    assert FULL in struck and QLORA not in struck
    assert choice(replace(LARGE, model="llama-3.1-70b")) is None
    assert choice(replace(SMALL, gpu="T4")) == LORA


def test_full_is_chosen_where_it_is_better_by_more_than_may_be_given_up():
    needs = replace(SMALL, kind=KIND)
    assert choice(needs, FULL_IS_BETTER) == FULL and choice(needs, ON_PAR) == LORA
    assert choice(replace(needs, points=30), FULL_IS_BETTER) == LORA
    small_gpu = decide(replace(needs, model="llama-3.1-8b", gpu="RTX 4090"), measured(FULL_IS_BETTER))
    assert small_gpu.choice in (LORA, QLORA) and "because full is out" in small_gpu.as_text()
    assert "full" in small_gpu.changes.values(), "a larger GPU"


def test_many_tasks_and_little_money_strike_out_whole_models():
    needs = replace(SMALL, kind=KIND, gpu="A100 80 GB")
    assert choice(replace(needs, tasks=100), FULL_IS_BETTER) != FULL
    cheap = decide(replace(needs, dollars=0.0), measured(FULL_IS_BETTER))
    assert cheap.choice is None and "Nothing fits these needs" in cheap.as_text()


@pytest.mark.parametrize(
    ("model", "gpu", "tasks", "expected"),
    [
        ("llama-3.1-8b", "T4", 3, {LORA}),  # 16 GB of weights on a card of 16; in 4 bits they fit
        ("qwen2.5-14b", "A100 40 GB", 100, {LORA}),  # one base fits, but not with a hundred adapters
        ("qwen2.5-14b", "T4", 1000, {LORA, QLORA}),
        ("llama-3.2-1b", "H200", 3, set()),
    ],
)
def test_adapters_must_fit_with_their_base_and_room_for_requests(model, gpu, tasks, expected):
    found = decide(Needs(model, gpu, tasks=tasks), measured(()), False)
    out = {option for step in found.steps for option, why in step.struck.items() if "adapters do not fit" in why}
    fitting = {option for option, one in reports(model).items() if gpus()[gpu].fits(one.total_bytes)}
    assert out == expected & fitting


def test_a_certain_lead_counts_before_a_larger_one_that_may_be_luck():
    labels = "labels or fields from a text"
    rows = [*runs("tickets", "lora", 0.7), *runs("tickets", "full", 0.8), *runs("docs", "lora", 0.5)]
    rows += [row for row in runs("docs", "full", 0.7) if row["seed"] < 3]
    known = measured(rows)
    certain, luck = (replace(known.leads[labels][0], points=points, better=points < 10) for points in (5.0, 20.0))
    found = decide(replace(SMALL, kind=labels), replace(known, leads={**known.leads, labels: [luck, certain]}), False)
    assert found.choice == FULL


def test_forgetting_is_compared_at_equal_score():
    rows = [*ON_PAR, *runs("protocol", "qlora", 0.8, forgot=0.6), *runs("protocol", "hybrid", 0.8, forgot=0.1)]
    assert forgetting_of(rows, ["protocol"]) == pytest.approx({"LoRA": 0.1, "QLoRA": 0.6, "hybrid": 0.1, "full": 0.5})
    found = decide(replace(SMALL, kind=KIND, careful=True), measured(rows), False)
    step = next(one for one in found.steps if one.question == "May the model forget other things?")
    assert found.choice == LORA and QLORA in step.struck and HYBRID not in step.struck


def test_a_gentler_option_that_does_not_fit_is_named():
    rows = [*runs("protocol", "lora", 0.8, forgot=1.2), *runs("protocol", "full", 0.8, forgot=0.1)]
    found = decide(replace(LARGE, kind=KIND, careful=True), measured(rows), False)
    step = next(one for one in found.steps if one.question == "May the model forget other things?")
    assert found.choice == LORA and "full would forget less, and cannot be had" in step.finding


def test_full_that_forgets_less_is_not_out_for_scoring_no_better():
    rows = [*runs("protocol", "lora", 0.8, forgot=1.2), *runs("protocol", "full", 0.8, forgot=0.1)]
    assert choice(replace(SMALL, kind=KIND), rows) == LORA
    found = decide(replace(SMALL, kind=KIND, careful=True), measured(rows), False)
    assert found.choice == FULL and [step.struck.get(LORA) for step in found.steps][-2:] == ["forgets more", None]
    assert any(step.struck.get(QLORA) == "not measured" for step in found.steps)


def test_rows_that_are_not_stored_row_by_row_are_compared_by_the_range_of_seeds():
    rows = [{key: value for key, value in row.items() if key != "right"} for row in FULL_IS_BETTER]
    (lead,) = lead_of_full(rows, ["protocol"])
    assert lead.better and lead.points == pytest.approx(20, abs=3) and "not row by row" in lead.source
    assert lead_of_full(rows[:1], ["protocol"]) == []


@settings(max_examples=40)
@given(
    st.sampled_from(["llama-3.2-1b", "llama-3.1-8b"]),
    st.sampled_from(list(gpus())),
    st.sampled_from(list(KINDS)),
    st.integers(1, 50),
    st.floats(0, 100),
    st.booleans(),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_every_decision_names_its_sources_and_its_changes_are_true(model, gpu, kind, tasks, points, careful, few_shot):
    needs = Needs(model, gpu, kind, tasks=tasks, points=points, careful=careful, few_shot=few_shot, wanted=0.7)
    found = decide(needs, KNOWN)
    assert found.choice is None or found.choice in OPTIONS
    assert all(step.source and step.finding for step in found.steps)
    struck = [option for step in found.steps for option in step.struck]
    assert len(struck) == len(set(struck)) and not set(struck) & set(found.left)
    assert all(turned != found.choice for turned in found.changes.values())
    for words, turned in found.changes.items():
        for name in gpus():
            if words.startswith(f"a {name} ("):
                assert decide(replace(needs, gpu=name), KNOWN, False).choice == turned


@given(st.sampled_from(["llama-3.2-1b", "llama-3.1-8b"]))
def test_a_larger_gpu_strikes_out_no_more(model):
    sizes = sorted(gpus().values(), key=lambda gpu: gpu.usable_bytes)
    fitting = [{option for option, one in reports(model).items() if gpu.fits(one.total_bytes)} for gpu in sizes]
    assert all(small <= large for small, large in pairwise(fitting))


@pytest.mark.parametrize("change", [{"kind": "poems"}, {"gpu": "RTX 1"}, {"tasks": 0}, {"tokens": 0}])
def test_needs_that_mean_nothing_are_refused(change):
    with pytest.raises(WorkbenchError):
        Needs(**change)


def test_the_stored_study_decides_for_every_kind():
    known = measured(reference.study_rows())
    for kind in KINDS:
        found = decide(replace(LARGE, kind=kind), known)
        assert found.choice in (LORA, QLORA) and "What nobody knows" in found.as_text()
        assert found.changes or "none of the single changes" in found.as_text()
