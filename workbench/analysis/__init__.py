"""What fine-tuning has changed: the updates of the weights, intruder dimensions among them, and what was forgotten."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Cuts": "places",
        "LayerSpectrum": "weights",
        "Place": "places",
        "along": "places",
        "changed_layers": "weights",
        "cut": "weights",
        "decompose": "directions",
        "drop": "weights",
        "energy": "weights",
        "energy_grid": "weights",
        "find_intruders": "intruders",
        "interpolate": "weights",
        "keep_directions": "directions",
        "kl_from_base": "forgetting",
        "layer_spectra": "weights",
        "merged": "weights",
        "perplexity": "forgetting",
        "place_of": "places",
        "scale_intruders": "intruders",
        "spectra_of": "directions",
        "times_of": "places",
        "updates": "weights",
        "yardstick": "places",
    },
)
