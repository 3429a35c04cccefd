"""What happens to a run after training: merged, exported with a model card, or served over HTTP."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Server": "engine",
        "base_of": "merged",
        "export": "exported",
        "merge_run": "merged",
        "serve": "engine",
        "serving_folder": "folders",
        "write_merged": "merged",
    },
)
