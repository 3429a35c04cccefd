"""Pairs of ways to do the same training steps, timed with the workbench's own loop."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, cast

import torch

from workbench.adapters.inject import apply
from workbench.adapters.methods import Method, lora
from workbench.cost.gpu_check.cases import ADAPTERS, FLOAT16, PADDING, Case
from workbench.cost.gpu_check.models import random_base
from workbench.models.base import Base
from workbench.models.cpu_kernels import PADDED
from workbench.models.padding_free import leaves_padding_out
from workbench.tasks.encoding import Encoded
from workbench.training.loop import accelerator_for, alone, batched
from workbench.training.runs import Run
from workbench.training.step import Slot, TrainConfig, adamw, micro_batches, train_step

ROWS, ADAPTER_COUNT = 4, 4
WARM_UP = 2


def compare(case: Case, device: torch.device) -> dict[str, Any]:
    """Seconds of a step, and on a GPU the peak of allocated bytes, for both ways of the case, with the loss of each."""
    ways: dict[str, Callable[[Case, torch.device], dict[str, Any]]] = {
        ADAPTERS: _adapters,
        PADDING: _padding,
        FLOAT16: _float16,
    }
    return ways[case.kind](case, device)


def _adapters(case: Case, device: torch.device) -> dict[str, Any]:
    base = random_base(case.model, _dtype(device), device)
    methods = [lora(max(1, case.rank // 2**power)) for power in range(ADAPTER_COUNT)]
    each = [_steps(base, [method], case, together=False) for method in methods]
    one_by_one = {
        "step_seconds": sum(found["step_seconds"] for found in each),
        "allocated_bytes": max(found["allocated_bytes"] or 0 for found in each) or None,
        "losses": [loss for found in each for loss in found["losses"]],
    }
    return {"one pass": _steps(base, methods, case, together=True), "one by one": one_by_one}


def _padding(case: Case, device: torch.device) -> dict[str, Any]:
    base = random_base(case.model, _dtype(device), device)
    if not leaves_padding_out(base.model, case.length):
        return {"skipped": "this model cannot leave padding out"}
    free = _steps(base, [lora(case.rank)], case, together=False, equal=False)
    base.model.set_attn_implementation(PADDED)
    return {"padding-free": free, "padded": _steps(base, [lora(case.rank)], case, together=False, equal=False)}


def _float16(case: Case, device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"skipped": "float16 needs a GPU"}
    found: dict[str, Any] = {}
    for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
            continue
        found[name] = _steps(random_base(case.model, dtype, device), [lora(case.rank)], case, together=False)
        torch.cuda.empty_cache()
    return found


def _dtype(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _steps(base: Base, methods: Sequence[Method], case: Case, together: bool, equal: bool = True) -> dict[str, Any]:
    """Steps of these methods, in one pass or alone. equal: rows of one length, else of an eighth of it up to all."""
    device = base.model.device
    config = TrainConfig(steps=WARM_UP + case.timed_steps, batch_size=ROWS, max_length=case.length)
    rows = _rows(case.length, base.model.config.vocab_size, config.steps, equal)
    accelerator = accelerator_for(base)
    slots = [_slot(base, method, config, rows, accelerator) for method in methods]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    groups = batched(base, slots) if together else [alone(accelerator, base, slots[0])]
    seconds: list[float] = []
    losses: list[float] = []
    for step in range(config.steps):
        started = time.perf_counter()
        for slot in slots:
            slot.next_step()
        losses = [loss for group in groups for loss in train_step(accelerator, group, step)]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    finite = [loss if math.isfinite(loss) else None for loss in losses]  # JSON has no other numbers
    return {"step_seconds": median(seconds[WARM_UP:]), "allocated_bytes": peak, "losses": finite}


def _slot(base: Base, method: Method, config: TrainConfig, rows: list[Encoded], accelerator: Any) -> Slot:
    """A slot as `loop.make_slot` makes it, without a record: nothing is kept of these steps."""
    model: Any = apply(base, method, seed=0).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = accelerator.prepare(adamw(model, method, config))
    longest = config.batch_size * max(len(row.ids) for row in rows)
    return Slot(cast("Run", None), model, config, trained, optimizer, micro_batches(rows, config), longest)


def _rows(length: int, vocabulary: int, steps: int, equal: bool) -> list[Encoded]:
    """Random tokens, the second half of which is the completion; one row of each batch has the full length."""
    numbers = random.Random(0)
    rows = []
    for place in range(ROWS * steps):
        tokens = length if equal or place % ROWS == 0 else numbers.randint(max(2, length // 8), length)
        ids = tuple(numbers.randrange(1, vocabulary) for _ in range(tokens))
        rows.append(Encoded(ids, tokens // 2))
    return rows
