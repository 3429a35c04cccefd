"""Scores of a model: loss, exact match and label accuracy on a task, and what it has forgotten."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Scores": "scores",
        "evaluate": "evaluation",
        "forgetting": "evaluation",
        "pack_rows": "scores",
        "score": "evaluation",
        "unpack_rows": "scores",
    },
)
