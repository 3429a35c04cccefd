"""Random seeds: which ones torch takes, and how torch's random state is left as it was."""

from contextlib import AbstractContextManager

import torch

TORCH_SEEDS = range(-(2**63), 2**63)  # what torch.manual_seed and its generators both take


def forked_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Restore the random state of the CPU and of `device` (not of every GPU there is) at the end of the block."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
