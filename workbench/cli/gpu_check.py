"""`workbench gpu-check`: compare the predictions of memory with this machine's GPU."""

from __future__ import annotations

import argparse

from workbench.cli.options import DEFAULT, Commands, path_of


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    checked = commands.add_parser("gpu-check", help="measure steps on this machine's GPU and compare predictions")
    checked.add_argument("--minutes", type=float, default=20, help=f"start nothing that would end later; {DEFAULT}")
    checked.add_argument("--out", type=path_of, required=True, metavar="FILE", help="the JSON file to write")
    checked.add_argument(
        "--model", help="a 1B-class model of the catalogue (default: llama-3.2-1b); weights are random"
    )
    checked.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help=f"cpu rehearses; {DEFAULT}")
    checked.add_argument("--small", action="store_true", help="a model of a few thousand weights: a rehearsal")
    checked.set_defaults(command=_gpu_check)


def _gpu_check(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from workbench.cost.gpu_check.cases import GPU_SCALE, SMALL_SCALE
    from workbench.cost.gpu_check.check import check, row, table

    scale = SMALL_SCALE if options.small else GPU_SCALE
    if options.model:
        scale = replace(scale, model=options.model)
    found = check(scale, options.device, options.minutes, options.out, on_case=lambda one: print(row(one), flush=True))
    print()
    for line in table(found):
        print(line)
    failed = [finding["label"] for finding in found["findings"] if finding["status"] == "failed"]
    words = f"{len(failed)} failed: {'; '.join(failed)}" if failed else "none failed"
    print(f"\n{len(found['findings'])} measured or tried, {len(found['not_reached'])} not reached, {words}.")
    print(f"Send {options.out} to the project: it holds no names or paths of yours, only sizes, times and versions.")
    return 1 if failed else 0
