"""What the canvas draws is what the matplotlib figure holds: limits, lines, bars, areas, texts and legend."""

import numpy as np
import pytest

from workbench.panels.live.charts import charts_of
from workbench.plots.style import PALETTE, SERIES, described, log_x, new_figure, style


@pytest.fixture
def figure():
    figure = new_figure(8, 4)
    left, right = figure.subplots(1, 2)
    style(left, "Loss", "step", "nats")
    left.plot([1, 2, 4], [3.0, 0.3, 0.03], label="a run", **SERIES[1])
    left.fill_between([1, 4], [1, 1], [2, 2], color=PALETTE["blue"], alpha=0.2)
    left.axhline(0.5, color=PALETTE["grey"])
    left.set_yscale("log")
    log_x(left, [1, 2, 4], base=2)
    bars = right.barh(["one", "two"], [3, 5], color=PALETTE["sky"])
    right.bar_label(bars, labels=["three", "five"], padding=3)
    right.axvline(4, color=PALETTE["pink"])
    figure.legend(loc="outside lower center")
    return described(figure, "two charts")


def test_lines_bars_and_texts_are_carried_over(figure):
    facts, arrays = charts_of(figure)
    left, right = facts["charts"]
    run, level = left["lines"]
    assert (run["label"], run["colour"], run["marker"], run["dash"][:1] != []) == ("a run", "orange", "s", True)
    assert arrays[run["xs"]].tolist() == [1, 2, 4] and arrays[run["ys"]].tolist() == [3.0, 0.3, 0.03]
    assert arrays[level["xs"]].tolist() == pytest.approx(figure.axes[0].get_xlim())
    assert left["x"]["log"] and left["y"]["log"] and [text for _, text in left["x"]["ticks"]] == ["1", "2", "4"]
    assert left["areas"][0]["colour"] == "blue" and left["areas"][0]["alpha"] == 0.2
    assert [bar["x"] for bar in right["bars"]] == [[0, 3], [0, 5]] and right["bars"][0]["colour"] == "sky"
    assert right["y"]["ticks"] == [[0, "one"], [1, "two"]]
    assert [text["text"] for text in right["texts"]] == ["three", "five"]
    assert [text["place"] for text in right["texts"]] == [[3, 0], [5, 1]]
    assert arrays[right["lines"][0]["xs"]].tolist() == [4, 4]
    assert [entry["label"] for entry in facts["legend"]] == ["a run"]


def test_the_digest_is_of_all_that_is_drawn(figure):
    facts, _ = charts_of(figure)
    assert charts_of(figure)[0]["digest"] == facts["digest"]
    line = figure.axes[0].lines[0]
    line.set_ydata(np.asarray(line.get_ydata()) * 1.001)
    assert charts_of(figure)[0]["digest"] != facts["digest"]
