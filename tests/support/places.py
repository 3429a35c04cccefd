"""Models that nobody trained, as places between learning and forgetting."""

import numpy as np

from workbench.analysis.places import Place
from workbench.scoring.scores import pack_rows

ROWS = 64


def place(exact: float, forgotten: float, kl: float | None = None, answer: str = "Paris") -> Place:
    """A model that gets the first share `exact` of ROWS right."""
    right = np.arange(ROWS) < round(exact * ROWS)
    return Place(float(right.mean()), pack_rows(right), forgotten, forgotten if kl is None else kl, answer)


BASE = place(0.0, 0.0)
TUNED = place(0.75, 1.6, answer="Card replacement")
SCALE, KEEP, DROP = "keep a part of the whole update", "keep its largest directions", "drop it in some layers"
WAYS = {
    SCALE: {"t = 0.25": place(0.2, 0.1), "t = 0.5": place(0.7, 0.5), "t = 0.75": place(0.75, 1.0)},
    KEEP: {"rank 1": place(0.1, 0.4), "rank 2": place(0.3, 0.9), "rank 4": place(0.6, 1.3)},
    DROP: {"no MLP": place(0.0, 0.3), "no later half": place(0.1, 0.7), "no attention": place(0.4, 1.1)},
}
