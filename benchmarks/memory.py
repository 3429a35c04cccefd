"""Predicted memory against published runs, real steps on this CPU and other tools, and `estimate` against `simulate`.

    .venv/bin/python benchmarks/memory.py published peers     # some of the tables: published, real, grid, peers
    .venv/bin/python benchmarks/memory.py                     # all tables: about an hour on two slow cores

The other tools are `accelerate estimate-memory`, fitcheck-llm and canifinetune; `make bench` installs them.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from workbench import full, hybrid, load_base, lora, qlora
from workbench.adapters.methods import Method
from workbench.cost.gpus import GIB
from workbench.cost.published import published_runs
from workbench.memory import Setup, as_trained, estimate, measure, simulate
from workbench.models.catalogue import CONFIG_FOLDER, canonical
from workbench.paths import DATA


def main() -> None:
    tables = {"published": published, "real": real, "grid": grid, "peers": peers}
    for name in sys.argv[1:] or tables:
        print(f"\n## {name}\n", flush=True)
        tables[name]()


def rows() -> list[dict[str, str]]:
    """The rows of data/published_runs.csv as text, for the arguments of the other tools."""
    with (DATA / "published_runs.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def published() -> None:
    """Print predictions and published peaks in GiB: `max_memory_reserved`, less what was reserved at the start."""
    print("| run | published | simulated | error | estimated | error | two equal steps replayed | allocated |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for run in published_runs():
        measured = run.peak_reserved_bytes / GIB
        simulated, estimated = simulate(run.model, run.setup), estimate(run.model, run.setup)
        reserved, closed = simulated.peak_reserved_bytes / GIB, estimated.peak_reserved_bytes / GIB
        print(
            f"| {run.label} | {measured:.2f} | {reserved:.2f} | {reserved / measured - 1:+.1%} | {closed:.2f} "
            f"| {closed / measured - 1:+.1%} | {simulated.replayed_bytes / GIB:.2f} "
            f"| {simulated.peak_allocated_bytes / GIB:.2f} |",
            flush=True,
        )


def real() -> None:
    """Print measured and simulated peaks of a step of SmolLM2-135M on this CPU, by torch's log of allocations."""
    print("| method | checkpointing | batch x length | measured MB | simulated MB | error |")
    print("| --- | --- | --- | --- | --- | --- |")
    errors = []
    bases = {None: load_base("smollm2-135m", dtype="float32")}
    bases["nf4"] = load_base("smollm2-135m", dtype="float32", quantization="nf4")
    for method in (full(), lora(8), lora(8, dora=True), hybrid(["layers.29.mlp"], rank=8), qlora(8)):
        base = bases[method.base_quantization]
        for checkpointing, batch, length in ((False, 1, 64), (False, 4, 64), (True, 4, 64)):
            measured = measure(base, method, batch, length, checkpointing)
            setup = Setup(method, batch, length, as_trained(base), checkpointing=checkpointing, device="cpu")
            simulated = simulate("smollm2-135m", setup).peak_allocated_bytes
            errors.append(simulated / measured - 1)
            print(
                f"| {method.label} | {'yes' if checkpointing else 'no'} | {batch} x {length} | {measured / 1e6:.0f} "
                f"| {simulated / 1e6:.0f} | {errors[-1]:+.1%} |",
                flush=True,
            )
    print(f"\nLargest error {max(map(abs, errors)):.1%}, median {median(map(abs, errors)):.1%}.")


def grid() -> None:
    """Print the errors of `estimate` against `simulate`, and the time that both take."""
    errors, reserved, seconds, slow = [], [], [], []
    worst = (0.0, "")
    for model, setup in configurations():
        estimated = estimate(model, setup)
        started = time.perf_counter()
        estimate(model, setup)
        seconds.append(time.perf_counter() - started)
        simulated = simulate(model, setup)
        words = f"{model} {in_words(setup)}"
        slow.append(simulated.seconds)
        errors.append(estimated.peak_allocated_bytes / simulated.peak_allocated_bytes - 1)
        reserved.append(estimated.peak_reserved_bytes / simulated.peak_reserved_bytes - 1)
        worst = max(worst, (abs(errors[-1]), words))
        print(f"{len(errors)} {words} {errors[-1]:+.2%}", file=sys.stderr, flush=True)
    print("| configurations | median error | worst error | worst, reserved | ms an estimate | s a simulation |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(
        f"| {len(errors)} | {median(map(abs, errors)):.2%} | {worst[0]:.2%} | {max(map(abs, reserved)):.2%} "
        f"| {1e3 * median(seconds):.1f} | {median(slow):.1f} |"
    )
    print(f"\nWorst: {worst[1]}. Slowest estimate {1e3 * max(seconds):.1f} ms.")


def in_words(setup: Setup) -> str:
    """The settings of a setup in one line."""
    recompute = ", checkpointing" if setup.checkpointing else ""
    shape = f"{setup.batch_size} x {setup.sequence_length}"
    return f"{setup.method.label}, {shape}, {setup.dtype}, {setup.optimizer}, {setup.attention}{recompute}"


