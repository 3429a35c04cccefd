"""What `roofline.py` and `sweep.py` compare: `workbench.train`, a plain PEFT loop, and TRL's SFTTrainer.

Each trains the same model from the same initial adapter weights on the same batches in the same dtype, and returns the
seconds and the loss of every step. `in_own_process` runs one of them, so that peak resident memory can be compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from statistics import median

WARM_UP = 3  # steps that are not timed


def dtypes() -> list[str]:
    """bfloat16 only where it is fast: on other CPUs a step takes thirty times as long."""
    from workbench.machine import preferred_dtype

    return ["float32", "bfloat16"] if str(preferred_dtype()) == "torch.bfloat16" else ["float32"]


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
            per_device_train_batch_size=config.batch_size,
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
