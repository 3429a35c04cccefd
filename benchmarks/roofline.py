"""How much of this machine's peak a training step reaches, ours next to TRL's SFTTrainer and a plain PEFT loop.

    .venv/bin/python benchmarks/roofline.py            # make bench

The README's table is what this prints. The peak is the fastest matrix product at the shapes of SmolLM2-135M. The FLOPs
are those that the step needs: real tokens, frozen weights without gradients of their own, the output head where an
answer is predicted. Padding and all that is no matrix product take time and count for nothing. Contenders in turn, each
in a process of its own; medians.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import Any

from contenders import WARM_UP, PeakMemory, dtypes, in_own_process, median_of, run_plain, run_trl, run_workbench

CONTENDERS = {"workbench": run_workbench, "plain PEFT loop": run_plain, "TRL SFTTrainer": run_trl}
COLUMNS = "task | method | dtype | contender | s a step | real tokens/s | share of the peak | speed against TRL"
COLUMNS += " | peak resident MB | last loss"
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", default="tickets,orders")
    parser.add_argument("--methods", default="lora,full")
    parser.add_argument("--dtypes", default=",".join(dtypes()))
    parser.add_argument("--one", nargs=4, metavar=("CONTENDER", "TASK", "METHOD", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print("RESULT " + json.dumps(contend(*options.one, options.steps)))
        return
    if options.methods == "full" and "float32" not in options.dtypes:
        parser.error("full fine-tuning trains weights in float32: add it to --dtypes")
    print(conditions(options))
    peaks = {dtype: peak(dtype) for dtype in options.dtypes.split(",")}
    for dtype, rates in peaks.items():
        told = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items())
        print(f"Matrix products in {dtype}, GFLOP/s by layer: {told}")
    print(f"\n| {COLUMNS} |\n| {' | '.join('---' for _ in COLUMNS.split(' | '))} |")
    for dtype, rates in peaks.items():
        for task in options.tasks.split(","):
            for method in options.methods.split(","):
                if method == "lora" or dtype == "float32":  # full() trains weights in float32 only
                    compare(task, method, dtype, max(rates.values()), options)


def conditions(options: argparse.Namespace) -> str:
    """What the table depends on, and how much else runs: a table from a busy machine is worth nothing."""
    from importlib.metadata import version

    import psutil

    from workbench.machine import hardware

    machine, (busy, *_) = hardware(), psutil.getloadavg()
    return (
        f"{machine['processor']}, {machine['threads']} threads, torch {version('torch')}, TRL {version('trl')}; "
        f"{options.rounds} rounds of {options.steps} steps, the first {WARM_UP} not timed; {busy:.1f} other processes "
        "wanted a processor in the minute before."
    )


def compare(task: str, method: str, dtype: str, peak_rate: float, options: argparse.Namespace) -> None:
    """Print a row for each contender. peak_rate: FLOP/s."""
    rounds = [
        [in_own_process(__file__, options.steps, name, task, method, dtype) for name in CONTENDERS]
        for _ in range(options.rounds)
    ]
    results = [median_of(each) for each in zip(*rounds, strict=True)]
    slowest = results[-1]["seconds"]
    for name, result in zip(CONTENDERS, results, strict=True):
        seconds = result["seconds"]
        cells = (task, method, dtype, name, f"{seconds:.2f}", f"{result['tokens'] / seconds:.0f}")
        cells += (f"{result['flops'] / seconds / peak_rate:.0%}", f"{slowest / seconds:.2f}")
        cells += (f"{result['peak_rss'] / 1e6:.0f}", f"{result['loss']:.4f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def peak(dtype: str, tokens: int = 480) -> dict[str, float]:
    """FLOP/s of x W^T with x (tokens, in), by kind of linear layer: the fastest of twenty products."""
    import torch

    from workbench import load_base
    from workbench.models import linear_modules

    shapes = linear_modules(load_base("smollm2-135m", dtype=dtype).model)
    rates = {}
    for name, (out, into) in {name.rpartition(".")[2]: shape for name, shape in shapes.items()}.items():
        x, weight = (torch.randn(rows, into).to(getattr(torch, dtype)) for rows in (tokens, out))
        seconds = []
        for _ in range(20):
            started = time.perf_counter()
            x @ weight.T
            seconds.append(time.perf_counter() - started)
        rates[name] = 2 * tokens * out * into / min(seconds)
    return rates


def contend(contender: str, task_name: str, method_name: str, dtype: str, steps: int) -> dict[str, float]:
    """Train; medians of a step's seconds, real tokens and needed FLOPs, the peak RSS and the mean last loss."""
    from workbench import TrainConfig, full, load_base, load_task, lora
    from workbench.models.cpu_kernels import plain
    from workbench.tasks import batches, encode

    base = load_base("smollm2-135m", dtype=dtype)
    if contender != "workbench":
        plain(base.model)  # without our attention and norm
    method = lora(rank=16, alpha=16, learning_rate=1e-3) if method_name == "lora" else full(learning_rate=5e-5)
    config = TrainConfig(steps=steps, batch_size=BATCH, warmup=0.0, evaluate=False, save=False)
    task = load_task(task_name)
    rows = encode(task.train, base.tokenizer, config.max_length)
    order = batches(len(rows), BATCH, steps, config.seed)
    timed = [[rows[index] for index in batch] for batch in order][WARM_UP:]
    with PeakMemory() as memory:
        seconds, losses = CONTENDERS[contender](base, task, method, config, rows, order)
    return {
        "seconds": median(seconds[WARM_UP:]),
        "tokens": median(sum(len(row.ids) for row in batch) for batch in timed),
        "flops": median(needed_flops(base, method, batch) for batch in timed),
        "peak_rss": memory.peak,
        "loss": sum(losses[-5:]) / len(losses[-5:]),
    }


def needed_flops(base: Any, method: Any, rows: list[Any]) -> float:
    """FLOPs of a step's matrix products: `cost.flops.step_flops` with the head where answers are, causal attention."""
    from workbench.cost.flops import ATTENTION, HEAD, step_flops
    from workbench.memory.setup import Setup

    tokens = sum(len(row.ids) for row in rows)
    answers = sum(row.completion_tokens for row in rows) / tokens
    pairs = sum(len(row.ids) ** 2 for row in rows) / tokens**2 / 2  # a token attends to those before it
    share = {HEAD: answers, ATTENTION: pairs}
    phases = step_flops(base, Setup(method, 1, tokens)).values()
    return sum(flops * share.get(part, 1.0) for phase in phases for part, flops in phase.items())


if __name__ == "__main__":
    main()
