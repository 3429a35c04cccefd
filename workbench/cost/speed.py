"""How many times as fast a step of LoRA is as one of full fine-tuning: by the bound, and in published pairs."""

from __future__ import annotations

from dataclasses import replace

from workbench.adapters.methods import full
from workbench.cost.gpus import Gpu
from workbench.cost.other_programs import other_runs
from workbench.cost.published import STEPS, TOKENS, published_pair
from workbench.cost.roofline import step_phases
from workbench.memory.closed_form import estimate
from workbench.memory.setup import Setup

LENGTH = 512  # of the rows whose number grows
ROWS = (1, 2, 4, 8, 16, 32)


def speed_ratios(model: str, low_rank: Setup, gpu: Gpu) -> list[tuple[int, float]]:
    """(tokens of a step, seconds in full / seconds with `low_rank`) on `gpu`, by the roofline's bound.

    Both have the settings of `low_rank`, but for its batch. The bound knows arithmetic and memory, not the time that it
    takes to start the small products of the adapters, so that real ratios are lower.
    """
    found = []
    for rows in ROWS:
        setup = replace(low_rank, batch_size=rows, sequence_length=LENGTH)
        whole, low = (
            sum(phase.seconds(gpu) for phase in step_phases(estimate(model, one)))
            for one in (replace(setup, method=full()), setup)
        )
        found.append((rows * LENGTH, whole / low))
    return found


def published_speed_ratios() -> list[tuple[str, int, float]]:
    """(what it was, tokens of a step, how many times as fast LoRA was) of published pairs.

    torchtune's pair differs in the optimizer too: full fine-tuning there updates weights in its backward pass.
    """
    pair = published_pair()
    found = [("PEFT: queries and values, no checkpointing", round(TOKENS / STEPS), pair["speed_ratio"])]
    compiled = [
        run for run in other_runs() if run.program == "torchtune" and "activation offloading" in run.not_modelled
    ]
    rates = {
        run.setup.method.name: run for run in reversed(compiled) if run.setup and run.setup.optimizer != "adamw8bit"
    }
    whole, low = rates["full"], rates["lora"]
    if whole.setup and whole.tokens_per_second and low.tokens_per_second:
        ratio = low.tokens_per_second / whole.tokens_per_second
        found.append(("torchtune: nearly all layers, checkpointing", whole.setup.tokens, ratio))
    return found
