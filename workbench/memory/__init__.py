"""Memory of a training step on a GPU: estimated in closed form, simulated, or measured on this CPU."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "COMPONENTS": "report",
        "MemoryReport": "report",
        "Setup": "setup",
        "as_trained": "report",
        "estimate": "report",
        "measure": "report",
        "shipped": "setup",
        "simulate": "report",
    },
)
