"""Base models: loaded from the packaged weights, the Hub or a folder, and shared between adapters."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Base": "base",
        "completion_logits": "padding_free",
        "in_float32": "sharing",
        "linear_modules": "base",
        "load_base": "base",
        "load_tokenizer": "base",
        "shared_copy": "sharing",
    },
)
