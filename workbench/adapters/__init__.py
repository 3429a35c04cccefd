"""Low-rank adapters: the mathematics, quantization, the methods, several adapters at once, and saved adapters."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "LoRALinear": "lowrank",
        "Method": "methods",
        "adapter_parameters": "inject",
        "apply": "inject",
        "change": "checkpoints",
        "full": "methods",
        "hybrid": "methods",
        "load": "checkpoints",
        "lora": "methods",
        "merge": "checkpoints",
        "qlora": "methods",
        "save": "checkpoints",
        "spectra": "checkpoints",
    },
)
