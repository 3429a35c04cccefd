"""Memory of a training step on a GPU: estimated in closed form, simulated, or measured on this CPU."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "COMPONENTS": "report",
        "MemoryReport": "report",
        "Setup": "setup",
        "as_trained": "steps.real_steps",
        "estimate": "closed_form",
        "measure": "steps.real_steps",
        "shipped": "configs",
        "simulate": "simulation",
    },
)
