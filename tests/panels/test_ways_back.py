"""The panel of the ways back: its pure function, its ends, and what it refuses."""

import pytest

from support.places import BASE, DROP, KEEP, ROWS, SCALE, TUNED, WAYS, place
from workbench.panels.ways_back import Route, ways_back_panel, ways_back_view

ROUTE = Route(BASE, TUNED, WAYS)
SENTENCE = "The capital of France is"


def seen(**changes):
    return ways_back_view(ROUTE, SENTENCE, ROWS, **({"run": "lora", "way": SCALE, "kept": 2} | changes))


@pytest.mark.parametrize("way", WAYS)
def test_every_step_is_the_model_of_that_setting(way):
    expected = [BASE, *WAYS[way].values(), TUNED]
    for kept, one in enumerate(expected):
        numbers = seen(way=way, kept=kept).numbers
        assert numbers == {"exact_match": one.exact_match, "times": one.times, "kl": one.kl}


def test_the_ring_is_at_the_model_and_the_words_say_which_it_is():
    view = seen()
    ring = view.figure.axes[0].lines[-1]
    assert [*ring.get_xdata(), *ring.get_ydata()] == pytest.approx([WAYS[SCALE]["t = 0.5"].times, 0.703], abs=1e-3)
    assert view.text.startswith(f"lora, {SCALE}, t = 0.5: 70% of 64 rows right (as trained 75%)")
    assert list(view.answers.values()) == ["Paris", "Card replacement", "Paris"]
    assert seen(kept=0).text.startswith("lora, the base: 0%") and seen(kept=4).text.startswith("lora, as trained: 75%")


def test_a_way_is_a_line_from_base_to_model_and_what_is_dropped_are_marks():
    lines = {line.get_label(): line for line in seen().figure.axes[0].lines}
    assert list(lines[SCALE].get_xdata()) == [each.times for each in (BASE, *WAYS[SCALE].values(), TUNED)]
    assert list(lines[DROP].get_ydata()) == [each.exact_match for each in WAYS[DROP].values()]
    assert lines[DROP].get_linestyle() == "None" and lines[KEEP].get_linestyle() != "None"


def test_a_run_without_that_way_says_which_it_has():
    panel = ways_back_panel({"lora": ROUTE, "full": Route(BASE, TUNED, {KEEP: WAYS[KEEP]})}, SENTENCE, ROWS)
    assert panel.values == {"run": "lora", "way": SCALE, "kept": 3}, "it starts one step back from the trained model"
    panel.controls["run"].value = "full"
    assert f"full has no way &#x27;{SCALE}&#x27;; choose one of {KEEP}" in panel.message.value
    panel.controls["way"].value = KEEP
    assert panel.current.numbers["exact_match"] == WAYS[KEEP]["rank 4"].exact_match


def test_what_the_slider_cannot_show_is_refused():
    with pytest.raises(ValueError, match="train one first"):
        ways_back_panel({}, SENTENCE, ROWS)
    with pytest.raises(ValueError, match="has 1 settings; the slider needs 3"):
        ways_back_panel({"lora": Route(BASE, TUNED, {SCALE: {"t = 0.5": place(0.5, 0.5)}})}, SENTENCE, ROWS)
