"""Panels of notebook 04: the memory of a training step, and what a job costs on each GPU."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ipywidgets as widgets

from workbench import memory
from workbench.adapters.methods import ATTENTION, MLP, Method, full, hybrid, last_mlp, lora, qlora
from workbench.cost.gpus import GIB, Gpu, gpus, priced
from workbench.cost.roofline import EFFICIENCY, Job, Phase, cheapest, gpus_if_sharded, job, step_phases
from workbench.errors import HardwareError
from workbench.memory.configs import model_config
from workbench.memory.setup import OF_TRAINER, Setup
from workbench.panels.base import LABEL, WIDE, Panel, View, choice, steps_slider, switch
from workbench.plots import memory as plots_memory
from workbench.plots.cost import money_on_gpus
from workbench.plots.style import Figure

METHODS = ("full", "LoRA", "DoRA", "QLoRA", "hybrid")
TARGETS = {
    "all linear layers": "all-linear",
    "queries and values": ("q_proj", "v_proj"),
    "attention": ATTENTION,
    "MLP": MLP,
}
PRECISIONS = {"what trains in float32, autocast": "mixed", "bfloat16, adapters in float32": "bfloat16"}
OPTIMIZERS = {"AdamW, fused": "adamw_fused", "AdamW, torch's default": "adamw", "AdamW, 8 bits": "adamw8bit"}
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARED = ("model", "method", "batch_size", "sequence_length", "checkpointing")  # controls of both panels


@dataclass(frozen=True)
class MemorySettings:
    """The values of the panel's controls.

    model: as for `memory.estimate`. method: one of METHODS. targets: as for `methods.lora`. precision: the dtype of a
    `Setup`. gpu: a name of `cost.gpus.gpus`.
    """

    model: str = "llama-3.2-1b"
    method: str = "LoRA"
    rank: int = 16
    targets: str | tuple[str, ...] = "all-linear"
    precision: str = "bfloat16"
    batch_size: int = 4
    sequence_length: int = 512
    optimizer: str = OF_TRAINER
    checkpointing: bool = True
    gpu: str = "L4"

    @property
    def setup(self) -> Setup:
        """The chosen method with its training settings."""
        return Setup(
            method_of(self), self.batch_size, self.sequence_length, self.precision, self.optimizer, self.checkpointing
        )

    @property
    def label(self) -> str:
        return self.method if self.method == "full" else f"{self.method} r={self.rank}"


def method_of(settings: MemorySettings) -> Method:
    """The method that the settings name; hybrid trains the MLP of the last block in full.

    Raises MethodError for targets that do not exist, and MemoryModelError for an unknown model.
    """
    options: dict[str, Any] = {"rank": settings.rank, "targets": settings.targets}
    if settings.method == "full":
        return full()
    if settings.method == "hybrid":
        return hybrid([last_mlp(model_config(settings.model))], **options)
    if settings.method == "QLoRA":
        return qlora(**options)
    return lora(**options, dora=settings.method == "DoRA")


def memory_view(settings: MemorySettings) -> View:
    """Bars of the chosen configuration and of the other usual methods; in words, whether it fits.

    Raises ValueError (MethodError, MemoryModelError or HardwareError) for settings that are impossible.
    """
    others = [replace(settings, method=name) for name in ("full", "LoRA", "QLoRA") if name != settings.method]
    reports = {one.label: memory.estimate(one.model, one.setup) for one in (settings, *others)}
    report, gpu = reports[settings.label], gpus()[settings.gpu]
    words = [_memory_in_words(settings, reports), _fit_in_words(report, gpu)]
    if not report.validated:
        words.append(f"Memory {report.note}.")
    numbers = {"bytes": report.total_bytes, "fits": gpu.fits(report.total_bytes)}

    def draw() -> Figure:
        overhead = {name: one.total_bytes - one.peak_allocated_bytes for name, one in reports.items()}
        components = {name: one.components for name, one in reports.items()}
        return plots_memory.memory_bars(components, overhead, gpu.usable_bytes, layout=None, gpu=f"the {settings.gpu}")

    return View(draw, " ".join(words), numbers)


def _memory_in_words(settings: MemorySettings, reports: Mapping[str, memory.MemoryReport]) -> str:
    report = reports[settings.label]
    others = [f"{name} {one.total_bytes / 1e9:.1f} GB" for name, one in reports.items() if name != settings.label]
    return (
        f"{settings.model}, {settings.label}: {report.total_bytes / 1e9:.1f} GB, of which "
        f"{report.context_bytes / 1e9:.1f} for the CUDA context; {report.trainable_parameters:,} parameters train. "
        f"For comparison: {', '.join(others)}."
    )


def _fit_in_words(report: memory.MemoryReport, gpu: Gpu) -> str:
    room = f"the {gpu.usable_bytes / 1e9:.1f} GB ({gpu.usable_bytes / GIB:.1f} GiB) that can be used of the {gpu.name}"
    if gpu.fits(report.total_bytes):
        return f"It fits {room}."
    count = gpus_if_sharded(report, gpu)
    sharded = f"sharded, {count} of them would do" if count else "sharding it over several would not help"
    return f"It does not fit {room}: {(report.total_bytes - gpu.usable_bytes) / 1e9:.1f} GB too much; {sharded}."


def _view(**values: Any) -> View:
    """The view for the controls' values, which have the names of the settings."""
    return memory_view(MemorySettings(**values))


