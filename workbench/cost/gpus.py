"""The table of GPUs: memory, speed by the data sheet, and price."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace

from workbench.errors import HardwareError
from workbench.paths import DATA

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A row of data/gpus.csv.

    family: the architecture. sold_gb: memory by the data sheet. usable_bytes: memory that torch sees, which is less.
    flops_per_second: dtype -> rate of dense products by the data sheet; without bfloat16 if the GPU does not have it.
    price_per_hour: US dollars; None if the table has no price. limits: what keeps trainings from running, in words.
    """

    name: str
    family: str
    sold_gb: float
    usable_bytes: float
    flops_per_second: Mapping[str, float]
    bytes_per_second: float
    price_per_hour: float | None
    price_source: str
    price_date: str
    limits: str = ""

    def rate(self, dtype: str) -> float:
        """FLOP/s in `dtype`. Raises HardwareError if the table has none."""
        if dtype not in self.flops_per_second:
            known = " or ".join(self.flops_per_second)
            raise HardwareError(f"The table has no {dtype} rate for the {self.name}; use {known}.")
        return self.flops_per_second[dtype]

    @property
    def dollars_per_hour(self) -> float:
        """The price. Raises HardwareError if the table has none and none was given."""
        if self.price_per_hour is None:
            raise HardwareError(
                f"The table has no price of the {self.name}: give your own, gpus({{{self.name!r}: 0.5}})."
            )
        return self.price_per_hour

    @property
    def dtype(self) -> str:
        """The dtype that a run would compute in: bfloat16 if the GPU has it, else float16 (of the same size)."""
        return next(iter(self.flops_per_second))

    def fits(self, total_bytes: float) -> bool:
        """Whether a step of `total_bytes`, CUDA context included, fits."""
        return total_bytes <= self.usable_bytes


def gpus(prices: Mapping[str, float] | None = None) -> dict[str, Gpu]:
    """Every GPU of the table by name, smallest first.

    prices: name -> your own price in US dollars per hour. Raises HardwareError for an unknown name or a price below 0.
    """
    with (DATA / "gpus.csv").open(encoding="utf-8", newline="") as file:
        table = {row["name"]: _gpu(row) for row in csv.DictReader(file)}
    for name, price in (prices or {}).items():
        gpu = _known(name, table)
        if not price >= 0:
            raise HardwareError(f"The price of {name}, {price}, must be at least 0; give US dollars per hour.")
        table[name] = replace(gpu, price_per_hour=price, price_source="yours", price_date="now")
    return table


def find_gpu(name: str) -> Gpu:
    """The GPU of this name. Raises HardwareError if the table has none."""
    return _known(name, gpus())


def _known(name: str, table: Mapping[str, Gpu]) -> Gpu:
    if name not in table:
        raise HardwareError(f"There is no GPU {name!r} in the table; use one of {', '.join(table)}.")
    return table[name]


def gpu_named(device: str) -> Gpu | None:
    """The row of the table for a device as torch names it ("NVIDIA A100-SXM4-80GB"); None if there is none."""
    plain = "".join(letter for letter in device.lower() if letter.isalnum())
    found = [gpu for gpu in gpus().values() if all(part in plain for part in _parts(gpu.name))]
    return max(found, key=lambda gpu: len(gpu.name), default=None)


def _parts(name: str) -> list[str]:
    """What must be in a device's name: "A100 80 GB" -> "a100" and "80gb"."""
    return name.lower().replace(" gb", "gb").split()


def priced(table: Mapping[str, Gpu]) -> dict[str, Gpu]:
    """The GPUs of a table that have a price."""
    return {name: gpu for name, gpu in table.items() if gpu.price_per_hour is not None}


def _gpu(row: Mapping[str, str]) -> Gpu:
    rates = {"bfloat16": row["bf16_tflops"], "float16": row["fp16_tflops"]}
    return Gpu(
        row["name"],
        row["family"],
        float(row["sold_gb"]),
        float(row["usable_gib"]) * GIB,
        {dtype: float(rate) * 1e12 for dtype, rate in rates.items() if rate},
        float(row["gb_per_s"]) * 1e9,
        float(row["price_per_hour"]) if row["price_per_hour"] else None,
        row["price_source"],
        row["price_date"],
        row["limits"],
    )
