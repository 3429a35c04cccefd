"""Predicted memory against published runs, real steps on this CPU and other tools, and `estimate` against `simulate`.

    .venv/bin/python benchmarks/memory.py published peers     # some of the tables: see TABLES
    .venv/bin/python benchmarks/memory.py                     # all tables: hours, most of them for `catalogue`

The other tools are `accelerate estimate-memory`, fitcheck-llm and canifinetune; `make bench` installs them.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

from transformers import PreTrainedConfig

from workbench import full, hybrid, load_base, lora, qlora
from workbench.adapters.methods import Method
from workbench.cost.efficiency import efficiency, halves, step_times
from workbench.cost.gpus import GIB
from workbench.cost.other_programs import PROGRAMS, OtherRun, other_runs, predicted_bytes
from workbench.cost.published import evaluation_bytes, published_runs
from workbench.memory import Setup, as_trained, estimate, measure, shipped, simulate
from workbench.memory.configs import model_config
from workbench.models.catalogue import CONFIG_FOLDER, canonical
from workbench.paths import DATA

HERE = Path(__file__).parent
COLUMNS = ("model", "method", "checkpointing", "estimated_bytes", "simulated_bytes")
BLOCKS = 4


def main() -> None:
    for name in sys.argv[1:] or TABLES:
        print(f"\n## {name}\n", flush=True)
        TABLES[name]()


def rows() -> list[dict[str, str]]:
    """The rows of data/published_runs.csv as text, for the arguments of the other tools."""
    with (DATA / "published_runs.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def published() -> None:
    """Print predictions and published peaks in GiB: `max_memory_reserved`, less what was reserved at the start."""
    print("| run | published | simulated | error | estimated | error | two equal steps replayed | evaluations need |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for run in published_runs():
        measured = run.peak_reserved_bytes / GIB
        simulated, estimated = simulate(run.model, run.setup), estimate(run.model, run.setup)
        reserved, closed = simulated.peak_reserved_bytes / GIB, estimated.peak_reserved_bytes / GIB
        print(
            f"| {run.label} | {measured:.2f} | {reserved:.2f} | {reserved / measured - 1:+.1%} | {closed:.2f} "
            f"| {closed / measured - 1:+.1%} | {simulated.replayed_bytes / GIB:.2f} "
            f"| {evaluation_bytes(run) / GIB:.2f} |",
            flush=True,
        )


def others() -> None:
    """Print predictions for runs of other programs, by program, and what each does differently.

    Rows of the same settings and peak, a model and its tuned version for example, count once in the medians.
    """
    for program, told in PROGRAMS.items():
        runs = [run for run in other_runs() if run.program == program]
        print(f"\n### {program}\n\n{told.differences}\n")
        print("| run | kind of peak | published | predicted | error | not modelled, or suspicious |\n|" + " --- |" * 6)
        errors = {place: error for place, run in enumerate(runs) if (error := error_of(run)) is not None}
        for place, run in enumerate(runs):
            known = place in errors
            remarks = [run.not_modelled, "suspicious" if run.suspicious else ""]
            remarks += [run.notes] if run.suspicious or not known else []
            cells = ["", ""]
            if known:
                cells = [f"{(1 + errors[place]) * run.peak_bytes / GIB:.2f}", f"{errors[place]:+.1%}"]
            words = "; ".join(filter(None, remarks))
            print(f"| {run.label} | {run.memory} | {run.peak_bytes / GIB:.2f} | {' | '.join(cells)} | {words} |")
        counted = {(run.label, run.peak_bytes): place for place, run in enumerate(runs) if not run.suspicious}
        sound = [place for place in counted.values() if place in errors]
        _print_errors("runs that are not suspicious", [errors[place] for place in sound])
        plain = [errors[place] for place in sound if not runs[place].not_modelled]
        _print_errors("that do nothing unmodelled", plain)


def _print_errors(which: str, errors: list[float]) -> None:
    sizes = list(map(abs, errors))
    if sizes:
        print(f"\nMedian error {median(sizes):.1%} of the {len(sizes)} {which}, worst {max(sizes):.1%}.")


def error_of(run: OtherRun) -> float | None:
    """Predicted / published - 1; None without a prediction."""
    predicted = predicted_bytes(run)
    return None if predicted is None else predicted / run.peak_bytes - 1


def times() -> None:
    """Print the efficiency of each family of GPUs and kind of step, and how many held-out step times it covers."""
    fitted, held_out = halves(step_times())
    print(
        "| GPUs | kind | efficiency | nine of ten runs | from | held out | covered | median error |\n|" + " --- |" * 8
    )
    for family, kind in sorted({(one.family, one.kind) for one in fitted}):
        found = efficiency(family, kind, fitted)
        tested = [one for one in held_out if (one.family, one.kind) == (family, kind)]
        covered = sum(found.holds(one) for one in tested)
        error = f"{median(abs(found.share / one.share - 1) for one in tested):.0%}" if tested else ""
        interval = f"{found.low:.0%} to {found.high:.0%}"
        source = f"{found.runs} runs" + ("" if found.family == family else ", of any GPU")
        print(
            f"| {family} | {kind} | {found.share:.0%} | {interval} | {source} | {len(tested)} | {covered} | {error} |"
        )
    print()
    for one in step_times():
        print(f"- {one.share:.0%}: {one.family}, {one.kind}, {one.label}")


def catalogue() -> None:
    """Print `estimate` against `simulate`: every model of the catalogue and method, with checkpointing and without.

    Writes benchmarks/closed_form.csv as it goes, and goes on after what is in it. A simulation takes about 15 s.
    """
    compare_catalogue(HERE / "closed_form.csv", blocks=None)


def shallow() -> None:
    """The same for models with BLOCKS blocks each, in benchmarks/closed_form_shallow.csv: minutes instead of hours."""
    compare_catalogue(HERE / "closed_form_shallow.csv", BLOCKS)


def compare_catalogue(path: Path, blocks: int | None) -> None:
    """Fill the file's rows that are missing, and print it by method. blocks: of each model, None for all."""
    done: dict[tuple[str, ...], dict[str, str]] = {}
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            done = {(row["model"], row["method"], row["checkpointing"]): row for row in csv.DictReader(file)}
    for model in by_family():
        for method in catalogue_methods():
            for checkpointing in (False, True):
                key = (model, method.label, "yes" if checkpointing else "no")
                if key not in done:
                    setup = Setup(method, 4, 512, checkpointing=checkpointing)
                    config = with_blocks(model_config(model), blocks)
                    sizes = [predict(config, setup).peak_allocated_bytes for predict in (estimate, simulate)]
                    done[key] = dict(zip(COLUMNS, [*key, *map(str, sizes)], strict=True))
                    write_rows(path, done.values())
    errors = {key: int(row["estimated_bytes"]) / int(row["simulated_bytes"]) - 1 for key, row in done.items()}
    print("| method | checkpointing | models | median error | worst error | worst model |\n|" + " --- |" * 6)
    for method in catalogue_methods():
        for checkpointing in ("no", "yes"):
            own = {key[0]: error for key, error in errors.items() if key[1:] == (method.label, checkpointing)}
            worst = max(own, key=lambda name: abs(own[name]), default="")
            middle = median(map(abs, own.values())) if own else math.nan
            cells = [f"{middle:.2%}", f"{own.get(worst, math.nan):+.2%}", worst]
            print(f"| {method.label} | {checkpointing} | {len(own)} | {' | '.join(cells)} |")


def by_family() -> list[str]:
    """The models of the catalogue: one of each family first, then the second of each, and so on."""
    families: dict[str, list[str]] = {}
    for name in shipped():
        families.setdefault(model_config(name).model_type, []).append(name)
    return [name for rank in zip_longest(*families.values()) for name in rank if name]


def with_blocks(config: PreTrainedConfig, blocks: int | None) -> PreTrainedConfig:
    """The configuration with so many blocks, or as it is."""
    if blocks is None:
        return config
    config = copy.deepcopy(config)
    config.num_hidden_layers = blocks
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:blocks]
    return config


def write_rows(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write the rows of a comparison of the catalogue."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def catalogue_methods() -> list[Method]:
    """One of each kind of method, with rank 16 on all linear layers."""
    return [full(), lora(16), lora(16, dora=True), qlora(16), hybrid(["layers.1.mlp"], rank=16)]


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


TABLES = {
    "published": published,
    "others": others,
    "times": times,
    "real": real,
    "grid": grid,
    "shallow": shallow,
    "catalogue": catalogue,
    "peers": peers,
}
if __name__ == "__main__":
    main()
