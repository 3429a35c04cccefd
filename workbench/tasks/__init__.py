"""Tasks: pairs of prompt and completion, checked, tokenized and batched."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Encoded": "tasks",
        "Example": "tasks",
        "Task": "tasks",
        "TaskError": "tasks",
        "batches": "tasks",
        "collate": "tasks",
        "encode": "tasks",
        "load_task": "tasks",
        "start_ids": "tasks",
    },
)
