"""`workbench merge`, `workbench export` and `workbench serve`: what to do with a run that is finished."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli.options import DEFAULT, Commands, path_of
from workbench.console import say

if TYPE_CHECKING:
    from workbench.training.runs import Run

DTYPES = ("float32", "bfloat16", "float16")


def add(commands: Commands) -> None:
    """Add the three commands to those of `workbench`."""
    merge = commands.add_parser("merge", help="write a run's model as a whole one, its adapter merged into the base")
    export = commands.add_parser("export", help="write a run's adapter for PEFT, with a model card")
    serve = commands.add_parser("serve", help="answer for runs over HTTP, as OpenAI's API does")
    for parser in (merge, export):
        parser.add_argument("run", metavar="RUN", help="the id of a run, its file's name without .json")
        parser.add_argument("--to", required=True, type=path_of, metavar="DIR", help="a new folder")
    merge.add_argument("--dtype", choices=DTYPES, help="of the weights (default: what `doctor` found fast)")
    serve.add_argument("runs", metavar="RUN", nargs="+", help="ids of runs on one base; NAME=RUN serves it as NAME")
    serve.add_argument("--port", type=int, default=8000, help=f"0 takes a free one; {DEFAULT}")
    serve.add_argument("--host", default="127.0.0.1", help=f"address to listen on, this computer's own; {DEFAULT}")
    serve.add_argument("--dtype", choices=DTYPES, help="of the weights (default: what `doctor` found fast)")
    for parser in (merge, export, serve):
        parser.add_argument("--out", type=path_of, help="folder of the runs (default: runs/)")
    merge.set_defaults(command=_merge)
    export.set_defaults(command=_export)
    serve.set_defaults(command=_serve)


def _merge(options: argparse.Namespace) -> int:
    from workbench.serving.merged import base_of, check_has_adapter, new_folder, write_merged

    run = _run(options, options.run)
    check_has_adapter(run, "merge")
    new_folder(options.to)
    say(f"Loading {run.base['name']} ...")
    size = write_merged(run, base_of(run, options.dtype), options.to)
    print(
        f"{options.to}: {run.label} merged into {run.base['name']}, {size / 1e6:,.0f} MB. transformers loads it alone."
    )
    return 0


def _export(options: argparse.Namespace) -> int:
    from workbench.adapters.saved.checkpoints import directory_bytes
    from workbench.serving.exported import export
    from workbench.serving.merged import base_of, check_has_adapter, new_folder
    from workbench.tasks.example import SHIPPED
    from workbench.tasks.tasks import load_task

    run = _run(options, options.run)
    check_has_adapter(run, "export")
    new_folder(options.to)
    say(f"Loading {run.base['name']} ...")
    task = load_task(run.task["name"]) if run.task["source"] in SHIPPED else None
    folder = export(run, base_of(run), options.to, task)
    print(f"{folder}: adapter and model card, {directory_bytes(folder) / 1e6:,.1f} MB. PEFT loads it on its base.")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from workbench.errors import ServingError
    from workbench.machine import preferred_dtype
    from workbench.serving.engine import EVERY_ADDRESS, serve, usable_port
    from workbench.serving.folders import serving_folder
    from workbench.serving.merged import base_of

    usable_port(options.port, options.host)  # told before a model is loaded
    named = [given.rpartition("=") for given in options.runs]
    runs = {name or id: _run(options, id) for name, _, id in named}
    if len(runs) < len(named):
        raise ServingError("Two runs have one name; give each its own, as NAME=RUN.")
    first = next(iter(runs.values()))
    say(f"Loading {first.base['name']} ...")
    base = base_of(first, options.dtype)
    dtype = options.dtype or str(preferred_dtype()).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = serving_folder(runs, base, Path(scratch, "models"))
        del base  # the server loads its own
        with serve(folder, options.port, dtype, options.host) as server:
            print(f"{server.url} answers for {', '.join(runs)}. Stop it with Ctrl-C.", flush=True)
            if options.host == EVERY_ADDRESS:
                print("From other computers, use this one's name or address instead of 127.0.0.1.", flush=True)
            print(f"Try it in another window:\n  {_example(server.url, next(iter(runs)))}", flush=True)
            server.wait()


def _example(url: str, name: str) -> str:
    body = f'{{"model": "{name}", "prompt": "Hello,", "max_tokens": 32, "temperature": 0}}'
    return f"curl {url}/completions -H 'Content-Type: application/json' -d '{body}'"


def _run(options: argparse.Namespace, id: str) -> Run:
    from workbench.training.store import RunStore

    return RunStore(options.out).get(id)
