"""Rows of stored runs, and the results that ship with the course."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "at_best_rate": "rows",
        "bands": "rows",
        "best_rate": "rows",
        "by_best_rate": "rows",
        "compare": "paired",
        "compare_rows": "paired",
        "grouped": "rows",
        "latest_of_each": "tables",
        "mean_and_range": "rows",
        "mean_of": "rows",
        "noise_of_difference": "noise",
        "rows_in_common": "paired",
        "rows_scored": "noise",
        "two_standard_errors": "noise",
        "usable": "rows",
    },
)
