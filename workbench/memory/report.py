"""The memory of one training step: what `estimate` and `simulate` return, and how far it was validated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import PreTrainedConfig

from workbench.memory.setup import Setup

COMPONENTS = ("weights", "adapters", "gradients", "optimizer state", "activations", "logits", "temporaries")
# Memory of the driver, its kernels and torch's, outside of the allocator: 300 to 600 MB, by GPU and driver version.
CONTEXT_BYTES = 500_000_000
# cuBLAS takes it from torch's allocator at the first product: 2 x 4096 + 8 x 16 KiB (CUBLAS_WORKSPACE_CONFIG's default)
CUBLAS_BYTES = (2 * 4096 + 8 * 16) * 1024


@dataclass(frozen=True, kw_only=True)
class MemoryReport:
    """Memory of one training step in bytes, from the second step on (the optimizer's state exists by then).

    model: the name or path that was asked for, or the configuration's model_type. setup: the settings of the step.
    config: the model's transformers configuration; it is not compared, and `to_dict` leaves it out.
    components: component -> bytes at the peak; they add up to peak_allocated_bytes. peaks: phase -> peak bytes.
    peak_allocated_bytes: of live tensors. peak_reserved_bytes: of the segments that the caching allocator needs for
    them, comparable with `torch.cuda.max_memory_reserved`. On a GPU with free memory the allocator reserves more,
    because it keeps freed segments that it cannot reuse; replayed_bytes is what it has reserved after two equal steps
    (`simulate` only). context_bytes: the CUDA context, outside of the allocator. total_bytes: reserved and context.
    validated, note: whether such a setup was compared with a published run, and if not, why.
    timeline: (phase, bytes) in order of time (`simulate` only). terms: (words, bytes) of the closed form. moments: for
    each moment at which the step may peak, the bytes that sharding splits over GPUs (model states), and the bytes that
    it leaves on each GPU: activations, logits, temporaries (both `estimate` only). seconds: time of the prediction.
    """

    model: str
    setup: Setup
    config: PreTrainedConfig = field(repr=False, compare=False)
    components: dict[str, int]
    peaks: dict[str, int]
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    context_bytes: int
    trainable_parameters: int
    seconds: float
    validated: bool
    note: str
    replayed_bytes: int | None = None
    timeline: list[tuple[str, int]] = field(default_factory=list, repr=False)
    terms: list[tuple[str, int]] = field(default_factory=list, repr=False)
    moments: list[tuple[int, int]] = field(default_factory=list, repr=False)

    @property
    def total_bytes(self) -> int:
        """Bytes that a GPU must have free: those of the allocator and the CUDA context."""
        return self.peak_reserved_bytes + self.context_bytes

    def to_dict(self) -> dict[str, Any]:
        """All fields except `config`, and total_bytes, as JSON values."""
        values = asdict(self) | {"setup": self.setup.to_dict(), "total_bytes": self.total_bytes}
        del values["config"]
        return values


EAGER_ONLY = "transformers by itself runs this family with eager attention, which takes more: use attention='eager'"


def validation(setup: Setup, family: str, *remarks: str) -> tuple[bool, str]:
    """Whether setups of this kind were compared with a published run, and a note that names what was not.

    remarks: sentences to add to the note; empty ones are left out.
    """
    # The published runs are of one llama model in bfloat16, full or with adapters, with AdamW (foreach) and sdpa. Runs
    # of other programs, in data/other_programs.csv, are compared in benchmarks/README.md and validate nothing here.
    unproven = {
        f"the {family} architecture": family != "llama",
        "4-bit weights": setup.method.name == "qlora",
        "an optimizer of bitsandbytes": setup.optimizer not in ("adamw", "adamw_fused"),
        f"computing in {setup.dtype}": setup.dtype != "bfloat16",
        "checkpointing": setup.checkpointing,
        "a hybrid": setup.method.name == "hybrid",
        f"{setup.attention} attention": setup.attention != "sdpa",
        "the fused optimizer": setup.optimizer == "adamw_fused",
        f"a {setup.loss} loss": setup.loss != "whole",
        "packed rows": setup.packed,
        "adapters in bfloat16": setup.adapter_dtype != "float32" and setup.method.name != "full",
        "outputs freed early": not setup.keep_outputs,
        "states split over GPUs or offloaded": setup.sharded,
        "gradients of several batches": setup.accumulate,
        "a CPU": setup.device == "cpu",
    }
    words = [words for words, applies in unproven.items() if applies]
    note = "validated against published runs of this kind, of one 3B model: see data/published_runs.csv"
    if words:
        note = f"not validated against a published run: {', '.join(words)}"
    return not words, "; ".join([note, *filter(None, remarks)])
