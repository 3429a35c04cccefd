"""A teaching workbench for LoRA, QLoRA, hybrid and full fine-tuning of language models.

Importing the package loads nothing heavy: a name's module (and torch with it) is imported when the name is first used.
"""

import logging
import os
from importlib import import_module

__version__ = "0.1.0"

# bitsandbytes warns at import that an optional Hub kernel, which nothing here uses, is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# And at each product with 8-bit weights that it rounds the inputs, which is what int8 means there.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
# torch's profiler tells when it starts and stops, in the middle of a notebook; it reads this when torch is loaded.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

_HOME = {
    "Base": "models",
    "load_base": "models",
    "Task": "tasks",
    "load_task": "tasks",
    "LoRALinear": "lowrank",
    "Method": "methods",
    "full": "methods",
    "hybrid": "methods",
    "lora": "methods",
    "qlora": "methods",
    "evaluate": "evaluation",
    "Run": "runs",
    "RunStore": "runs",
    "TrainConfig": "training",
    "train": "training",
    "sweep": "sweeps",
    "recommend": "capacity",
    "check": "exercises",
    "hint": "exercises",
    "solution": "exercises",
}

__all__ = sorted([*_HOME, "WorkbenchError"])


class WorkbenchError(Exception):
    """Something asked for cannot be done; the message says what is wrong and what to do."""


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    value = getattr(import_module(f"workbench.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
