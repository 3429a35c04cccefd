"""The table of GPUs: sources, memory, dtypes and prices."""

import csv
import re

import pytest

from workbench.cost.gpus import GIB, gpu_named, gpus, priced
from workbench.cost.roofline import Phase, job
from workbench.errors import HardwareError
from workbench.paths import DATA

TABLE = gpus()
PHASES = [Phase("forward", 2e12, 1e9), Phase("backward", 4e12, 2e9), Phase("optimizer step", 0.0, 6e9)]


def test_every_row_has_sources_and_dates():
    with (DATA / "gpus.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(TABLE) and len(TABLE) >= 12
    for row in rows:
        assert re.search(r"20\d\d$", row["spec_source"]) and re.search(r"20\d\d-\d\d$", row["usable_source"])
        if row["price_per_hour"]:
            dated = re.fullmatch(r"20\d\d-\d\d", row["price_date"])
            assert row["price_source"] and dated and float(row["price_per_hour"]) > 0
        else:
            assert row["limits"] and not row["price_source"] + row["price_date"]
        assert row["kind"] in ("consumer", "workstation", "data centre", "unified memory") and row["family"]
    new = {"RTX 5080", "RTX 5090", "RTX PRO 6000", "L40S", "H200", "B200", "MI300X", "Mac M4 Max 128 GB"}
    assert new <= TABLE.keys()


def test_usable_memory_is_less_than_what_is_sold():
    for gpu in TABLE.values():
        # "80 GB" is 80 GiB of chips or 80 * 10^9 bytes, depending on the maker; torch sees less than the former
        least = 0.8 if gpu.family == "Apple" else 0.85  # of a Mac's memory the GPU gets three quarters (of GiB)
        assert least * gpu.sold_gb * 1e9 < gpu.usable_bytes < gpu.sold_gb * GIB
    l4 = TABLE["L4"]
    assert l4.fits(l4.usable_bytes) and not l4.fits(l4.usable_bytes + 1) and not l4.fits(24 * GIB)


def test_a_t4_has_no_bfloat16():
    t4, l4 = TABLE["T4"], TABLE["L4"]
    assert (t4.dtype, l4.dtype) == ("float16", "bfloat16") and l4.rate("float16") == 121e12
    with pytest.raises(HardwareError, match="no bfloat16 rate for the T4; use float16"):
        t4.rate("bfloat16")


def test_prices_can_be_replaced():
    mine = gpus({"L4": 0.5})["L4"]
    assert (mine.price_per_hour, mine.price_source) == (0.5, "yours")
    assert gpus()["L4"].price_per_hour == 0.80
    assert job(PHASES, mine, 1000, 5e6).money == pytest.approx(job(PHASES, TABLE["L4"], 1000, 5e6).money * 0.5 / 0.8)


def test_a_gpu_without_a_price_takes_yours():
    bought = TABLE["RTX 5080"]
    assert bought.price_per_hour is None and "RTX 5080" not in priced(TABLE)
    with pytest.raises(HardwareError, match=r"no price of the RTX 5080: give your own, gpus\(\{'RTX 5080': 0.5\}\)"):
        job(PHASES, bought, 1000, 5e6)
    assert priced(gpus({"RTX 5080": 0.1}))["RTX 5080"].dollars_per_hour == 0.1


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("AMD Instinct MI300X", "MI300X"),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_device_is_found_by_the_name_that_torch_gives_it(device, name):
    found = gpu_named(device)
    assert (found and found.name) == name
