"""Tasks: pairs of prompt and completion, checked, tokenized and batched."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "LIVE_ROWS": "tasks",
        "SWEEP_FACTS": "tasks",
        "Encoded": "encoding",
        "Example": "example",
        "Task": "tasks",
        "batches": "encoding",
        "collate": "encoding",
        "data_report": "report",
        "encode": "encoding",
        "information_bits": "tasks",
        "load_task": "tasks",
        "start_ids": "joining",
    },
)
