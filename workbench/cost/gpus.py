"""GPUs and money: what fits on which GPU, how long a step takes at least, and what a job or a service costs.

The bound is a roofline: in each phase of a step a GPU can be no faster than its arithmetic (FLOPs / FLOP per second)
and no faster than its memory (bytes / bytes per second). Nobody reaches it: kernels start and end, element-wise work
goes through memory again and again, and nothing is as large as the data sheet's best case. So it is divided by an
efficiency, a share that you can see and move.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workbench.errors import HardwareError
from workbench.paths import DATA

if TYPE_CHECKING:
    pass

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A row of data/gpus.csv. Rates are the data sheet's, dense; the price is in US dollars for one GPU-hour.

    usable_bytes: what torch can see of it, which is less than what it is sold as (sold_gb). flops_per_second: dtype ->
    rate, without bfloat16 where the GPU has none.
    """

    name: str
    sold_gb: float
    usable_bytes: float
    flops_per_second: Mapping[str, float]
    bytes_per_second: float
    price_per_hour: float
    price_source: str
    price_date: str

    def rate(self, dtype: str) -> float:
        """FLOP/s in `dtype`. Raises HardwareError where the table has none."""
        if dtype not in self.flops_per_second:
            known = " or ".join(self.flops_per_second)
            raise HardwareError(f"There is no rate for {dtype} on a {self.name}; compute in {known}.")
        return self.flops_per_second[dtype]

    @property
    def dtype(self) -> str:
        """What a run would compute in: bfloat16 where the GPU has it, else float16 (of the same size)."""
        return next(iter(self.flops_per_second))

    def fits(self, total_bytes: float) -> bool:
        """Whether a step of so many bytes, the CUDA context among them, fits."""
        return total_bytes <= self.usable_bytes


def gpus(prices: Mapping[str, float] | None = None) -> dict[str, Gpu]:
    """Every GPU of the table by name, smallest first. prices: name -> your own price in US dollars an hour."""
    with (DATA / "gpus.csv").open(encoding="utf-8", newline="") as file:
        table = {row["name"]: _gpu(row) for row in csv.DictReader(file)}
    for name, price in (prices or {}).items():
        if name not in table:
            raise HardwareError(f"There is no GPU {name!r} in the table; there are {', '.join(table)}.")
        if not price >= 0:
            raise HardwareError(f"A price of {price} for {name} makes no sense; give US dollars an hour.")
        table[name] = replace(table[name], price_per_hour=price, price_source="yours", price_date="now")
    return table


def _gpu(row: Mapping[str, str]) -> Gpu:
    rates = {"bfloat16": row["bf16_tflops"], "float16": row["fp16_tflops"]}
    return Gpu(
        row["name"],
        float(row["sold_gb"]),
        float(row["usable_gib"]) * GIB,
        {dtype: float(rate) * 1e12 for dtype, rate in rates.items() if rate},
        float(row["gb_per_s"]) * 1e9,
        float(row["price_per_hour"]),
        row["price_source"],
        row["price_date"],
    )
