"""One entry a panel: a notebook cell's code that makes it. A new file in workbench/panels needs an entry here.

With that, tests/panels/test_gallery.py moves its controls without a browser, and tests/browser moves them in
JupyterLab. The code runs in the tests' own process and in a kernel, over the same store of runs (see `train_a_little`).
"""

import os
from pathlib import Path

from workbench import RunStore, TrainConfig, load_task, lora, panels, train

WITHOUT_CONTROLS = {"base": "what the panels are made of"}
CODE = {
    "adapter_mix": """
from workbench import RunStore, load_base, load_task
from workbench.panels.adapter_mix import AdapterMix
runs = RunStore().all()[:2]
folders = {f"rank-{run.method['rank']}": run.artifact_dir for run in runs}
base = load_base(runs[0].base["name"], dtype="float32")
panel = AdapterMix(base, folders, dict.fromkeys(folders, load_task("tickets")), rows=3)
""",
    "adapter_lab": """
from workbench import RunStore, load_base, load_task
from workbench.panels.adapter_lab import AdapterLab
run = RunStore().all()[0]
panel = AdapterLab(load_base(run.base["name"], dtype="float32"), run, load_task("tickets"), rows=4)
""",
    "bets": """
from workbench.panels.bets import BetsPanel
panel = BetsPanel()
""",
    "decide": """
from workbench.results import reference
from workbench.panels.decide import decide_panel
panel = decide_panel(reference.study_rows(), 0.1, 0.7)
""",
    "delta_w": """
from workbench.panels.delta_w import delta_w_panel
panel = delta_w_panel()
""",
    "eight_weights": """
from workbench.panels.eight_weights import eight_weights_panel
panel = eight_weights_panel([0.0508, -0.1191, 0.0312, 0.0078, -0.0664, 0.1523, -0.0195, 0.0898])
""",
    "lora_layer": """
from workbench.panels.lora_layer import lora_layer_panel
panel = lora_layer_panel()
""",
    "many_tasks": """
from workbench.panels.many_tasks import many_tasks_panel
panel = many_tasks_panel()
""",
    "memory": """
from workbench.panels.memory import memory_panel
panel = memory_panel()
""",
    "money": """
from workbench.panels.memory import money_panel
panel = money_panel()
""",
    "predict": """
from workbench.panels.predict import predict_choice
panel = predict_choice("How much is missed?", ["little", "half", "nearly all"])
""",
    "quantization": """
from workbench import load_base
from workbench.panels.quantization import quantization_panel
panel = quantization_panel(load_base("smollm2-135m", dtype="float32"))
""",
    "queries": """
import numpy as np
from workbench.panels.queries import queries_panel
draw = np.random.default_rng(0)
gains = {"yours less base": 0.05 + 0.3 * draw.standard_normal(1200), "nothing": draw.standard_normal(900)}
panel = queries_panel(gains)
""",
    "rank_sweep": """
from workbench.results import reference
from workbench.panels.rank_sweep import rank_sweep_panel
panel = rank_sweep_panel(reference.stored_sweeps())
""",
    "training": """
from workbench import RunStore, TrainConfig, load_base, load_task
from workbench.panels.training import TrainingPanel
runs = RunStore().all()[:2]
config = TrainConfig(steps=400, batch_size=4, test_limit=8)
panel = TrainingPanel(load_base(runs[0].base["name"], dtype="float32"), load_task("tickets"), config, runs=runs)
""",
    "ways_back": """
from workbench.analysis import Place
from workbench.panels.ways_back import Route, ways_back_panel
def place(exact, forgotten):
    return Place(exact, "4:f0", forgotten, forgotten, "Paris")
base, tuned = place(0.0, 0.0), place(0.75, 1.6)
scale = {"t = 0.25": place(0.25, 0.1), "t = 0.5": place(0.5, 0.5), "t = 0.75": place(0.75, 1.0)}
drop = {"no MLP": place(0.0, 0.3), "no later half": place(0.25, 0.7), "no attention": place(0.5, 1.2)}
ways = {"keep a part": scale, "drop it in some layers": drop}
routes = {"lora": Route(base, tuned, ways), "full": Route(base, place(0.7, 0.4), ways)}
panel = ways_back_panel(routes, "The capital of France is", 4)
""",
}
# Panels whose controls wait for a button, or write somewhere, have tests of their own; all others are alike.
OF_THEIR_OWN = {"bets", "predict", "training"}


def panel_files() -> set[str]:
    """The names of the files in workbench/panels that make something with controls."""
    files = {path.stem for path in Path(panels.__file__).parent.glob("*.py")}
    return files - {"__init__"} - set(WITHOUT_CONTROLS)


def train_a_little(base) -> None:
    """Put two short runs into the store of WORKBENCH_RUNS, for the panels that show runs."""
    assert not RunStore().all(), f"{os.environ['WORKBENCH_RUNS']} is not empty"
    config = TrainConfig(steps=8, batch_size=4, test_limit=8)
    for rank in (4, 2):
        train(base, load_task("tickets"), lora(rank, alpha=8, learning_rate=2e-2), config)


def make(name: str):
    """The panel of this name, in this process."""
    space: dict = {}
    exec(CODE[name], space)
    return space["panel"]
