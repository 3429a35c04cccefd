"""Sweeps: many configurations, trained in as few passes over the frozen base as fit into memory."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "RayExecutor": "ray_executor",
    },
)
