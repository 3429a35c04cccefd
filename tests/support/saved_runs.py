"""Stored runs that nobody trained: random adapters, or a moved model, with a record as training writes it."""

from __future__ import annotations

import torch

from support.quick_training import rows
from workbench.adapters.inject import apply
from workbench.adapters.methods import Method, lora
from workbench.adapters.saved.checkpoints import save
from workbench.models.base import Base
from workbench.tasks.tasks import Task
from workbench.training.runs import Run
from workbench.training.step import TrainConfig
from workbench.training.store import RunStore
from workbench.training.trial import Trial


def saved_run(
    base: Base,
    store: RunStore,
    id: str = "a-run",
    method: Method | None = None,
    task: Task | None = None,
    seed: int = 0,
) -> Run:
    """A finished run in the store, whose adapter moves the base's logits."""
    method = method or lora(rank=2, alpha=4)
    trial = Trial(id, base, task or rows(), method, TrainConfig(steps=1, seed=seed, test_limit=4), store)
    run, model = trial.new_run(), apply(base, method, seed)
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
    store.make_ready()
    with store.saving(run) as folder:
        run.artifact_bytes = save(model, folder)
        run.artifact, run.status = run.id, "finished"
        run.trainable_parameters = sum(each.numel() for each in model.parameters() if each.requires_grad)
        if method.name == "full":
            base.tokenizer.save_pretrained(folder)
    scores = {"exact_match": 0.25, "loss": 2.0, "general_loss": 3.0, "fact_accuracy": 0.5}
    run.before, run.metrics = scores, scores | {"exact_match": 0.75, "loss": 0.5, "general_loss": 3.25}
    run.forgetting = {"general_loss": 0.25, "fact_accuracy": 0.0}
    return store.keep(run)
