"""`workbench memory`: what a GPU would need to train a model."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from workbench.cli.options import DEFAULT, Commands, full_modules_of, given, refuse_unused, targets_of

if TYPE_CHECKING:
    from workbench.adapters.methods import Method
    from workbench.memory.report import MemoryReport


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    memory = commands.add_parser("memory", help="what a GPU would need to train a model, without one")
    memory.add_argument("model", metavar="CONFIG", help="a short name, a Hub id, a folder, or a config.json")
    memory.add_argument("--method", default="lora", choices=("full", "lora", "qlora", "hybrid"), help=DEFAULT)
    memory.add_argument("--rank", type=int, help="default: 8")
    memory.add_argument("--targets", help="layer names: q_proj,v_proj (default: all-linear)")
    memory.add_argument("--dora", action="store_true", default=None, help="weight-decomposed adapters")
    memory.add_argument("--full-modules", help="hybrid: modules to train whole, e.g. layers.15.mlp")
    memory.add_argument("--batch-size", type=int, default=4, help=f"rows; {DEFAULT}")
    memory.add_argument("--sequence-length", type=int, default=512, help=f"tokens of a row; {DEFAULT}")
    dtypes, kernels = "bfloat16, mixed (what trains in float32) or float32", "sdpa (a padded batch), flash (no mask)"
    memory.add_argument("--dtype", default="bfloat16", help=f"{dtypes}; {DEFAULT}")
    optimizers = "adamw, adamw_fused, adamw8bit, paged_adamw or paged_adamw8bit"
    memory.add_argument("--optimizer", default="adamw_fused", help=f"{optimizers}; {DEFAULT}")
    memory.add_argument("--attention", default="sdpa", help=f"{kernels} or eager; {DEFAULT}")
    memory.add_argument("--checkpointing", action="store_true", help="recompute activations to save memory")
    memory.add_argument("--accumulate", action="store_true", help="each update uses the gradients of several batches")
    losses = "whole (float32 logits at once), chunked (in parts), fused (Liger: no logits are kept)"
    memory.add_argument("--loss", default="whole", help=f"{losses}; {DEFAULT}")
    memory.add_argument("--packed", action="store_true", help="rows packed into one, without padding")
    memory.add_argument("--adapter-dtype", default="float32", help=f"float32 or bfloat16; {DEFAULT}")
    memory.add_argument("--unprepared", action="store_true", help="qlora without prepare_model_for_kbit_training")
    memory.add_argument("--single-quantization", action="store_true", help="qlora with 32-bit scales")
    memory.add_argument("--free-outputs", action="store_true", help="free logits and cache early, as Trainer does")
    memory.add_argument("--gpus", type=int, default=1, help=f"split model states over GPUs (FSDP, ZeRO-3); {DEFAULT}")
    memory.add_argument("--offload", action="store_true", help="keep the split model states in the CPU's memory")
    memory.add_argument("--simulate", action="store_true", help="follow real steps on fake tensors: seconds")
    memory.add_argument("--json", action="store_true", help="print the report as JSON")
    memory.set_defaults(command=_memory)


def _memory(options: argparse.Namespace) -> int:
    from workbench.memory.closed_form import estimate
    from workbench.memory.setup import Setup
    from workbench.memory.simulation import simulate

    names = ["batch_size", "sequence_length", "dtype", "optimizer", "checkpointing", "attention", "accumulate"]
    names += ["loss", "packed", "adapter_dtype", "gpus", "offload"]
    setup = Setup(
        _method(options),
        prepared=not options.unprepared,
        double_quantization=not options.single_quantization,
        keep_outputs=not options.free_outputs,
        **{name: getattr(options, name) for name in names},
    )
    report = (simulate if options.simulate else estimate)(options.model, setup)
    if options.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        _print(report)
    return 0


def _method(options: argparse.Namespace) -> Method:
    """The method that was asked for; raises MethodError for options that it does not use."""
    from workbench.adapters.methods import Method

    if options.method == "full":
        refuse_unused(given(options, ("rank", "targets", "dora", "full_modules")), options.method)
        return Method.from_options("full")
    of_adapters = given(options, ("rank", "dora")) | {"targets": targets_of(options)}
    return Method.from_options(options.method, full_modules_of(options), **of_adapters)


def _print(report: MemoryReport) -> None:
    for component, size in report.components.items():
        print(f"{component:16} {_gib(size)}")
    print(f"{'peak, allocated':16} {_gib(report.peak_allocated_bytes)}")
    print(f"{'peak, reserved':16} {_gib(report.peak_reserved_bytes)}")
    print(f"{'with the context':16} {_gib(report.total_bytes)}   what the GPU must have free")
    phases = ", ".join(f"{phase} {size / 2**30:.2f}" for phase, size in report.peaks.items())
    print(f"Peaks by phase, GiB: {phases}. Trainable parameters: {report.trainable_parameters:,}.")
    print(f"{report.note}; {report.seconds:.3g} s")


def _gib(size: int) -> str:
    return f"{size / 2**30:8.2f} GiB"
