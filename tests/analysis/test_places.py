"""The scores of a place are those of `evaluate` and of the analysis; a base has forgotten nothing of itself."""

import math
from functools import partial

import pytest

from support.quick_training import rows
from support.tuned_bases import full_run
from workbench.analysis import Cuts, along, interpolate, kl_from_base, perplexity, place_of, times_of, yardstick
from workbench.errors import TaskError
from workbench.scoring.evaluation import answers, evaluate
from workbench.scoring.scores import unpack_rows
from workbench.tasks.example import Example

TASK = rows()
SENTENCE = "The number after 3 is"


@pytest.fixture(scope="module")
def measure(plain):
    return yardstick(plain, TASK, rows=4, prompts=3, sentence=SENTENCE)


def test_a_base_against_itself_has_forgotten_nothing(plain, measure):
    own = place_of(measure, plain)
    assert own.forgotten == 0 and own.kl == 0 and own.times == 1
    assert place_of(measure, interpolate(plain, full_run(plain), 0)) == own


@pytest.mark.parametrize("which", ["whole", "adapted"])
def test_the_scores_are_those_of_evaluate_and_of_the_analysis(plain, measure, which, request):
    tuned = request.getfixturevalue(which)
    own, expected = place_of(measure, tuned), evaluate(tuned, TASK)
    assert own.exact_match == expected["exact_match"]
    assert unpack_rows(own.right).mean() == own.exact_match
    assert own.forgotten == pytest.approx(expected["general_loss"] - evaluate(plain, TASK)["general_loss"], abs=1e-5)
    assert own.times == pytest.approx(perplexity(tuned) / perplexity(plain), rel=1e-4)
    assert own.times == pytest.approx(times_of(measure, tuned), rel=1e-6)
    assert own.kl == pytest.approx(kl_from_base(plain, tuned, [each.prompt for each in TASK.test[:3]]))
    assert own.answer == answers(tuned, [Example(SENTENCE, "")], 6)[0]


def test_the_way_is_walked_one_model_at_a_time(plain, whole, measure):
    seen = []

    def on_place(found, left):
        seen.append((sum(map(len, found.values())), left))

    ways = {
        "scale": {f"{t}": partial(interpolate, plain, whole, t) for t in (0.0, 1.0)},
        "other": {"again": lambda: whole},
    }
    found = along(measure, ways, on_place)
    assert {way: list(settings) for way, settings in found.items()} == {"scale": ["0.0", "1.0"], "other": ["again"]}
    assert found["scale"]["0.0"].kl == 0 and found["other"]["again"] == place_of(measure, whole)
    assert seen == [(1, 2), (2, 1), (3, 0)]


@pytest.mark.parametrize(("rows", "prompts"), [(5, 2), (4, 5), (4, 0)])
def test_more_rows_than_there_are_are_refused(plain, rows, prompts):
    with pytest.raises(TaskError, match="at most the 4 test rows of numbers"):
        yardstick(plain, TASK, rows, prompts, SENTENCE)


def test_what_a_rank_keeps_is_a_share_of_the_gain():
    cuts = Cuts(base=0.2, whole=0.6, by_rank={0: 0.2, 8: 0.5, 64: 0.64}, rows=50)
    assert [cuts.kept(rank) for rank in (0, 8, 64)] == pytest.approx([0, 0.75, 1.1])
    with pytest.raises(ValueError, match="gained nothing"):
        Cuts(0.5, 0.5, {8: 0.5}, 50).kept(8)
    assert math.isclose(Cuts(0, 1, {8: 0.25}, 4).kept(8), 0.25)
