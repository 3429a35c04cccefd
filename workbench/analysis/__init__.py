"""What fine-tuning has changed: the updates of the weights, intruder dimensions among them, and what was forgotten."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "LayerSpectrum": "weights",
        "cut": "weights",
        "drop": "weights",
        "energy": "weights",
        "energy_grid": "weights",
        "find_intruders": "intruders",
        "interpolate": "weights",
        "kl_from_base": "forgetting",
        "layer_spectra": "weights",
        "merged": "weights",
        "perplexity": "forgetting",
        "scale_intruders": "intruders",
        "updates": "weights",
    },
)
