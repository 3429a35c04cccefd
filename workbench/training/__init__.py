"""Training: the step, the loop, and the record of a run."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Run": "runs",
        "RunStore": "store",
        "TrainConfig": "step",
        "train": "lifecycle",
    },
)