def configurations() -> Iterator[tuple[str, Setup]]:
    """(model, setup): models of 0.1 to 8B from six families with every method, and each option at least once."""
    models = ("smollm2-135m", "qwen2.5-0.5b", "llama-3.2-1b", "olmo2-1b", "qwen3-1.7b", "gemma-2-2b", "llama-3.2-3b")
    sizes = ((1, 512), (4, 256), (8, 1024))
    for place, model in enumerate((*models, "mistral-7b-v0.3")):
        for number, method in enumerate(every_method()):
            batch, length = sizes[(place + number) % len(sizes)]
            for checkpointing in (False, True):
                dtype = ("bfloat16", "mixed", "float32")[(place + number + checkpointing) % 3]
                yield model, Setup(method, batch, length, dtype, checkpointing=checkpointing)
    for model in ("smollm2-360m", "qwen2.5-1.5b", "llama-3.1-8b"):
        for attention in ("flash", "eager"):
            yield model, Setup(lora(16), attention=attention)
        for optimizer in ("adamw_fused", "adamw8bit"):
            yield model, Setup(full(), optimizer=optimizer)


def every_method() -> list[Method]:
    """Each method, with the variants of LoRA whose memory differs."""
    return [
        full(),
        lora(8),
        lora(32, targets=["q_proj", "v_proj"]),
        lora(16, dora=True),
        lora(16, dropout=0.1, layers=[2, 3]),
        qlora(16),
        hybrid(["layers.5.mlp"], rank=8),
    ]


def peers() -> None:
    """Print what other tools predict for the published runs, in GiB."""
    tools = {"accelerate estimate-memory": accelerate, "fitcheck-llm": fitcheck, "canifinetune": canifinetune}
    print(f"| run | published | {' | '.join(tools)} | simulate |")
    print("| --- | --- |" + " --- |" * (len(tools) + 1))
    for row, run in zip(rows(), published_runs(), strict=True):
        found = [tool(row) for tool in tools.values()]
        found.append(simulate(run.model, run.setup).peak_reserved_bytes / GIB)
        cells = [f"{value:.1f}" if isinstance(value, float) else value for value in found]
        print(f"| {run.label} | {row['peak_reserved_gib']} | {' | '.join(cells)} |", flush=True)


def accelerate(row: dict[str, str]) -> float:
    """What `accelerate estimate-memory` computes from the size of the model in float32. The command needs the Hub."""
    from accelerate.commands.estimate import estimate_training_usage

    usage = estimate_training_usage(4 * int(rows()[0]["trainable_params"]), "float32")
    return max(usage.values()) / GIB


def fitcheck(row: dict[str, str]) -> float | str:
    """The total of fitcheck-llm, or why there is none."""
    adapters = ["--lora-r", row["rank"], "--lora-targets", row["targets"]]
    method = ["--no-lora", "--optimizer-dtype", "bf16"] if row["method"] == "full" else adapters
    sizes = ["--batch-size", row["batch_size"], "--seq-len", row["max_seq_len"], "--flash-attn"]
    report = run_tool("fitcheck", [row["model"], *method, *sizes, "--json"], row["model"])
    return report if isinstance(report, str) else report["memory_mib"]["total"] / 1024


def canifinetune(row: dict[str, str]) -> float | str:
    """The total of canifinetune, or why there is none. It supports neither a list of targets nor DoRA."""
    method = ["--method", row["method"].split()[0], "--lora-rank", row["rank"] or "16"]
    sizes = ["--micro-batch-size", row["batch_size"], "--seq-len", row["max_seq_len"], "--gpu-vram-gb", "44"]
    options = ["--optimizer", "adamw", "--quantization", "none", "--no-gradient-checkpointing", "--offline"]
    report = run_tool(
        "canifinetune", ["estimate", "--model", row["model"], *method, *sizes, *options, "--json"], row["model"]
    )
    found = [report] if isinstance(report, str) else list(values_named("total_estimated_gb", report))
    return found[0] if found else "no total"


def values_named(name: str, tree: object) -> Iterator[float]:
    """Every value with the key `name` in parsed JSON."""
    if isinstance(tree, dict):
        if name in tree:
            yield float(tree[name])
        tree = list(tree.values())
    for branch in tree if isinstance(tree, list) else ():
        yield from values_named(name, branch)


def run_tool(tool: str, arguments: list[str], model: str) -> dict[str, Any] | str:
    """The JSON that a command prints, or why it printed none. The model's configuration is in a temporary Hub cache."""
    command = shutil.which(tool, path=str(Path(sys.executable).parent)) or shutil.which(tool)
    if command is None:
        return "not installed"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "hub", f"models--{model.replace('/', '--')}")
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0")
        (folder / "snapshots" / "0").mkdir(parents=True)
        shutil.copy(CONFIG_FOLDER / f"{canonical(model)}.json", folder / "snapshots" / "0" / "config.json")
        environment = os.environ | {"HF_HOME": scratch, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
        done = subprocess.run([command, *arguments], capture_output=True, text=True, env=environment, timeout=120)
    start = done.stdout.find("{")
    return json.loads(done.stdout[start:]) if start >= 0 else done.stderr.strip().splitlines()[-1][:80]


if __name__ == "__main__":
    main()
