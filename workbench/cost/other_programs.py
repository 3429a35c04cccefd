"""Published runs of other training programs, from data/other_programs.csv, with what each program does differently.

Nothing is fitted to them: a `Setup` describes each program as far as its settings can, and the remaining differences
are described in words.
"""

from __future__ import annotations

import copy
import csv
from dataclasses import dataclass, replace
from typing import Any

from workbench.adapters.methods import Method
from workbench.cost.gpus import GIB
from workbench.memory.closed_form import estimate
from workbench.memory.configs import model_config
from workbench.memory.setup import Setup
from workbench.paths import DATA


@dataclass(frozen=True)
class Program:
    """A training program.

    settings: those that all of its runs have. differences: what a `Setup` cannot say of it. dropout: of its adapters.
    ties: whether the output head shares the weights of the embeddings where the model's configuration says so.
    """

    settings: dict[str, Any]
    differences: str
    dropout: float = 0.0
    ties: bool = True


PURE = {"adapter_dtype": "bfloat16", "prepared": False, "attention": "flash"}
PROGRAMS = {
    "torchtune": Program(
        {**PURE, "keep_outputs": False},
        "Most runs are compiled by torch.compile, which keeps fewer activations, and some update each weight in the "
        "backward pass or move activations to the CPU, none of which is modelled. Keys and values are repeated for all "
        "heads before attention. 4-bit weights are torchao's.",
    ),
    "LitGPT": Program(
        {**PURE, "keep_outputs": False, "accumulate": True},
        "Lightning converts all logits to float32, and the loss is computed in parts of 128 tokens. Queries, keys and "
        "values are one tensor, all of which is kept for the backward pass. With QLoRA the head is in 4 bits too, and "
        "bitsandbytes of 2023 and 2024 kept the input of every 4-bit layer. Gradients are accumulated over several "
        "batches, and the head is never tied to the embeddings, both of which is predicted.",
        dropout=0.05,
        ties=False,
    ),
    "fsdp_qlora": Program(
        {**PURE, "keep_outputs": True},
        "Uses transformers of early 2024, whose outputs hold the logits in float32 and whose loss copies them once "
        "more. The scales of 4-bit weights are not split over the GPUs. Where the page gives both, 12 % and 24 % more "
        "was reserved than allocated, which a sum without gaps cannot show.",
        dropout=0.1,
    ),
}
KINDS = {"allocated": "peak_allocated_bytes", "reserved": "peak_reserved_bytes"}


@dataclass(frozen=True)
class OtherRun:
    """One row of the table.

    setup: None if the row does not say how long its sequences are. memory: the kind of peak, a key of KINDS.
    step_seconds: of one batch, None if not published; tokens_per_second: of one GPU or of all, as the program counts.
    suspicious: the row contradicts itself or another row. not_modelled: what the run does that no prediction covers.
    """

    program: str
    model: str
    gpu: str
    setup: Setup | None
    memory: str
    peak_bytes: float
    step_seconds: float | None
    tokens_per_second: float | None
    suspicious: bool
    not_modelled: str
    notes: str

    @property
    def label(self) -> str:
        """The model and the settings of the run, in a line."""
        if self.setup is None:
            return self.model
        setup = self.setup
        parts = [f"{self.model}, {setup.method.label}, {setup.batch_size} x {setup.sequence_length}"]
        parts += [setup.optimizer.replace("_", " ")] if setup.optimizer != "adamw" else []
        parts += ["checkpointing"] if setup.checkpointing else []
        parts += [f"{setup.gpus} GPUs"] if setup.gpus > 1 else []
        parts += ["offloaded"] if setup.offload else []
        return ", ".join(parts)


def other_runs() -> list[OtherRun]:
    """All rows of the table, in its order."""
    with (DATA / "other_programs.csv").open(encoding="utf-8", newline="") as file:
        return [_run(row) for row in csv.DictReader(file)]


def predicted_bytes(run: OtherRun) -> int | None:
    """The closed form's prediction of the published kind of peak; None if the setup is not known."""
    if run.setup is None:
        return None
    config = model_config(run.model)
    if not PROGRAMS[run.program].ties:
        config = copy.deepcopy(config)
        config.tie_word_embeddings = False
    predicted: int = getattr(estimate(config, run.setup), KINDS[run.memory])
    return predicted


def _run(row: dict[str, str]) -> OtherRun:
    return OtherRun(
        row["program"],
        row["model"],
        row["gpu"],
        _setup(row) if row["sequence_length"] else None,
        row["memory"],
        float(row["peak_gib"]) * GIB,
        float(row["step_seconds"]) if row["step_seconds"] else None,
        float(row["tokens_per_s"]) if row["tokens_per_s"] else None,
        row["suspicious"] == "yes",
        row["not_modelled"],
        row["notes"],
    )


def _setup(row: dict[str, str]) -> Setup:
    options: dict[str, Any] = {}
    if row["method"] != "full":
        dropout = PROGRAMS[row["program"]].dropout
        options = {"rank": int(row["rank"]), "targets": row["targets"].split(","), "dropout": dropout}
    setup = Setup(
        Method.from_options(row["method"], **options),
        batch_size=int(row["batch_size"]),
        sequence_length=int(row["sequence_length"]),
        optimizer=row["optimizer"],
        checkpointing=row["checkpointing"] == "yes",
        loss=row["loss"],
        gpus=int(row["gpus"]),
        offload=row["offload"] == "yes",
        double_quantization=row["double_quantization"] != "no",
    )
    return replace(setup, **PROGRAMS[row["program"]].settings)
