"""What fits a GPU: for each model and method the longest rows and the largest batch; and the cheapest GPU for a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from workbench.adapters.methods import full, hybrid, last_mlp, lora, qlora
from workbench.cost.efficiency import Efficiency, efficiency, halves, kind_of, step_times
from workbench.cost.gpus import Gpu, gpus, priced
from workbench.cost.roofline import Job, job, step_phases
from workbench.memory.closed_form import estimate
from workbench.memory.configs import model_config
from workbench.memory.setup import OF_TRAINER, Setup
from workbench.memory.shapes import shape_of

LENGTHS = tuple(2**power for power in range(7, 16))  # tokens: 128 to 32,768
BATCHES = tuple(2**power for power in range(8))  # rows: 1 to 128
LENGTH = 1024  # of the rows of a batch, if not asked otherwise
RANK = 16
CHOICES = 3  # GPUs that are named for a job


@dataclass(frozen=True)
class Fit:
    """What fits for a model and a method, with checkpointing.

    longest: tokens of a single row; rows: of the asked length in a batch. Both None if nothing fits; powers of 2.
    """

    model: str
    method: str
    longest: int | None
    rows: int | None


def setups(model: str) -> dict[str, Setup]:
    """Method -> the setup of a step with it: full fine-tuning with float32 masters, adapters on bfloat16 weights."""
    config = model_config(model)
    kernel = "eager" if shape_of(config).capped_scores else "sdpa"
    usual = Setup(full(), optimizer=OF_TRAINER, attention=kernel, checkpointing=True)
    return {
        "QLoRA": replace(usual, method=qlora(RANK)),
        "LoRA": replace(usual, method=lora(RANK)),
        "hybrid": replace(usual, method=hybrid([last_mlp(config)], RANK), dtype="mixed"),
        "full": replace(usual, dtype="mixed"),
    }


def fits(gpu: Gpu, models: Sequence[str], length: int = LENGTH) -> list[Fit]:
    """A row for each model and method: what fits `gpu`. Raises MemoryModelError for an unknown model."""
    found = []
    for model in models:
        for method, setup in setups(model).items():
            longest = _largest(gpu, model, [replace(setup, batch_size=1, sequence_length=size) for size in LENGTHS])
            batch = _largest(gpu, model, [replace(setup, batch_size=size, sequence_length=length) for size in BATCHES])
            tokens = longest.sequence_length if longest else None
            found.append(Fit(model, method, tokens, batch.batch_size if batch else None))
    return found


def _largest(gpu: Gpu, model: str, ascending: Sequence[Setup]) -> Setup | None:
    """The largest of the setups that fits; what is larger than one that does not fit is not tried."""
    fitting = takewhile(lambda setup: gpu.fits(estimate(model, setup).total_bytes), ascending)
    return max(fitting, key=lambda setup: setup.tokens, default=None)


def cheapest_gpus(
    model: str, tokens: float, batch_size: int = 1, length: int = LENGTH
) -> dict[str, list[tuple[Job, Efficiency]]]:
    """Method -> the CHOICES cheapest GPUs for a job of `tokens` tokens, each with the efficiency assumed."""
    times, table = halves(step_times())[0], priced(gpus()).values()
    assumed = {gpu.name: efficiency(gpu.family, kind_of(batch_size * length), times) for gpu in table}
    found = {}
    for method, setup in setups(model).items():
        setup = replace(setup, batch_size=batch_size, sequence_length=length)
        report = estimate(model, setup)
        phases = step_phases(report)
        fitting = [gpu for gpu in table if gpu.fits(report.total_bytes)]
        jobs = [job(phases, gpu, setup.tokens, tokens, assumed[gpu.name].share) for gpu in fitting]
        best = sorted(jobs, key=lambda one: one.money)[:CHOICES]
        found[method] = [(one, assumed[one.gpu.name]) for one in best]
    return found
