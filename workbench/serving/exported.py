"""A run's adapter as a folder to give away: PEFT's own files, and a model card filled in from the run's record."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from peft import PeftConfig

from workbench.adapters.saved.origin import write_origin
from workbench.errors import ServingError
from workbench.models import catalogue
from workbench.models.base import Base
from workbench.results.noise import rows_scored, two_standard_errors
from workbench.serving.merged import check_has_adapter, check_loads_by_name, new_folder
from workbench.tasks.tasks import Task
from workbench.training.runs import Run

CARD = "README.md"


def export(run: Run, base: Base, folder: str | os.PathLike, task: Task | None = None) -> Path:
    """Write the run's adapter, base.json and a model card into a new folder; returns the folder.

    base: what the run was trained on. task: its data, for an example in the card. Stock PEFT loads the folder with
    `PeftModel.from_pretrained(model, folder)`. Raises ServingError for a full run, one that was not saved, another
    base, or a folder that holds something already.
    """
    check_has_adapter(run, "export")
    run.load(base)  # complete, undamaged, and of this base, or an error
    check_loads_by_name(base)
    folder = new_folder(folder)
    assert run.artifact_dir is not None
    try:
        shutil.copytree(run.artifact_dir, folder, dirs_exist_ok=True)
        config = PeftConfig.from_pretrained(str(folder))
        config.base_model_name_or_path = public_name(base)
        config.save_pretrained(str(folder))
        write_origin(base, folder)
        (folder / CARD).write_text(card(run, base, task), encoding="utf-8")
    except OSError as error:
        raise ServingError(f"{folder} cannot be written ({error.strerror}); free some space there.") from error
    return folder


def public_name(base: Base) -> str:
    """The name by which others load this base: its Hub id where it has one, else its own name."""
    known = catalogue.find(base.name)
    return known.hub_id if known else base.name


def card(run: Run, base: Base, task: Task | None = None) -> str:
    """The model card: YAML that the Hub reads, and what a person needs to use and to judge the adapter."""
    name = public_name(base)
    parts = [_data(run, base), f"# {run.label} on {run.task['name']}, for {name}", _what(run, base, task)]
    parts += ["## Use", _use(name), "## Training", _training(run), "## Scores", _scores(run), "## Limits", _limits(run)]
    return "\n\n".join(parts) + "\n"


def _data(run: Run, base: Base) -> str:
    rows = rows_scored(run.task["test_rows"], run.config.get("test_limit"))
    told = {} if base.source == "directory" else {"base_model": public_name(base)}
    scores = []
    if "exact_match" in run.metrics:
        scores.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=run.task["name"],
                dataset_name=f"{run.task['name']}, {rows} test rows",
                metric_type="exact_match",
                metric_value=run.metrics["exact_match"],
            )
        )
    data = ModelCardData(
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["lora", run.method["name"]],
        model_name=run.id if scores else None,
        eval_results=scores or None,
        **told,
    )
    return f"---\n{data.to_yaml()}\n---"


def _what(run: Run, base: Base, task: Task | None) -> str:
    words = (
        f"A LoRA adapter of {run.trainable_parameters:,} numbers for {public_name(base)} (revision "
        f"{run.base['revision']}), trained on the task `{run.task['name']}`. It is of no use without this base"
    )
    if run.method.get("pissa"):
        words += ". PEFT changes the base's weights when it loads it (PiSSA), so load no second adapter beside it."
    else:
        words += ", and changes none of its weights."
    if run.base["quantization"]:
        words += f" It was trained on weights stored as {run.base['quantization']}, and fits these best."
    if task and task.test:
        row = task.test[0]
        words += (
            f"\n\nA prompt of the task, and the answer that is wanted:\n\n```text\n{row.prompt}{row.completion}\n```"
        )
    return words


def _use(name: str) -> str:
    return f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{name}"), "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("{name}")
inputs = tokenizer("your prompt", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64, do_sample=False)[0]))
```"""


def _training(run: Run) -> str:
    method, config = run.method, run.config
    told = {
        "method": run.label,
        "rank, alpha": f"{method.get('rank')}, {method.get('alpha'):g}" if method.get("alpha") else None,
        "target modules": _targets(method.get("targets")),
        "learning rate": f"{method['learning_rate']:g}",
        "steps, rows a step": f"{config.get('steps')}, {config.get('batch_size', 0) * config.get('accumulation', 1)}",
        "seed": config["seed"],
        "training rows": f"{run.task['train_rows']:,} (sha256 of the data {run.task['sha256'][:12]})",
        "completion tokens, seconds": f"{run.tokens:,}, {run.seconds:.0f}",
        "precision": ", ".join(f"{part} {kind}" for part, kind in run.precision.items() if isinstance(kind, str)),
        "hardware": run.hardware.get("processor"),
        "versions": ", ".join(f"{name} {number}" for name, number in run.versions.items()),
        "date": run.created[:10],
    }
    rows = [f"| {name} | {value} |" for name, value in told.items() if value]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])


def _targets(targets: str | list[str] | None) -> str | None:
    return targets if targets is None or isinstance(targets, str) else ", ".join(targets)


def _scores(run: Run) -> str:
    if not run.metrics:
        return "This run was not scored."
    rows = rows_scored(run.task["test_rows"], run.config.get("test_limit"))
    names = {
        "exact_match": f"answers right to the last token, of {rows} test rows",
        "loss": "loss, nats a token of the answer",
        "general_loss": "loss on text that was not trained on",
        "fact_accuracy": "everyday facts completed right",
    }
    head = ["| measure | base | with this adapter |", "| --- | --- | --- |"]
    table = [
        f"| {words} | {run.before[name]:.3f} | {run.metrics[name]:.3f} |"
        for name, words in names.items()
        if name in run.metrics and name in run.before
    ]
    noise = two_standard_errors(run.metrics.get("exact_match", 0.0), rows)
    return "\n".join(
        [*head, *table, "", f"The share of right answers is known to within {noise:.3f} (two standard errors)."]
    )


def _limits(run: Run) -> str:
    lost = run.forgetting.get("general_loss")
    told = "What the base has lost of its other abilities was not measured."
    if lost is not None:
        told = f"On text that was not trained on the loss moved by {lost:+.3f} nats a token; see the table."
    return f"One run with one seed, for the one form of prompt that it was trained on. {told}"
