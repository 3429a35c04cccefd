"""Run by test_training under `accelerate launch`: train on the small model and write what the main process saw."""

import json
import sys

import torch

from workbench import RunStore, TrainConfig, load_base, load_task, lora, train

directory, out = sys.argv[1:]
torch.set_num_threads(1)
config = TrainConfig(steps=4, batch_size=2, accumulation=2, evaluate=False)
run = train(load_base(directory, dtype="float32"), load_task("orders"), lora(rank=2), config, RunStore(out))
if run.artifact:
    print("RESULT " + json.dumps([entry["loss"] for entry in run.history]))
