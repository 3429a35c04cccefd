# The types of the names that __init__.py imports when they are first used; tests/test_public_names.py compares the two.
from workbench.adapters.lowrank import LoRALinear
from workbench.adapters.methods import Method, full, hybrid, lora, qlora
from workbench.advice.recommend import recommend
from workbench.errors import WorkbenchError
from workbench.exercises import check, hint, solution
from workbench.models.base import Base, load_base
from workbench.scoring.evaluation import evaluate
from workbench.sweeps.sweep import sweep
from workbench.tasks.tasks import Task, load_task
from workbench.training.lifecycle import train
from workbench.training.runs import Run
from workbench.training.step import TrainConfig
from workbench.training.store import RunStore

__all__ = [
    "Base",
    "LoRALinear",
    "Method",
    "Run",
    "RunStore",
    "Task",
    "TrainConfig",
    "WorkbenchError",
    "check",
    "evaluate",
    "full",
    "hint",
    "hybrid",
    "load_base",
    "load_task",
    "lora",
    "qlora",
    "recommend",
    "solution",
    "sweep",
    "train",
]

__version__: str
