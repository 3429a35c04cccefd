"""The GPUs that many tuned versions of one model take, as adapters on one base and as whole models."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.adapters.lowrank import lora_parameters
from workbench.cost.flops import meta_base
from workbench.cost.gpus import find_gpu
from workbench.cost.roofline import Service, serve
from workbench.memory.shapes import shape_of

BYTES = 2  # of a weight, in 16 bits


@dataclass(frozen=True)
class Fleet:
    """`tasks` tuned versions of a model on GPUs of one kind, in 16 bits, adapters of `rank` on all linear layers.

    model: as for `memory.estimate`; gpu: a name of `cost.gpus.gpus`. Its properties raise HardwareError for another
    GPU, and MemoryModelError for a model whose shapes are unknown.
    """

    tasks: int
    model: str
    rank: int
    gpu: str

    @property
    def base_bytes(self) -> int:
        """Of one whole model."""
        return BYTES * int(meta_base(self.model).model.num_parameters())

    @property
    def adapter_bytes(self) -> int:
        """Of one adapter."""
        shape = shape_of(meta_base(self.model).model.config)
        return BYTES * shape.layers * sum(lora_parameters(*size, self.rank) for size in shape.linear.values())

    @property
    def services(self) -> dict[str, Service]:
        """Both ways to serve, as `cost.roofline.serve` counts them: SHARED and WHOLE."""
        return serve(self.tasks, self.base_bytes, self.adapter_bytes, find_gpu(self.gpu))
