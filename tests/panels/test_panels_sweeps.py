"""The panel and the live picture of rank sweeps: each control moved, each pass seen, nothing lost, nothing mixed up."""

import time
from types import SimpleNamespace

import pytest

from support.rows import STUDY, row
from workbench.exercises import e05_capacity
from workbench.models import linear_modules
from workbench.panels.rank_sweep import rank_sweep_panel, rank_sweep_view
from workbench.plots.live import LivePicture, LiveSweep, label_runs
from workbench.plots.style import pixel_width
from workbench.tasks.tasks import SWEEP_FACTS, information_bits

ROWS = [
    *STUDY,
    *(row(rank, seed, alpha=64) for rank in (2, 8) for seed in (0, 1)),
    *(row(rank, targets="attention") for rank in (2, 8, 64)),
    *(row(8, targets="attention", alpha=alpha) for alpha in (16, 64)),
    row(8, learning_rate=3e-2, status="diverged"),
    row(None, learning_rate=1e-4),
]
LIVE = [row(3, 7), row(8, 7, alpha=64), row(4, 7, targets="attention")]
SETTINGS = {"across": "rank", "targets": "all-linear", "rank": 8, "alpha": 32, "learning_rate": 2e-3}


def stars(figure) -> list[list]:
    """The learner's runs in each axes: their places."""
    return [list(line.get_xdata()) for axes in figure.axes for line in axes.lines if line.get_label() == "your run"]


# --- the panel --------------------------------------------------------------------------------------------------


MOVES = [("across", "learning_rate"), ("across", "alpha"), ("targets", "attention"), ("rank", 2), ("alpha", 64)]


@pytest.mark.parametrize(("control", "value"), [*MOVES, ("learning_rate", 5e-4)])
def test_each_control_changes_numbers_picture_and_words(control, value):
    panel = rank_sweep_panel(ROWS, LIVE)
    panel.controls["rank"].value = 8
    before, picture, words = panel.current.numbers, panel.current.png, panel.message.value
    panel.controls[control].value = value
    assert panel.current.numbers != before
    assert panel.current.png != picture and picture.startswith(b"\x89PNG")
    assert panel.message.value != words


def test_the_panel_begins_where_most_ranks_are_stored_and_offers_what_is_stored():
    panel = rank_sweep_panel(ROWS)
    assert panel.values == SETTINGS | {"rank": 64}, "four ranks at three rates: the rate with the highest score"
    assert [value for _, value in panel.controls["rank"].options] == [1, 2, 8, 64]
    assert [value for _, value in panel.controls["alpha"].options] == [16, 32, 64]
    assert [value for _, value in panel.controls["learning_rate"].options] == [5e-4, 2e-3, 8e-3, 3e-2]
    assert list(panel.controls["targets"].options) == ["all-linear", "attention"]
    assert all(control.description for control in panel.controls.values())
    assert pixel_width(panel.current.figure) <= 1100 and "alert" not in panel.message.value


def test_a_single_stored_run_is_enough_and_none_is_a_sentence():
    assert "Stored: 1 run of 120 steps" in rank_sweep_panel([row()]).current.text
    for rows in ([], [row(None)], [row(status="diverged")]):
        with pytest.raises(ValueError, match="No stored run with an adapter has finished"):
            rank_sweep_panel(rows)


def test_only_rows_that_match_every_other_setting_are_drawn():
    view = rank_sweep_view(ROWS, LIVE, **SETTINGS)
    numbers = view.numbers
    assert numbers["stored runs"] == 12 and numbers["your runs"] == 1 and numbers["ring"] == 8
    scores = [one["exact_match"] for one in STUDY if (one["rank"], one["learning_rate"]) == (8, 2e-3)]
    assert numbers["exact match at 8"] == pytest.approx(sum(scores) / 3)
    assert numbers["exact match at 8, lowest"] == min(scores) and numbers["exact match at 8, highest"] == max(scores)
    assert numbers["your test loss at 3, run 1"] == LIVE[0]["loss"]
    assert stars(view.figure) == [[3], [3]]
    (line,) = [line for line in view.figure.axes[1].lines if line.get_label().startswith("mean")]
    assert dict(zip(*line.get_data(), strict=True)) == {
        rank: pytest.approx(numbers[f"exact match at {rank}"]) for rank in (1, 2, 8, 64)
    }
    for one in ({"alpha": 64}, {"targets": "attention"}):
        other = rank_sweep_view(ROWS, LIVE, **(SETTINGS | one))
        assert stars(other.figure) == [[8], [8]] if "alpha" in one else [[4], [4]]


def test_the_words_name_the_best_its_range_and_how_many_runs():
    text = rank_sweep_view(ROWS, LIVE, **SETTINGS).text
    assert text.startswith("Across rank with all-linear, alpha 32, learning rate 0.002. Stored: 12 runs of 120 steps.")
    assert "Exact match: best at 64 with 0.7 (0.68 to 0.72, 3 runs); 0.61 at 8." in text
    assert "Test loss: best at 64 with 0.6 (0.56 to 0.64, 3 runs); 0.78 at 8." in text
    assert "Yours: 1 run of 120 steps: test loss at 3 is" in text
    across = rank_sweep_view(ROWS, [], **(SETTINGS | {"across": "learning_rate", "alpha": 64})).text
    assert across.startswith("Across learning rate with all-linear, rank 8, alpha 64. Stored: 2 runs")
    assert "Yours" not in across


