"""`workbench fits`: what fits a GPU, and the cheapest GPU for a job."""

from __future__ import annotations

import argparse

from workbench.cli.options import DEFAULT, Commands


def add(commands: Commands) -> None:
    """Add the command to those of `workbench`."""
    fits = commands.add_parser("fits", help="which models and methods fit a GPU, or which GPU a job needs")
    fits.add_argument("--gpu", metavar="NAME", help="a GPU of the table: what fits it? (L4, 'RTX 4090', ...)")
    fits.add_argument("--model", metavar="CONFIG", help="this model alone; without --gpu: the cheapest GPU for it")
    fits.add_argument("--length", type=int, default=1024, help=f"tokens of the rows of a batch; {DEFAULT}")
    fits.add_argument("--batch-size", type=int, default=1, help=f"rows of a step of the job; {DEFAULT}")
    fits.add_argument("--million-tokens", type=float, default=10, help=f"of the job; {DEFAULT}")
    fits.set_defaults(command=_fits)


def _fits(options: argparse.Namespace) -> int:
    from workbench.errors import HardwareError

    if options.gpu:
        return _on_gpu(options)
    if options.model:
        return _cheapest(options)
    raise HardwareError("fits needs --gpu L4 (what fits it?) or --model llama-3.1-8b (which GPU for it?).")


def _on_gpu(options: argparse.Namespace) -> int:
    from workbench.cost.fits import BATCHES, LENGTHS, RANK, fits
    from workbench.cost.gpus import GIB, find_gpu
    from workbench.memory.configs import shipped

    gpu = find_gpu(options.gpu)
    price = "no price" if gpu.price_per_hour is None else f"${gpu.price_per_hour:.2f} an hour ({gpu.price_source}, "
    price += "" if gpu.price_per_hour is None else f"{gpu.price_date})"
    print(f"{gpu.name}: {gpu.usable_bytes / GIB:.1f} GiB usable, {price}. {gpu.limits}".rstrip())
    print(f"With checkpointing, rank {RANK} on all linear layers; full and hybrid with float32 masters.\n")
    models = [options.model] if options.model else shipped()
    print(f"| model | method | longest row, tokens | rows of {options.length:,} tokens |\n|---|---|---|---|")
    for fit in fits(gpu, models, options.length):
        cells = [
            f"{size:,}{' or more' if size == most else ''}" if size else "does not fit"
            for size, most in ((fit.longest, LENGTHS[-1]), (fit.rows, BATCHES[-1]))
        ]
        print(f"| {fit.model} | {fit.method} | {' | '.join(cells)} |", flush=True)
    return 0


def _cheapest(options: argparse.Namespace) -> int:
    from workbench.cost.fits import cheapest_gpus

    tokens = options.million_tokens * 1e6
    found = cheapest_gpus(options.model, tokens, options.batch_size, options.length)
    step = f"{options.batch_size} x {options.length} tokens a step"
    print(f"{options.model}, {step}, {options.million_tokens:g} million tokens:\n")
    print("| method | GPU | hours (nine of ten runs) | dollars | price of | efficiency |\n|---|---|---|---|---|---|")
    for method, choices in found.items():
        if not choices:
            print(f"| {method} | fits no single GPU of the table |")
        for best, assumed in choices:
            slow, fast = (best.hours * assumed.share / share for share in (assumed.low, assumed.high))
            hours = f"{best.hours:.2g} ({fast:.2g} to {slow:.2g})"
            price = f"{best.gpu.price_source}, {best.gpu.price_date}"
            source = "other GPUs" if assumed.family == "any" else assumed.family
            told = f"{assumed.share:.0%}, of {assumed.runs} published runs on {source}"
            print(f"| {method} | {best.gpu.name} | {hours} | {best.money:.2f} | {price} | {told} |")
    return 0
