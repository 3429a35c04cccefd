"""Records of runs that nobody trained."""

from workbench.training.runs import Run


def record(id: str = "a-run", **changes) -> Run:
    fields = {
        "id": id,
        "status": "finished",
        "base": {"name": "m", "revision": "1", "source": "package", "quantization": None, "architecture": "L"},
        "task": {"name": "t", "source": "t", "sha256": "0", "train_rows": 2, "test_rows": 2},
        "method": {"name": "lora", "label": "lora r=1", "learning_rate": 1e-3},
        "config": {"seed": 0},
        "precision": {},
        "versions": {},
        "hardware": {},
        "created": "2026-01-01T00:00:00+00:00",
        "history": [{"step": 1, "loss": 2.0, "learning_rate": 1e-3, "seconds": s} for s in (1.0, 3.0, 2.0)],
    }
    return Run(**(fields | changes))


def run(name: str, exact: float = 0.8, memory: float = 1e9, forgot: float = 0.1, seconds: float = 1.0, **changes):
    fields = {
        "method": {"name": name, "label": name, "learning_rate": 1e-3},
        "config": {"seed": 0, "test_limit": None},
        "task": {"name": "t", "source": "t", "sha256": "0", "train_rows": 2, "test_rows": 400},
        "metrics": {"exact_match": exact},
        "forgetting": {"general_loss": forgot, "fact_accuracy": 0.0},
        "peak_memory_bytes": int(memory),
        "artifact_bytes": 10_000_000 if name != "full" else 500_000_000,
        "history": [{"step": 1, "loss": 1.0, "learning_rate": 1e-3, "seconds": seconds}],
    }
    return record(name, **(fields | changes))
