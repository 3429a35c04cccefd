"""Seconds per step and peak memory of each method, measured one after the other, and sentences on them for the claims.

    .venv/bin/python -m workbench.study.costs

Writes data/reference/costs.jsonl, one row per method and round. Needs an idle machine; about six minutes on two cores.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from statistics import median

from workbench import RunStore, train
from workbench.results.reference import COMPARED, COSTS, read_rows
from workbench.results.rows import grouped
from workbench.study.settings import RATES, SETTINGS, base, config_of, task_of
from workbench.training.runs import provenance, table

TASK, STEPS, ROUNDS = "tickets", 7, 3
FLOAT32_MB = 4 / 1e6
KEPT = ("trainable_parameters", "step_seconds", "peak_memory_mb")


def main() -> None:
    """Measure all methods in turn, ROUNDS times, and write the rows."""
    task, config = task_of(TASK), replace(config_of(TASK, "lora"), steps=STEPS, evaluate=False)
    rows = []
    for turn in range(ROUNDS):
        for name in COMPARED:
            setting = SETTINGS[name]
            method = setting.make(setting.rates[0], TASK, RATES[0])
            with tempfile.TemporaryDirectory() as scratch:
                run = train(base(method.base_quantization), task, method, config, RunStore(scratch))
            told = table([run])[0]
            rows.append(
                {"name": name, "task": TASK, "round": turn} | {key: told[key] for key in KEPT} | provenance(run)
            )
            print(f"{name}: {told['step_seconds']:.2f} s, {told['peak_memory_mb']:,.0f} MB", flush=True)
    COSTS.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def costs_by_claim() -> dict[str, str]:
    """Claim -> a sentence on the memory and time of the methods, each measured alone on an idle machine."""
    peak, size = costs("peak_memory_mb"), costs("trainable_parameters")
    return {
        "speed": f"A step of full takes {slower('full')} as long as one of LoRA, one of QLoRA {slower('qlora')} (over "
        f"rounds; on a CPU, in {cost_precisions()}).",
        "memory-ratio": f"Full needs {peak['full'] / peak['lora']:.1f} times LoRA's peak memory, and "
        f"{peak['full'] / peak['qlora']:.1f} times QLoRA's. That is in {cost_precisions()}; with LoRA's frozen "
        "weights in 16 bits it is more (lesson 06 shows yours).",
        "artifact": f"What trains is {size['lora'] * FLOAT32_MB:.1f} MB for LoRA of rank 8 and "
        f"{size['full'] * FLOAT32_MB:,.0f} MB for full, in float32.",
        "small-models": f"At 135M parameters LoRA saves {peak['full'] - peak['lora']:,.0f} MB of {peak['full']:,.0f}: "
        "a laptop has either.",
        "hybrid": f"Peak memory {peak['hybrid'] / peak['lora']:.2f} times LoRA's.",
        "qlora": f"Peak memory {1 - peak['qlora'] / peak['lora']:.0%} below LoRA's in {cost_precisions()}.",
    }


def slower(name: str) -> str:
    """Lowest and highest ratio to LoRA's step of the same round: "1.27 to 1.35 times"."""
    rounds = grouped(read_rows(COSTS), lambda row: row["round"]).values()
    seconds = [{row["name"]: row["step_seconds"] for row in rows} for rows in rounds]
    ratios = sorted(own[name] / own["lora"] for own in seconds)
    return f"{ratios[0]:.2f} to {ratios[-1]:.2f} times"


def costs(measure: str) -> dict[str, float]:
    """Method -> the median of its rounds."""
    rounds = grouped(read_rows(COSTS), lambda row: row["name"])
    return {name: median(row[measure] for row in rows) for name, rows in rounds.items()}


def cost_precisions() -> str:
    """The dtype of the arithmetic and of frozen weights that are not in 4 bits: "float32"."""
    return " and ".join(dict.fromkeys(row["precision"] for row in read_rows(COSTS)))


def cost_table() -> str:
    """A Markdown table of the medians."""
    seconds, peak, size = (costs(measure) for measure in ("step_seconds", "peak_memory_mb", "trainable_parameters"))
    lines = ["| method | s a step | peak MB | trains, MB in float32 |", "| --- | --- | --- | --- |"]
    for name in seconds:
        lines.append(f"| {name} | {seconds[name]:.2f} | {peak[name]:,.0f} | {size[name] * FLOAT32_MB:,.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