class MemoryPanel(Panel):
    """The panel, with a button that simulates the step on fake tensors and compares the outcome with the estimate."""

    def __init__(self) -> None:
        self.button = widgets.Button(description="check it: simulate this step", layout=widgets.Layout(width="260px"))
        self.checked = widgets.HTML()
        super().__init__("Where the bytes of a step go", _controls(), _view)
        self.button.on_click(lambda _: self.check())
        self.widget.children = (*self.widget.children, widgets.HBox([self.button]), self.checked)

    def refresh(self) -> None:
        super().refresh()
        self.checked.value = ""  # it described the previous settings

    def check(self) -> None:
        """Simulate the current settings, which takes seconds to a minute."""
        settings = MemorySettings(**self.values)
        self.button.disabled, self.checked.value = True, "<p>Following a step ...</p>"
        try:
            self.checked.value = f"<p style='line-height: 1.5'>{html.escape(check_in_words(settings))}</p>"
        except ValueError as error:
            self.checked.value = f'<p role="alert">{html.escape(str(error))}</p>'
        finally:
            self.button.disabled = False


def check_in_words(settings: MemorySettings) -> str:
    """Compare `memory.simulate` with `memory.estimate` for the settings."""
    estimated, simulated = (predict(settings.model, settings.setup) for predict in (memory.estimate, memory.simulate))
    error = estimated.total_bytes / simulated.total_bytes - 1
    return (
        f"Simulated, every tensor followed: {simulated.total_bytes / 1e9:.2f} GB; the estimate said "
        f"{estimated.total_bytes / 1e9:.2f} GB ({error:+.1%}). It took {simulated.seconds:.0f} seconds."
    )


def _controls() -> dict[str, widgets.ValueWidget]:
    """The controls of `MemorySettings`."""
    return {
        "model": choice("model", "llama-3.2-1b", memory.shipped()),
        "method": choice("method", "LoRA", METHODS),
        "rank": steps_slider("rank r", 16, RANKS),
        "targets": choice("targets", "all-linear", list(TARGETS.items())),
        "precision": choice("precision", "bfloat16", list(PRECISIONS.items())),
        "batch_size": steps_slider("sequences a step", 4, (1, 2, 4, 8, 16, 32)),
        "sequence_length": steps_slider("tokens in each", 512, (128, 256, 512, 768, 1024, 2048, 4096, 8192)),
        "optimizer": choice("optimizer", OF_TRAINER, list(OPTIMIZERS.items())),
        "checkpointing": switch("checkpointing", True),
        "gpu": choice("GPU", "L4", list(gpus())),
    }


def memory_panel() -> MemoryPanel:
    """The live panel of notebook 04."""
    return MemoryPanel()


