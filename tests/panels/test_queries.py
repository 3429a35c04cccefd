"""The panel of lesson 09: more queries narrow the interval, and the text says how many would do."""

import numpy as np
import pytest

from workbench.errors import RetrievalError
from workbench.panels.queries import QUERIES, queries_panel, queries_view

DRAW = np.random.default_rng(0)
GAINS = {"large": 0.1 + 0.3 * DRAW.standard_normal(1200), "none": np.array([0.2, -0.2] * 600)}


def test_more_queries_narrow_the_interval_and_then_it_is_seen():
    widths = [queries_view(GAINS, "large", count).numbers["half_width"] for count in QUERIES]
    assert widths == sorted(widths, reverse=True)
    small, large = (queries_view(GAINS, "large", count) for count in (50, 10_000))
    assert small.numbers["half_width"] == pytest.approx(0.3 * 1.96 / 50**0.5, rel=0.15)
    assert "is seen" in large.figure.axes[0].get_title(loc="left") and ": better." in large.text
    assert large.numbers["needed"] == pytest.approx((1.96 * 0.3 / GAINS["large"].mean()) ** 2, rel=0.1)


def test_no_difference_is_never_seen():
    view = queries_view(GAINS, "none", 3000)
    assert ": undecided." in view.text and "Not even 1,000,000 queries" in view.text
    assert "is not seen" in view.figure.axes[0].get_title(loc="left")


def test_the_panel_offers_every_difference_and_needs_one():
    panel = queries_panel(GAINS)
    assert panel.controls["difference"].options == ("large", "none") and panel.controls["queries"].value == 300
    with pytest.raises(RetrievalError, match="no difference to show"):
        queries_panel({})
