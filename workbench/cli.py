"""The `workbench` command: doctor, train, notebooks. Exit status: 0 done, 1 found wanting, 2 asked wrongly."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from workbench import WorkbenchError


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except WorkbenchError as error:
        print(f"workbench: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="workbench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    doctor = commands.add_parser("doctor", help="what this machine can run, in under a minute")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.set_defaults(command=_doctor)

    train = commands.add_parser("train", help="fine-tune a model on a task and record the run")
    train.add_argument("--model", default="smollm2-135m", help="packaged name, preset, Hub id or directory")
    train.add_argument("--revision", help="branch, tag or commit of a Hub model")
    train.add_argument(
        "--task", default="orders", help="a shipped task, or your own CSV, JSONL, folder or Hub data set"
    )
    train.add_argument("--prompt-column", default="prompt")
    train.add_argument("--completion-column", default="completion")
    train.add_argument("--method", default="lora", choices=("full", "lora", "qlora", "hybrid"))
    train.add_argument("--rank", type=int, default=8)
    train.add_argument("--alpha", type=float, default=16)
    train.add_argument("--learning-rate", type=float, help="default: 1e-4 for full, 2e-3 for the others")
    train.add_argument("--targets", default="all-linear", help="all-linear, or layer names: q_proj,v_proj")
    train.add_argument("--dropout", type=float, default=0.0)
    train.add_argument("--rslora", action="store_true")
    train.add_argument("--dora", action="store_true")
    train.add_argument("--full-modules", default="", help="hybrid: modules to train whole, e.g. layers.29.mlp")
    train.add_argument("--quantization", choices=("nf4", "fp4", "int8"), help="default: nf4 for qlora, else none")
    train.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the frozen weights")
    train.add_argument("--steps", type=int, default=40)
    train.add_argument("--batch-size", type=int, default=16)
    train.add_argument("--accumulation", type=int, default=1)
    train.add_argument("--max-length", type=int, default=512)
    train.add_argument("--checkpointing", action="store_true", help="recompute activations to save memory")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--out", type=Path, help="folder for the run's record and artifact (default: runs/)")
    train.add_argument("--json", action="store_true", help="print the run's record as JSON")
    train.set_defaults(command=_train)

    notebooks = commands.add_parser("notebooks", help="execute notebooks and say how each went")
    notebooks.add_argument("names", nargs="*", metavar="NAME", help="e.g. 01_delta_w (default: all)")
    notebooks.add_argument("--tier", default="smoke", choices=("smoke", "laptop", "gpu"))
    notebooks.add_argument("--out", type=Path, default=Path("build/executed"), help="folder for the executed copies")
    notebooks.set_defaults(command=_notebooks)
    return parser


def _doctor(options: argparse.Namespace) -> int:
    from workbench.doctor import examine

    findings = examine()
    blocked = any(finding.level == "blocked" for finding in findings)
    if options.json:
        print(json.dumps({"ready": not blocked, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        for finding in findings:
            print(f"{finding.level:8} {finding.name}: {finding.value}")
            if finding.remedy:
                print(f"{'':8} -> {finding.remedy}")
        print("The laptop tier cannot run yet." if blocked else "Ready: the laptop tier runs here.")
    return 1 if blocked else 0


def _train(options: argparse.Namespace) -> int:
    from accelerate import PartialState

    from workbench.models import load_base
    from workbench.runs import RunStore
    from workbench.tasks import load_task
    from workbench.training import TrainConfig, train

    method = _method(options)
    config = TrainConfig(
        steps=options.steps,
        batch_size=options.batch_size,
        accumulation=options.accumulation,
        max_length=options.max_length,
        checkpointing=options.checkpointing,
        seed=options.seed,
    )
    task = load_task(options.task, prompt=options.prompt_column, completion=options.completion_column)
    quantization = options.quantization or ("nf4" if method.name == "qlora" else None)
    base = load_base(options.model, quantization=quantization, dtype=options.dtype, revision=options.revision)
    run = train(base, task, method, config, RunStore(options.out), on_step=_print_step)
    if not PartialState().is_main_process:
        return 0
    if options.json:
        record = asdict(run) | {"artifact_dir": str(run.artifact_dir) if run.artifact_dir else None}
        del record["folder"]
        print(json.dumps(record, indent=1))
    else:
        _print_run(run)
    return 0 if run.status == "finished" else 1


def _method(options: argparse.Namespace):
    from workbench import methods

    if options.method == "full":
        return methods.full(1e-4 if options.learning_rate is None else options.learning_rate)
    targets = options.targets if options.targets == "all-linear" else options.targets.split(",")
    adapters = methods.lora(
        rank=options.rank,
        alpha=options.alpha,
        learning_rate=2e-3 if options.learning_rate is None else options.learning_rate,
        targets=targets,
        dropout=options.dropout,
        rslora=options.rslora,
        dora=options.dora,
    )
    full_modules = tuple(module for module in options.full_modules.split(",") if module)
    return replace(adapters, name=options.method, full_modules=full_modules)


def _print_step(entry: dict) -> None:
    from workbench.machine import progress_wanted

    if progress_wanted():
        print(
            f"step {entry['step']}/{entry['steps']}  loss {entry['loss']:.3f}  {entry['seconds_left']:.0f} s left",
            file=sys.stderr,
        )


def _print_run(run) -> None:
    print(f"{run.id}: {run.status} in {run.seconds:.0f} s, {run.trainable_parameters:,} trainable parameters")
    for name, value in run.metrics.items():
        print(f"  {name}: {run.before[name]:.3f} -> {value:.3f}")
    if run.advice:
        print(f"  {run.advice}")
    if run.artifact_dir:
        print(f"  saved {run.artifact_bytes / 1e6:.1f} MB in {run.artifact_dir}")


def _notebooks(options: argparse.Namespace) -> int:
    from workbench.notebooks import run_notebooks

    try:
        results = run_notebooks(options.names, options.tier, options.out)
    except ValueError as error:
        raise WorkbenchError(str(error)) from error
    passed = failed = 0
    for result in results:
        passed, failed = passed + result.passed, failed + (not result.passed)
        print(f"{'passed' if result.passed else 'FAILED'}  {result.name}  {result.seconds:.0f} s", flush=True)
        if result.failure:
            print(result.failure, flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
