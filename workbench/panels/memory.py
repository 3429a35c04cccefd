"""Panel of notebook 04: where the bytes of a step go, whether a GPU holds them, and what the job takes and costs."""

from __future__ import annotations

import html
from collections.abc import Mapping

import ipywidgets as widgets

from workbench import memory, plots_memory
from workbench.hardware import (
    EFFICIENCY,
    GIB,
    Gpu,
    cheapest,
    gpus,
    gpus_if_sharded,
    job,
    step_phases,
)
from workbench.memory_setup import model_config
from workbench.methods import Method, full, hybrid, last_mlp, lora, qlora
from workbench.panels.common import LABEL, WIDE, Panel, View, choice, steps_slider, switch
from workbench.runs import ATTENTION, MLP

METHODS = ("full", "LoRA", "DoRA", "QLoRA", "hybrid")
TARGETS = {
    "all linear layers": "all-linear",
    "queries and values": ("q_proj", "v_proj"),
    "attention": ATTENTION,
    "MLP": MLP,
}
PRECISIONS = {"what trains in float32, autocast": "mixed", "bfloat16, adapters in float32": "bfloat16"}
OPTIMIZERS = {"AdamW": "adamw", "AdamW, 8 bits": "adamw8bit", "AdamW, fused": "adamw_fused"}
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def method_of(name: str, rank: int, targets: str | tuple[str, ...], model: str) -> Method:
    """The method that the panel calls `name`; hybrid opens the MLP of the last block."""
    if name == "full":
        return full()
    if name == "hybrid":
        return hybrid([last_mlp(model_config(model))], rank=rank, targets=targets)
    return {"LoRA": lora, "DoRA": lora, "QLoRA": qlora}[name](rank=rank, targets=targets, dora=name == "DoRA")


def memory_view(
    model: str = "llama-3.2-1b",
    method: str = "LoRA",
    rank: int = 16,
    targets: str | tuple[str, ...] = "all-linear",
    precision: str = "bfloat16",
    batch_size: int = 4,
    sequence_length: int = 512,
    optimizer: str = "adamw",
    checkpointing: bool = False,
    gpu: str = "L4",
    million_tokens: float = 10,
    efficiency: int = round(100 * EFFICIENCY),
    price: float = 0.0,
) -> View:
    """Bars of the chosen configuration and, in the same step, of the other usual methods; whether it fits, time, money.

    precision and optimizer: as `memory.estimate` takes them. efficiency: percent of the bound's speed. price: US
    dollars an hour, 0 for the table's. Raises ValueError for what cannot be.
    """
    chosen = method_of(method, rank, targets, model)
    options = {"batch_size": batch_size, "sequence_length": sequence_length, "checkpointing": checkpointing}
    rest = options | {"dtype": precision, "optimizer": optimizer}
    label = method if method == "full" else f"{method} r={rank}"
    reports = {label: memory.estimate(model, chosen, **rest)}
    for other in ("full", "LoRA", "QLoRA"):
        if other != method:
            name = other if other == "full" else f"{other} r={rank}"
            reports[name] = memory.estimate(model, method_of(other, rank, targets, model), **rest)
    report, table = reports[label], gpus({gpu: price} if price else None)
    phases = step_phases(model, chosen, report, **options)
    tokens = batch_size * sequence_length
    jobs = {name: job(phases, one, tokens, million_tokens * 1e6, efficiency / 100) for name, one in table.items()}
    mine, best = jobs[gpu], cheapest(list(jobs.values()), report.total_bytes)
    figure = plots_memory.memory_bars(
        {name: one.components for name, one in reports.items()},
        {name: one.total_bytes - one.peak_allocated_bytes for name, one in reports.items()},
        table[gpu].usable_bytes,
        layout=None,
        gpu=f"the {gpu}",
    )
    others = [f"{name} {one.total_bytes / 1e9:.1f} GB" for name, one in reports.items() if name != label]
    words = [
        f"{model}, {label}: {report.total_bytes / 1e9:.1f} GB, of which {report.context_bytes / 1e9:.1f} for the CUDA "
        f"context; {report.trainable_parameters:,} numbers train.",
        f"Beside it: {', '.join(others)}.",
        _fit_in_words(report, table[gpu]),
        _job_in_words(mine, phases, million_tokens),
        _cheapest_in_words(best, sum(one.fits(report.total_bytes) for one in table.values()), len(table)),
    ]
    if not report.validated:
        words.append(f"Memory {report.note}.")
    numbers = {
        "bytes": report.total_bytes,
        "fits": table[gpu].fits(report.total_bytes),
        "hours": mine.hours,
        "money": mine.money,
        "cheapest": best.money if best else float("nan"),
    }
    return View(figure, " ".join(words), numbers)


