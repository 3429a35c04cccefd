"""The memory of generating answers in the middle of a training, to tell whether an evaluation sets a run's peak."""

from __future__ import annotations

from workbench.memory.configs import Source, model_config
from workbench.memory.formula.block_memory import cache_bytes
from workbench.memory.formula.loss_memory import previous_outputs
from workbench.memory.formula.model_states import new_gradients, resident
from workbench.memory.formula.trained_model import trained_model
from workbench.memory.report import CUBLAS_BYTES
from workbench.memory.setup import Setup
from workbench.memory.shapes import shape_of


def generation_bytes(model: Source, setup: Setup, rows: int, length: int) -> int:
    """Peak bytes while `rows` answers are generated up to `length` tokens, prompt included, between two training steps.

    The training keeps its weights, optimizer state, gradients and the outputs of its last step. The peak is at the last
    token, when the cache of keys and values is longest and the one that grows exists twice. Raises MemoryModelError for
    an architecture that `estimate` does not support.
    """
    trained = trained_model(shape_of(model_config(model)), setup)
    kept = [*resident(trained), *new_gradients(trained), *previous_outputs(trained)]
    one_cache = cache_bytes(trained) * rows * length
    return sum(term.bytes for term in kept) + (2 * trained.shape.layers + 1) * one_cache + CUBLAS_BYTES
