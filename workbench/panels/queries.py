"""Panel of notebook 09: how small a difference a number of queries can see."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from workbench.errors import RetrievalError
from workbench.panels.base import Panel, View, choice, steps_slider
from workbench.plots.retrieval import what_queries_see
from workbench.results.paired import two_digits
from workbench.retrieval.metrics import NORMAL, bootstrap

QUERIES = (50, 100, 200, 300, 500, 700, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000)
MOST = 1_000_000  # a test that would take more is not advised

Gains = Mapping[str, np.ndarray[Any, Any]]


def queries_view(gains: Gains, difference: str, queries: int = 300) -> View:
    """The interval of a difference with so many queries, and how many would see it.

    gains: name of the difference -> its value at every query that was measured, of which queries are drawn.
    """
    values = gains[difference]
    found = bootstrap(values, queries=queries)
    spread = float(values.std(ddof=1))
    needed = (NORMAL * spread / abs(found.centre)) ** 2 if found.centre else np.inf
    several = f"About {two_digits(needed):,} queries" if needed < MOST else f"Not even {MOST:,} queries"
    text = (
        f"{difference}: {found.centre:+.4f} NDCG@10. With {queries:,} queries chance moves it by "
        f"{found.half_width:.4f} to both sides ({found.low:+.4f} to {found.high:+.4f}): {found.verdict}. {several} "
        "would see a difference of this size."
    )
    numbers = {"difference": found.centre, "half_width": found.half_width, "needed": float(needed)}
    return View(
        lambda: what_queries_see(values, queries, found, difference), text, numbers, result=f"{found.half_width:.4f}"
    )


def queries_panel(gains: Gains) -> Panel:
    """The live panel. Controls: difference, queries. Raises RetrievalError without a difference to show."""
    if not gains:
        raise RetrievalError("There is no difference to show; give the gains of the queries of one at least.")
    controls = {
        "difference": choice("difference", next(iter(gains)), list(gains)),
        "queries": steps_slider("queries", 300, QUERIES),
    }
    return Panel("What so many queries can see", controls, partial(queries_view, gains))