def _fit_in_words(report: memory.MemoryReport, gpu: Gpu) -> str:
    room = f"the {gpu.usable_bytes / 1e9:.1f} GB ({gpu.usable_bytes / GIB:.1f} GiB) that can be used of the {gpu.name}"
    if gpu.fits(report.total_bytes):
        return f"It fits {room}."
    count = gpus_if_sharded(report, gpu)
    sharded = f"sharded, {count} of them would do" if count else "and no number of them would do, sharded"
    return f"It does not fit {room}: {(report.total_bytes - gpu.usable_bytes) / 1e9:.1f} GB too much; {sharded}."


def _cheapest_in_words(best, fitting: int, count: int) -> str:
    if best is None:
        return f"It fits none of the {count} GPUs of the table by itself."
    return f"It fits {fitting} of {count} GPUs; the cheapest to finish on is {best.gpu.name}, ${best.money:.2f}."


def _job_in_words(mine, phases, million_tokens: float) -> str:
    gpu, bound = mine.gpu, mine.bound_seconds
    shares = ", ".join(f"{one.name} {one.seconds(gpu) / bound:.0%} ({one.limit(gpu)})" for one in phases)
    half = "" if gpu.dtype == "bfloat16" else f" It has no bfloat16; counted in {gpu.dtype}."
    return (
        f"{million_tokens:g} million tokens take at least {mine.hours * bound / mine.step_seconds:.2g} hours there; at "
        f"this efficiency {mine.hours:.2g} hours, {mine.tokens_per_second:,.0f} tokens a second, and ${mine.money:.2f} "
        f"at ${gpu.price_per_hour:.2f} an hour ({gpu.price_source}, {gpu.price_date}).{half} The bound's parts, and "
        f"what holds each up: {shares}."
    )


class MemoryPanel(Panel):
    """The panel, with a button that follows a step on fake tensors and sets the outcome beside the estimate."""

    def __init__(self):
        self.button = widgets.Button(description="check it: simulate this step", layout=widgets.Layout(width="260px"))
        self.checked = widgets.HTML()
        super().__init__("Where the bytes go, and what the job costs", _controls(), memory_view)
        self.button.on_click(lambda _: self.check())
        self.widget.children = (*self.widget.children, widgets.HBox([self.button]), self.checked)

    def refresh(self) -> None:
        super().refresh()
        self.checked.value = ""  # it was about other settings

    def check(self) -> None:
        """Simulate the present settings; seconds to a minute."""
        values = self.values
        self.button.disabled, self.checked.value = True, "<p>Following a step ...</p>"
        try:
            self.checked.value = f"<p style='line-height: 1.5'>{html.escape(check_in_words(values))}</p>"
        except ValueError as error:
            self.checked.value = f'<p role="alert">{html.escape(str(error))}</p>'
        finally:
            self.button.disabled = False


def check_in_words(values: Mapping) -> str:
    """What `memory.simulate` finds for settings of the panel, beside the estimate."""
    method = method_of(values["method"], values["rank"], values["targets"], values["model"])
    options = {name: values[name] for name in ("batch_size", "sequence_length", "optimizer", "checkpointing")}
    options["dtype"] = values["precision"]
    said = memory.estimate(values["model"], method, **options)
    found = memory.simulate(values["model"], method, **options)
    error = said.total_bytes / found.total_bytes - 1
    return (
        f"Simulated, every tensor followed: {found.total_bytes / 1e9:.2f} GB; the estimate said "
        f"{said.total_bytes / 1e9:.2f} GB ({error:+.1%}). It took {found.seconds:.0f} seconds."
    )


def _controls() -> dict[str, widgets.ValueWidget]:
    table = gpus()
    own = {"style": LABEL, "layout": WIDE}
    return {
        "model": choice("model", "llama-3.2-1b", memory.shipped()),
        "method": choice("method", "LoRA", METHODS),
        "rank": steps_slider("rank r", 16, RANKS),
        "targets": choice("targets", "all-linear", list(TARGETS.items())),
        "precision": choice("precision", "bfloat16", list(PRECISIONS.items())),
        "batch_size": steps_slider("sequences a step", 4, (1, 2, 4, 8, 16, 32)),
        "sequence_length": steps_slider("tokens in each", 512, (128, 256, 512, 768, 1024, 2048, 4096, 8192)),
        "optimizer": choice("optimizer", "adamw", list(OPTIMIZERS.items())),
        "checkpointing": switch("checkpointing", False),
        "gpu": choice("GPU", "L4", list(table)),
        "million_tokens": steps_slider("job, million tokens", 10, (1, 3, 10, 30, 100, 300, 1000)),
        "efficiency": widgets.IntSlider(
            round(100 * EFFICIENCY), 5, 100, description="efficiency, %", continuous_update=True, **own
        ),
        "price": widgets.BoundedFloatText(0.0, min=0.0, max=1000.0, description="your $/h, 0: table", **own),
    }


def memory_panel() -> MemoryPanel:
    """The live panel."""
    return MemoryPanel()
