"""An update as a sum of directions, decomposed once, and models that keep the largest few of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from peft.tuners.lora import Embedding as LoraEmbedding, LoraLayer
from torch import Tensor

from workbench.adapters.adapter_files import BASE_PREFIX
from workbench.adapters.inject import block_of
from workbench.adapters.lowrank import truncate
from workbench.adapters.updates import factors
from workbench.analysis.weights import LayerSpectrum, as_stored, changed_layers, is_product, with_weights
from workbench.errors import AdapterError
from workbench.models.base import Base, linear_weight


@dataclass(frozen=True)
class Directions:
    """The largest directions of one layer's update: left (out, r) times right (r, in), the largest first.

    values: all singular values of the update; of an adapter's those that can differ from zero.
    """

    left: Tensor
    right: Tensor
    values: Tensor

    def largest(self, rank: int) -> Tensor:
        """The nearest matrix of this rank to the update, (out, in); rank 0 gives zeros."""
        return self.left[:, :rank] @ self.right[:rank]


def decompose(base: Base, tuned: Base, rank: int) -> dict[str, Directions]:
    """Name -> the `rank` largest directions of the update of each linear layer that was changed.

    One singular value decomposition a layer; of an adapter only of its small factors. Raises AdapterError as
    `weights.updates` does, and for a rank below 1.
    """
    if rank < 1:
        raise AdapterError(f"rank={rank} must be at least 1.")
    found: dict[str, Directions] = {}
    if not is_product(tuned.model):
        for name, before, after in changed_layers(base, tuned):
            U, S, Vh = torch.linalg.svd(after - before, full_matrices=False)  # noqa: N806 - as in lowrank
            root = S[:rank].sqrt()
            found[name] = Directions(U[:, :rank] * root, root[:, None] * Vh[:rank], S)
        return found
    for name, layer in tuned.model.named_modules():
        if isinstance(layer, LoraLayer) and not isinstance(layer, LoraEmbedding):
            A, B = factors(name, layer)  # noqa: N806 - as in lowrank
            A, B = truncate(A, layer.scaling["default"] * B, min(*A.shape, len(B)))  # noqa: N806
            values = B.norm(dim=0) * A.norm(dim=1)
            if values[0] > 0:
                found[name.removeprefix(BASE_PREFIX)] = Directions(B[:, :rank], A[:rank], values)
    return found


def keep_directions(base: Base, tuned: Base, directions: Mapping[str, Directions], rank: int) -> Base:
    """The tuned model with the `rank` largest directions of each layer's update: what `cut` gives, at a lower price.

    directions: of `decompose` for the same two models. rank 0 gives all linear layers their base weights back; what is
    no linear layer stays tuned. Raises AdapterError for a rank that was not decomposed.
    """
    cut_short = [len(each.right) for each in directions.values() if len(each.right) < len(each.values)]
    if rank < 0 or rank > min(cut_short, default=rank):
        raise AdapterError(f"rank={rank} must be from 0 to the rank of the decomposition; decompose to a higher one.")
    layers = {name: linear_weight(base.model.get_submodule(name)).detach().float() for name in directions}
    new = {name: layers[name] + each.largest(rank) for name, each in directions.items()}
    return with_weights(base, tuned, as_stored(base, new), f"{rank} largest directions")


def spectra_of(directions: Mapping[str, Directions]) -> list[LayerSpectrum]:
    """What `layer_spectra` gives, without a second decomposition."""
    return [
        LayerSpectrum(name, name.rpartition(".")[2], block_of(name), each.values) for name, each in directions.items()
    ]
