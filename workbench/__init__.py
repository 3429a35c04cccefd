"""A teaching workbench for LoRA, QLoRA, hybrid and full fine-tuning of language models.

Importing the package loads nothing heavy: a name's module (and torch with it) is imported when the name is first used.
"""

import logging
import os

from workbench._lazy import attach
from workbench.errors import WorkbenchError  # noqa: F401 - it is part of the public names

__version__ = "0.1.0"

# bitsandbytes warns at import that an optional Hub kernel, which nothing here uses, is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# And at each product with 8-bit weights that it rounds the inputs, which is what int8 means there.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
# torch's profiler tells when it starts and stops, in the middle of a notebook; it reads this when torch is loaded.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

_HOME = {
    "Base": "models.base",
    "load_base": "models.base",
    "Task": "tasks.tasks",
    "load_task": "tasks.tasks",
    "LoRALinear": "adapters.lowrank",
    "Method": "adapters.methods",
    "full": "adapters.methods",
    "hybrid": "adapters.methods",
    "lora": "adapters.methods",
    "qlora": "adapters.methods",
    "evaluate": "training.evaluation",
    "Run": "training.runs",
    "RunStore": "training.store",
    "TrainConfig": "training.step",
    "train": "training.lifecycle",
    "sweep": "sweeps.sweep",
    "recommend": "advice.recommend",
    "check": "exercises",
    "hint": "exercises",
    "solution": "exercises",
}

__all__ = sorted([*_HOME, "WorkbenchError"])


__getattr__, __dir__, _ = attach(__name__, _HOME)