def test_a_setting_of_the_variable_itself_that_is_not_stored_is_said():
    view = rank_sweep_view(ROWS, [], **(SETTINGS | {"rank": 1, "alpha": 64}))
    assert "(0.59 to 0.61, 2 runs); not stored at 1." in view.text
    assert not any(line.get_label() == "chosen" for axes in view.figure.axes for line in axes.lines)


def test_diverged_runs_are_counted_in_the_words():
    view = rank_sweep_view(ROWS, [], **(SETTINGS | {"across": "learning_rate"}))
    assert "Left out because they did not finish: 1 of 6 runs." in view.text
    assert "exact match at 0.03" not in view.numbers and "exact match at 0.008" in view.numbers


def test_runs_of_another_task_or_length_are_not_passed_off_as_alike():
    other = [row(3, task="orders"), row(4, steps=3)]
    view = rank_sweep_view(ROWS, other, **SETTINGS)
    assert view.numbers["your runs"] == 1 and stars(view.figure) == [[4], [4]]
    assert "Yours: 1 run of 3 steps" in view.text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"across": "alpha", "rank": 64, "learning_rate": 3e-2},
            "No stored run has all-linear, rank 64, learning rate 0.03; the nearest setting that is stored is "
            "all-linear, rank 64, learning rate 0.008.",
        ),
        (
            {"alpha": 16},
            "No stored run has all-linear, alpha 16, learning rate 0.002; the nearest setting that is stored is "
            "all-linear, alpha 32, learning rate 0.002.",
        ),
        (
            {"across": "alpha", "rank": 64, "targets": "attention", "learning_rate": 8e-3},
            "No stored run has attention, rank 64, learning rate 0.008; the nearest setting that is stored is "
            "attention, rank 64, learning rate 0.002.",
        ),
        (
            {"learning_rate": 3e-2},
            "No stored run with all-linear, alpha 32, learning rate 0.03 has finished (1 run of 120 steps); the "
            "nearest setting that is stored is all-linear, alpha 32, learning rate 0.008.",
        ),
    ],
)
def test_nothing_stored_names_the_nearest_that_is(changes, sentence):
    with pytest.raises(ValueError) as caught:
        rank_sweep_view(ROWS, [], **(SETTINGS | changes))
    assert str(caught.value) == sentence


def test_the_panel_shows_the_sentence_and_recovers():
    panel = rank_sweep_panel(ROWS)
    panel.controls["alpha"].value = 16
    assert 'role="alert"' in panel.message.value and "the nearest setting that is stored is" in panel.message.value
    assert panel.current is None and panel.canvas.layout.display == "none"
    panel.controls["alpha"].value = 32
    assert panel.current is not None and "alert" not in panel.message.value


def test_the_learners_runs_alone_are_drawn_too():
    view = rank_sweep_view(ROWS, [row(4, 7, alpha=16)], **(SETTINGS | {"alpha": 16}))
    assert stars(view.figure) == [[4], [4]] and "Test loss: no finished run is stored; not stored at 8." in view.text


# --- the live picture -------------------------------------------------------------------------------------------


def run(rank=8, seed=0, alpha=16, learning_rate=2e-3, id="", status="finished", **method):
    method = {"rank": rank, "alpha": alpha, "learning_rate": learning_rate, "targets": "all-linear"} | method
    label = f"lora r={rank}"
    id = id or f"{method}-{seed}"
    parts = {"method": method, "config": {"seed": seed}, "task": {"name": "facts"}, "history": []}
    return SimpleNamespace(id=id, label=label, status=status, **parts)


def steps_of(runs, steps=3, later=0.0):
    """A pass as `sweep` reports it: the records grow, and each step is told."""
    for step in range(1, steps + 1):
        for one in runs:
            if one.status == "finished":
                one.history.append({"step": step, "loss": 3.0 - step / 2 - one.config["seed"]})
        left = float(10 * (steps - step) + 5) + later  # 5 s for the scores
        yield {
            "step": step,
            "steps": steps,
            "seconds": 1.0,
            "seconds_left": left,
            "passes_left": later > 0,
            "runs": runs,
        }


@pytest.fixture
def pictures(monkeypatch):
    """The figures shown, as (title, labels), with a clock that moves on by 3 s each time it is read."""
    drawn, clock = [], iter(range(10, 10_000, 3))

    def note(live, figure):
        axes = figure.axes[0]
        drawn.append((axes.get_title(loc="left"), [line.get_label() for line in axes.lines]))

    monkeypatch.setenv("WORKBENCH_PROGRESS", "1")
    monkeypatch.setattr(LivePicture, "show", note)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    return drawn


