"""Panel of notebook 08: the GPUs that many tasks take, as adapters on one base and as whole models."""

from __future__ import annotations

from workbench import memory
from workbench.cost.gpus import gpus
from workbench.cost.roofline import CACHE_SHARE, SHARED, WHOLE, room_for_weights
from workbench.panels.base import Panel, View, choice, steps_slider
from workbench.plots.serving import fleet
from workbench.serving.fleet import Fleet

TASKS = (1, 2, 3, 5, 8, 12, 20, 35, 60, 100, 200, 500)
RANKS = (4, 8, 16, 32, 64, 128)


def many_tasks_view(tasks: int = 20, model: str = "llama-3.1-8b", rank: int = 16, gpu: str = "L4") -> View:
    """GPUs, gigabytes and dollars for both ways. Raises HardwareError or MemoryModelError for unknown names."""
    asked = Fleet(tasks, model, rank, gpu)
    ways, room = asked.services, room_for_weights(gpus()[gpu]) / 1e9
    shared, whole = ways[SHARED], ways[WHOLE]
    adapters = tasks * asked.adapter_bytes / shared.gpus / 1e9
    weights = min(room - adapters, asked.base_bytes / min(shared.gpus, -(-asked.base_bytes // int(room * 1e9))) / 1e9)
    drawn = {
        SHARED: (shared.gpus, weights, adapters),
        WHOLE: (whole.gpus, whole.stored_bytes / whole.gpus / 1e9, 0.0),
    }
    times = whole.gpus / shared.gpus
    text = (
        f"{tasks} {'task' if tasks == 1 else 'tasks'} of {model} on the {gpu}: {shared.in_words} with adapters of rank "
        f"{rank}, {whole.in_words} with a whole model each: {times:.3g} times as many. An adapter is "
        f"{asked.adapter_bytes / 1e6:,.3g} MB, a whole model {asked.base_bytes / 1e6:,.0f} MB. "
        f"{CACHE_SHARE:.0%} of each GPU is kept free for requests; how many of them it answers a second is not counted."
    )
    numbers = {"gpus_shared": shared.gpus, "gpus_whole": whole.gpus, "times": times}
    numbers |= {"money_shared": shared.money_a_month, "money_whole": whole.money_a_month}
    result = f"{shared.gpus} GPUs against {whole.gpus}"
    return View(lambda: fleet(drawn, room, gpu, f"{tasks} tasks of {model}"), text, numbers, result=result)


def many_tasks_panel() -> Panel:
    """The live panel. Controls: tasks, model, rank, gpu."""
    controls = {
        "tasks": steps_slider("tasks", 3, TASKS),
        "model": choice("model", "llama-3.1-8b", memory.shipped()),
        "rank": steps_slider("rank r", 16, RANKS),
        "gpu": choice("GPU", "L4", [name for name, gpu in gpus().items() if gpu.price_per_hour]),
    }
    return Panel("GPUs for many tasks", controls, many_tasks_view)
