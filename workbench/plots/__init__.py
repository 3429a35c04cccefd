"""Figures: functions from data to a matplotlib Figure."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "LIGHT_TO_DARK": "style",
        "Figure": "style",
        "MATRIX_COLOURS": "style",
        "PALETTE": "style",
        "RING": "style",
        "SERIES": "style",
        "TIMES": "style",
        "described": "style",
        "legend_below": "style",
        "new_figure": "style",
        "picture": "style",
        "show": "style",
        "to_png": "style",
    },
)