def test_a_sweep_is_drawn_as_it_goes_and_its_end_is_not_missed(pictures):
    live = LiveSweep(steps=3)
    assert [live.on_step(entry) for entry in steps_of([run(8), run(2)])] == [None] * 3, "True would stop the sweep"
    assert pictures[0] == ("Training loss: about 25 s left", ["r = 2", "r = 8"])
    assert pictures[-1] == ("Training loss", ["r = 2", "r = 8"]) and len(pictures) == 3
    assert live.histories["r = 8"] == [{"step": step, "loss": 3.0 - step / 2} for step in (1, 2, 3)]


def test_a_picture_every_two_seconds_is_enough(pictures, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    live = LiveSweep(steps=50)
    for entry in steps_of([run()], 50):
        now[0] += 0.5
        live.on_step(entry)
    assert len(pictures) == 1 + 48 // 5 + 1, "the first, one after each five steps (2.5 s), and the last"


def test_silence_means_one_picture_a_pass(pictures, monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "0")
    live = LiveSweep(steps=3)
    for runs in ([run(1), run(2)], [run(4)]):
        for entry in steps_of(runs):
            live.on_step(entry)
    assert [labels for _, labels in pictures] == [["r = 1", "r = 2"], ["r = 1", "r = 2", "r = 4"]]


def test_the_curves_of_earlier_passes_stay_and_the_time_left_is_the_sweeps(pictures):
    live = LiveSweep(steps=3)
    for entry in steps_of([run(16), run(1)], later=60.0):
        live.on_step(entry)
    assert pictures[-1][0] == "Training loss: about 65 s left", "a pass has ended, the sweep has not"
    for entry in steps_of([run(4)]):
        live.on_step(entry)
    assert pictures[-1] == ("Training loss", ["r = 1", "r = 4", "r = 16"])
    assert [len(history) for history in live.histories.values()] == [3, 3, 3]


def test_a_pass_that_begins_again_replaces_its_curves(pictures):
    live = LiveSweep(steps=3)
    first = [run(1), run(2)]
    live.on_step(next(steps_of(first)))
    for one in first:  # out of memory: one at a time, with new records of the same ids
        for entry in steps_of([run(one.method["rank"])]):
            live.on_step(entry)
    assert list(live.histories) == ["r = 1", "r = 2"]
    assert [len(history) for history in live.histories.values()] == [3, 3]


def test_a_pass_that_diverges_whole_still_gets_its_last_picture(pictures, monkeypatch):
    monkeypatch.setenv("WORKBENCH_PROGRESS", "0")
    live = LiveSweep(steps=9)
    rest = {"steps": 9, "seconds": 1.0, "passes_left": 0}
    live.on_step({"step": 2, "seconds_left": 7.0, "runs": [run(1), run(2, status="diverged")], **rest})
    assert not pictures
    runs = [run(1, status="diverged"), run(2, status="diverged")]
    live.on_step({"step": 3, "seconds_left": 6.0, "runs": runs, **rest})
    assert [labels for _, labels in pictures] == [["r = 1 (diverged)", "r = 2 (diverged)"]]


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        ([run(8)], ["lora r=8"]),
        ([run(8), run(64), run(1)], ["r = 1", "r = 8", "r = 64"]),
        ([run(8, 1), run(8, 0)], ["seed 0", "seed 1"]),
        ([run(learning_rate=2e-3), run(learning_rate=5e-4)], ["rate 0.0005", "rate 0.002"]),
        ([run(8, alpha=32), run(8, alpha=8)], ["alpha 8", "alpha 32"]),
        ([run(8, 1), run(2, 1), run(8, 0)], ["r = 2, seed 1", "r = 8, seed 0", "r = 8, seed 1"]),
        ([run(targets=["up_proj", "gate_proj", "down_proj"]), run()], ["all-linear", "mlp"]),
        ([run(targets=["q_proj"], layers=[15]), run(targets=["q_proj"])], ["q_proj", "q_proj, layer 15"]),
        ([run(8, id="a"), run(8, id="b", dropout=0.1)], ["lora r=8", "lora r=8, 2"]),
        ([run(8), run(None, alpha=None)], ["r = 8, all-linear, alpha 16", "full fine-tuning"]),
    ],
)
def test_a_label_names_only_what_differs(runs, labels):
    found = label_runs(runs)
    assert list(found) == labels and {one.id for one in found.values()} == {one.id for one in runs}


# --- the exercise -----------------------------------------------------------------------------------------------


def test_the_numbers_of_the_exercise_are_those_of_the_packaged_model(base):
    shapes = list(linear_modules(base.model).values())
    assert sorted(shapes) == sorted(e05_capacity.BLOCK * e05_capacity.BLOCKS)
    assert sum(map(sum, shapes)) == e05_capacity.ALL_LAYERS == 305_280
    assert f"{e05_capacity.ALL_LAYERS:,}" in e05_capacity.EXERCISE.explanation
    assert f"{information_bits(SWEEP_FACTS):,.0f} bits" in e05_capacity.EXERCISE.explanation
