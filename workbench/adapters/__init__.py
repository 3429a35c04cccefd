"""Low-rank adapters: the mathematics, quantization, the methods, several adapters at once, and saved adapters."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "AdapterError": "checkpoints",
        "LoRALinear": "lowrank",
        "Method": "methods",
        "MethodError": "methods",
        "adapter_parameters": "methods",
        "apply": "methods",
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
