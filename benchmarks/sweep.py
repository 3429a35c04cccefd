"""A rank sweep in one pass, compared with eight runs in sequence of TRL's SFTTrainer, a plain PEFT loop and `train`.

    .venv/bin/python benchmarks/sweep.py               # make bench runs it too
    .venv/bin/python benchmarks/sweep.py --growth      # time and memory by number of configurations, with a figure

Eight ranks, 1 to 128, on all linear layers of SmolLM2-135M; 8 rows of 30 to 32 tokens a step for each. Every contender
trains the same ranks from the same initial weights on the same batches in the same dtype, in a process of its own.
Three rounds, contenders in turn; it prints medians.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from contenders import WARM_UP, PeakMemory, dtypes, in_own_process, median_of, run_plain, run_trl, run_workbench

RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
ONE_PASS = "one pass"
CONTENDERS = {"TRL SFTTrainer": run_trl, "plain PEFT loop": run_plain, "workbench.train": run_workbench}
COUNTS = (1, 2, 4, 8, 16)
PICTURE = Path(__file__).resolve().parents[1] / "build" / "sweep_growth.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtypes", default=",".join(dtypes()))
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("CONTENDER", "DTYPE", "RANKS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        contender, dtype, ranks = options.one
        print("RESULT " + json.dumps(contend(contender, dtype, json.loads(ranks), options.steps)))
        return
    for dtype in options.dtypes.split(","):
        growth(dtype, options) if options.growth else compare(dtype, options)


def compare(dtype: str, options: argparse.Namespace) -> None:
    """Seconds for one step of all eight ranks, and the peak memory of the process."""
    names = (*CONTENDERS, ONE_PASS)
    rounds = [[measured(name, dtype, RANKS, options.steps) for name in names] for _ in range(options.rounds)]
    results = dict(zip(names, (median_of(each) for each in zip(*rounds, strict=True)), strict=True))
    print(f"\n| {dtype} | s for a step of all {len(RANKS)} | one pass is faster by | peak resident MB | last loss |")
    print("| --- | --- | --- | --- | --- |")
    for name, result in results.items():
        ratio = result["seconds"] / results[ONE_PASS]["seconds"]
        memory = result["peak_rss"] / 1e6
        print(f"| {name} | {result['seconds']:.2f} | {ratio:.2f} | {memory:.0f} | {result['loss']:.4f} |")


def growth(dtype: str, options: argparse.Namespace) -> None:
    """Time and memory by number of configurations of rank 8, in one pass and as separate runs of `train`."""
    rows = []
    print(f"\n| {dtype}: configurations | s a step | s a step and configuration | peak resident MB |")
    print("| --- | --- | --- | --- |")
    for count in COUNTS:
        rounds = [measured(ONE_PASS, dtype, [8] * count, options.steps) for _ in range(options.rounds)]
        result = median_of(rounds)
        rows.append((count, result["seconds"], result["peak_rss"] / 1e6))
        print(f"| {count} | {rows[-1][1]:.2f} | {rows[-1][1] / count:.2f} | {rows[-1][2]:.0f} |", flush=True)
    alone = median_of([measured("workbench.train", dtype, [8], options.steps) for _ in range(options.rounds)])
    print(
        f"| 1, by workbench.train | {alone['seconds']:.2f} | {alone['seconds']:.2f} | {alone['peak_rss'] / 1e6:.0f} |"
    )
    draw(rows, alone["seconds"], dtype)


def draw(rows: list[tuple[int, float, float]], alone: float, dtype: str) -> None:
    from workbench.plots.style import PALETTE, new_figure, style

    figure = new_figure(9.0, 3.4)
    counts = [row[0] for row in rows]
    axes = style(figure.add_subplot(1, 2, 1), f"Time of a step, {dtype}", "configurations in the pass", "seconds")
    axes.plot(counts, [row[1] for row in rows], "o-", color=PALETTE["blue"], label="one pass")
    axes.plot(counts, [alone * count for count in counts], "s--", color=PALETTE["orange"], label="train, one by one")
    axes.legend()
    axes = style(figure.add_subplot(1, 2, 2), "Peak resident memory", "configurations in the pass", "MB")
    axes.plot(counts, [row[2] for row in rows], "o-", color=PALETTE["blue"])
    axes.set_ylim(bottom=0)
    file = PICTURE.with_stem(f"{PICTURE.stem}_{dtype}")
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file)
    print(f"drawn in {file}")


def measured(contender: str, dtype: str, ranks: Sequence[int], steps: int) -> dict[str, float]:
    return in_own_process(__file__, steps, contender, dtype, json.dumps(list(ranks)))


def contend(contender: str, dtype: str, ranks: list[int], steps: int) -> dict[str, float]:
    """Seconds of a step summed over the ranks (medians after the warm-up), peak RSS, mean of the last losses."""
    from workbench import TrainConfig, load_base, load_task, lora
    from workbench.tasks import batches, encode

    base = load_base("smollm2-135m", dtype=dtype)
    if contender in ("TRL SFTTrainer", "plain PEFT loop"):
        base.model.set_attn_implementation("sdpa")  # without our attention kernel
    task = load_task("tickets")
    lengths = [len(row.ids) for row in encode(task.train, base.tokenizer, 512)]
    chosen = [row for row, length in zip(task.train, lengths, strict=True) if 30 <= length <= 32]
    task = replace(task, train=tuple(chosen))
    methods = [lora(rank=rank, alpha=16, learning_rate=1e-3) for rank in ranks]
    config = TrainConfig(steps=steps, batch_size=8, warmup=0.0, evaluate=False, save=False)
    with PeakMemory() as memory:
        if contender == ONE_PASS:
            seconds, losses = run_one_pass(base, task, methods, config)
        else:
            rows = encode(task.train, base.tokenizer, config.max_length)
            order = batches(len(rows), config.batch_size, steps, config.seed)
            runs = [CONTENDERS[contender](base, task, method, config, rows, order) for method in methods]
            seconds = sum(median(run[0][WARM_UP:]) for run in runs)
            losses = [loss for run in runs for loss in run[1][-3:]]
    return {"seconds": seconds, "peak_rss": memory.peak, "loss": sum(losses) / len(losses)}


def run_one_pass(base, task, methods, config):
    from workbench import RunStore, sweep

    seconds = []
    if len(set(methods)) < len(
        methods
    ):  # equal configurations would be trained once: give each its own initial weights
        methods = [replace(method, init_seed=index) for index, method in enumerate(methods)]
    with tempfile.TemporaryDirectory() as scratch:
        runs = sweep(
            base, task, methods, config, RunStore(scratch), on_step=lambda entry: seconds.append(entry["seconds"])
        )
    assert len(seconds) == config.steps, "the ranks did not fit into one pass"
    return median(seconds[WARM_UP:]), [entry["loss"] for run in runs for entry in run.history[-3:]]


if __name__ == "__main__":
    main()
