"""A teaching workbench for LoRA, QLoRA, hybrid and full fine-tuning of language models.

Importing the package loads nothing heavy: a name's module (and torch with it) is imported when the name is first used.
"""

import logging
import os

from workbench._lazy import attach
from workbench.errors import WorkbenchError  # noqa: F401 - a public name

__version__ = "0.1.0"

# At import bitsandbytes warns that an optional kernel from the Hub is missing; nothing here uses it.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# At each product with 8-bit weights it warns that it casts the inputs, which its int8 layers always do.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
# torch's profiler logs its start and stop into the notebook's output unless this is set before torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

# name: the module that defines it. __init__.pyi repeats them with their types.
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
    "evaluate": "scoring.evaluation",
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
