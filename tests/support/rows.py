"""Stored rows whose scores are exact functions of their settings."""

import numpy as np

A_RANK = {"all-linear": 305_280, "attention": 115_200, "mlp": 190_080, "q_proj": 34_560}


def row(rank=8, seed=0, **changes) -> dict:
    """One stored run; the scores are exact functions of the settings, so that a figure can be checked against them."""
    rate, alpha = changes.get("learning_rate", 2e-3), changes.get("alpha", 32)
    targets, layers = changes.get("targets", "all-linear"), changes.get("layers")
    parameters = A_RANK[targets] * (rank or 100) * (1 if layers is None else len(layers) / 30)
    exact = 0.5 + 0.03 * np.log2(rank or 1) - 0.1 * abs(np.log2(rate / 2e-3)) + 0.02 * seed
    fields = {
        "group": "g",
        "task": "facts",
        "method": f"lora r={rank}" if rank else "full",
        "rank": rank,
        "alpha": alpha if rank else None,
        "scaling": alpha / rank if rank else None,
        "learning_rate": rate,
        "layers": None,
        "targets": targets,
        "rslora": False,
        "steps": 120,
        "seed": seed,
        "status": "finished",
        "loss": float(2 - 2 * exact),
        "exact_match": float(exact),
        "forgetting": 0.01 * seed,
        "trainable_parameters": int(parameters),
        "memorised_bits": float(2551 * exact),
    }
    fields |= changes
    if fields["status"] == "diverged":
        fields |= dict.fromkeys(("loss", "exact_match", "forgetting", "memorised_bits"))
    return fields


RANKS, RATES, SEEDS = (1, 2, 8, 64), (5e-4, 2e-3, 8e-3), (0, 1, 2)
STUDY = [row(rank, learning_rate=rate) for rank in RANKS for rate in RATES]
STUDY += [row(rank, seed) for rank in RANKS for seed in (1, 2)]
