"""Speed and memory of a training step, compared with TRL's SFTTrainer and with a plain PEFT loop.

    .venv/bin/python benchmarks/train_step.py          # make bench

Every contender trains the same model from the same initial adapter weights on the same batches in the same dtype, each
in a process of its own, so that peak resident memory can be compared. Three rounds, contenders in turn; it prints
medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from statistics import median

BATCH, WARM_UP = 8, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("CONTENDER", "METHOD", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print("RESULT " + json.dumps(contend(*options.one, options.steps)))
        return
    print_imports()
    print("| method | dtype | contender | s a step | tokens/s | speed against TRL | peak resident MB | last loss |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for method, dtype in [*(("lora", dtype) for dtype in dtypes()), ("full", "float32")]:
        rounds = [
            [in_own_process(__file__, options.steps, name, method, dtype) for name in CONTENDERS]
            for _ in range(options.rounds)
        ]
        results = [median_of(each) for each in zip(*rounds, strict=True)]
        slowest = results[-1]["seconds"]
        for name, result in zip(CONTENDERS, results, strict=True):
            print(
                f"| {method} | {dtype} | {name} | {result['seconds']:.2f} | "
                f"{result['tokens'] / result['seconds']:.0f} | "
                f"{slowest / result['seconds']:.2f} | {result['peak_rss'] / 1e6:.0f} | {result['loss']:.4f} |",
                flush=True,
            )


def dtypes() -> list[str]:
    """bfloat16 only where `workbench doctor` found it fast: on other CPUs a step takes thirty times as long."""
    from workbench.machine import preferred_dtype

    return ["float32", "bfloat16"] if str(preferred_dtype()) == "torch.bfloat16" else ["float32"]


def print_imports() -> None:
    """Seconds to import the package, and to load the base a second time."""
    code = "import time; t = time.perf_counter(); import workbench; print(time.perf_counter() - t)"
    imports = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    code = (
        "from workbench.models import load_base; import time; load_base('smollm2-135m'); "
        "t = time.perf_counter(); load_base('smollm2-135m'); print(time.perf_counter() - t)"
    )
    loads = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    print(f"import workbench: {median(imports):.3f} s; second load_base: {median(loads):.2f} s\n")


def in_own_process(script: str, steps: int, *arguments: str) -> dict[str, float]:
    """Run `script --one arguments` and return the JSON that it prints after RESULT."""
    command = [sys.executable, script, "--steps", str(steps), "--one", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"WORKBENCH_PROGRESS": "0"})
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not results:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(results[0].removeprefix("RESULT "))


def median_of(results: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(result[name] for result in results) for name in results[0]}


def contend(contender: str, method_name: str, dtype: str, steps: int) -> dict[str, float]:
    """Train; return median seconds a step after the warm-up, median tokens a step, peak RSS, mean of last losses."""
    from workbench import TrainConfig, full, load_base, load_task, lora
    from workbench.tasks import batches, encode

    base = load_base("smollm2-135m", dtype=dtype)
    if contender != "workbench":
        base.model.set_attn_implementation("sdpa")  # without our attention kernel
    method = lora(rank=16, alpha=16, learning_rate=1e-3) if method_name == "lora" else full(learning_rate=5e-5)
    config = TrainConfig(steps=steps, batch_size=BATCH, warmup=0.0, evaluate=False, save=False)
    task = load_task("orders")
    rows = encode(task.train, base.tokenizer, config.max_length)
    order = batches(len(rows), BATCH, steps, config.seed)
    tokens = median(sum(len(rows[index].ids) for index in batch) for batch in order)
    with PeakMemory() as memory:
        seconds, losses = CONTENDERS[contender](base, task, method, config, rows, order)
    return {
        "seconds": median(seconds[WARM_UP:]),
        "tokens": tokens,
        "peak_rss": memory.peak,
        "loss": sum(losses[-5:]) / len(losses[-5:]),
    }


class PeakMemory:
    """The highest resident memory of this process, sampled every 20 ms."""

    def __enter__(self):
        import psutil

        self.peak, self._stop, process = 0, threading.Event(), psutil.Process()

        def watch():
            while not self._stop.wait(0.02):
                self.peak = max(self.peak, process.memory_info().rss)

        self._thread = threading.Thread(target=watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def run_workbench(base, task, method, config, rows, order):
    from workbench import RunStore, train

    with tempfile.TemporaryDirectory() as scratch:
        run = train(base, task, method, config, RunStore(scratch))
    return [entry["seconds"] for entry in run.history], [entry["loss"] for entry in run.history]


def run_plain(base, task, method, config, rows, order):
    """The loop that tutorials show: PEFT, an attention mask, labels of -100, the model's own loss."""
    import torch

    from workbench.adapters.inject import apply

    model = apply(base, method, config.seed).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=method.learning_rate, weight_decay=0.0)
    seconds, losses = [], []
    for step, indices in enumerate(order):
        started = time.perf_counter()
        chosen = [rows[index] for index in indices]
        length = max(len(row.ids) for row in chosen)
        ids = torch.tensor([[*row.ids, *[0] * (length - len(row.ids))] for row in chosen])
        mask = torch.tensor([[1] * len(row.ids) + [0] * (length - len(row.ids)) for row in chosen])
        labels = ids.masked_fill(mask == 0, -100)
        for index, row in enumerate(chosen):
            labels[index, : row.prompt_length] = -100
        optimizer.param_groups[0]["lr"] = method.learning_rate * config.learning_rate_factor(step)
        with torch.autocast("cpu", torch.bfloat16, enabled=base.dtype == torch.bfloat16):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
        losses.append(loss.item())
    return seconds, losses


def run_trl(base, task, method, config, rows, order):
    import torch
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from workbench.adapters.inject import apply

    chosen = [rows[index] for indices in order for index in indices]
    data = Dataset.from_dict(
        {
            "input_ids": [list(row.ids) for row in chosen],
            "labels": [[-100] * row.prompt_length + list(row.ids[row.prompt_length :]) for row in chosen],
        }
    )
    ends, losses = [], []

    class Watch(TrainerCallback):
        def on_step_begin(self, *_, **__):
            ends.append([time.perf_counter()])

        def on_step_end(self, *_, **__):
            ends[-1].append(time.perf_counter())

        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in logs:
                losses.append(float(logs["loss"]))

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    with tempfile.TemporaryDirectory() as scratch:
        arguments = SFTConfig(
            output_dir=scratch,
            max_steps=config.steps,
            per_device_train_batch_size=BATCH,
            learning_rate=method.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0,
            weight_decay=0.0,
            max_grad_norm=config.clip,
            bf16=base.dtype == torch.bfloat16,
            fp16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            gradient_checkpointing=False,
            max_length=config.max_length,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            disable_tqdm=True,
        )
        model = apply(base, method, config.seed)
        trainer = InOrder(
            model=model, args=arguments, train_dataset=data, processing_class=base.tokenizer, callbacks=[Watch()]
        )
        trainer.train()
    return [end - start for start, end in ends], losses


# TRL comes last: `main` prints speeds relative to the last one.
CONTENDERS = {"workbench": run_workbench, "plain PEFT loop": run_plain, "TRL SFTTrainer": run_trl}

if __name__ == "__main__":
    main()