@dataclass(frozen=True)
class MoneySettings(MemorySettings):
    """The values of the panel's controls, and what the panel of memory also asks.

    gpu: the one whose price is set, and which is told in words. million_tokens: of the whole job. efficiency: percent
    of the bound's speed. price: US dollars per hour, 0 for the table's.
    """

    million_tokens: float = 10
    efficiency: int = round(100 * EFFICIENCY)
    price: float = 0.0


def money_view(settings: MoneySettings) -> View:
    """Dollars for the job on each GPU, those too small outlined; in words, hours and bottlenecks on the chosen one.

    Raises ValueError (MethodError, MemoryModelError or HardwareError) for settings that are impossible.
    """
    report = memory.estimate(settings.model, settings.setup)
    table = priced(gpus({settings.gpu: settings.price} if settings.price else None))
    if settings.gpu not in table:
        raise HardwareError(f"The table has no price of the {settings.gpu}: set what you pay for it an hour.")
    phases = step_phases(report)
    tokens, efficiency = settings.million_tokens * 1e6, settings.efficiency / 100
    jobs = {name: job(phases, gpu, report.setup.tokens, tokens, efficiency) for name, gpu in table.items()}
    fitting = {name: one for name, one in jobs.items() if one.gpu.fits(report.total_bytes)}
    mine, best = jobs[settings.gpu], cheapest([*jobs.values()], report.total_bytes)
    words = [
        _job_in_words(mine, phases, settings.million_tokens),
        _cheapest_in_words(best, len(fitting), len(table)),
    ]
    title = f"{settings.label} of {settings.model} on {settings.million_tokens:g} million tokens"
    numbers = {"hours": mine.hours, "money": mine.money, "cheapest": best.money if best else float("nan")}

    def draw() -> Figure:
        costs = {name: (one.money, one.hours, name in fitting) for name, one in jobs.items()}
        return money_on_gpus(costs, settings.gpu, title)

    return View(draw, " ".join(words), numbers)


def _cheapest_in_words(best: Job | None, fitting: int, count: int) -> str:
    if best is None:
        return f"It fits none of the {count} GPUs of the table by itself."
    return f"It fits {fitting} of {count} GPUs; the cheapest to finish on is {best.gpu.name}, ${best.money:.2f}."


def _job_in_words(mine: Job, phases: Sequence[Phase], million_tokens: float) -> str:
    gpu, bound = mine.gpu, mine.bound_seconds
    shares = ", ".join(f"{one.name} {one.seconds(gpu) / bound:.0%} ({one.bottleneck(gpu)})" for one in phases)
    half = "" if gpu.dtype == "bfloat16" else f" It has no bfloat16; counted in {gpu.dtype}."
    return (
        f"On the {gpu.name}, {million_tokens:g} million tokens take at least "
        f"{mine.hours * bound / mine.step_seconds:.2g} hours; at this efficiency {mine.hours:.2g} hours, "
        f"{mine.tokens_per_second:,.0f} tokens a second, and "
        f"${mine.money:.2f} at ${gpu.dollars_per_hour:.2f} an hour ({gpu.price_source}, {gpu.price_date}).{half} The "
        f"bound's parts, and the bottleneck of each: {shares}."
    )


def _money_view(**values: Any) -> View:
    return money_view(MoneySettings(**values))


def money_panel() -> Panel:
    """The live panel of money in notebook 04."""
    look = {"style": LABEL, "layout": WIDE}
    shared: Mapping[str, widgets.ValueWidget] = _controls()
    own = {
        "million_tokens": steps_slider("job, million tokens", 10, (1, 3, 10, 30, 100, 300, 1000)),
        "efficiency": widgets.IntSlider(round(100 * EFFICIENCY), 5, 100, description="efficiency, %", **look),
        "gpu": shared["gpu"],
        "price": widgets.BoundedFloatText(0.0, min=0.0, max=1000.0, description="its $/h, 0: table", **look),
    }
    return Panel("What the job costs on each GPU", {name: shared[name] for name in SHARED} | own, _money_view)
