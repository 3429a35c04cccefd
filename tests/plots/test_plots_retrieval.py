"""Figures of lesson 09."""

import numpy as np

from support.search_rows import search_rows
from workbench.commentary import search as say
from workbench.plots import retrieval as figures
from workbench.retrieval.metrics import bootstrap
from workbench.retrieval.published import published_scores

ROWS = search_rows(lora=0.62, full=0.64, hybrid=0.61, **{"lora r=2": 0.6, "lora r=32": 0.63})
ONES = {name: {48: 0.37, 192: 0.52, 384: 0.55} for name in ("base", "your run")}
GAINS = 0.05 + 0.3 * np.random.default_rng(0).standard_normal(1200)

FIGURES = {
    "published": lambda: figures.published(published_scores(), "0.888 is the encoder before tuning"),
    "differences": lambda: figures.differences(say.differences(ROWS), say.study_title(ROWS), 0.01),
    "what_queries_see": lambda: figures.what_queries_see(GAINS, 300, bootstrap(GAINS, queries=300), "yours less base"),
    "cut_vectors": lambda: figures.cut_vectors(say.cut_vectors(ROWS) | ONES, say.cut_title(ONES["base"])),
    "gain_and_kept": lambda: figures.gain_and_kept(say.gain_and_kept(ROWS), "What search gains, and other text keeps"),
}


def test_published_scores_stand_next_to_their_points():
    axes = FIGURES["published"]().axes
    assert [text.get_text() for text in axes[0].texts] == ["0.888", "0.947"]
    assert [label.get_text() for label in axes[1].get_yticklabels()] == ["base", "lora", "full"]


def test_every_setting_is_drawn_with_three_seeds():
    lines = FIGURES["gain_and_kept"]().axes[0].lines
    assert [len(line.get_xdata()) for line in lines] == [3, 3, 3, 3, 3, 2]  # the last one marks no gain
