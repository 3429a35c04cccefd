"""A row of the grid of predictions, as `workbench.cost.grid.grid` gives it, for rules that judge such rows."""

from workbench.cost.grid import FULL_BF16, FULL_MASTER


def grid_row(
    model: str, parameters: float, setting: str, size: float, trained: float, money: float, a100s: int
) -> dict:
    """One step of 4 x 512 tokens that takes `size` bytes. trained, money: of a setting that is not full."""
    full = setting in (FULL_MASTER, FULL_BF16)
    return {
        "model": model,
        "parameters": parameters,
        "setting": setting,
        "batch_size": 4,
        "sequence_length": 512,
        "checkpointing": False,
        "reserved_bytes": size,
        "total_bytes": size,
        "trainable_parameters": parameters if full else trained,
        "a100s": a100s,
        "money": 1.0 if full else money,
    }
