"""Low-rank adapters: the mathematics, quantization, the methods, several adapters at once, and saved adapters."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "LoRALinear": "lowrank",
        "Method": "methods",
        "adapter_parameters": "inject",
        "apply": "inject",
        "change": "updates",
        "full": "methods",
        "hybrid": "methods",
        "load": "saved.checkpoints",
        "lora": "methods",
        "merge": "merging",
        "qlora": "methods",
        "save": "saved.checkpoints",
        "spectra": "updates",
    },
)
