"""What lesson 04 says in words is what the estimate says."""

from dataclasses import replace

import pytest

from workbench.commentary import fits_my_gpu as say
from workbench.cost.gpus import gpus, priced
from workbench.cost.grid import QLORA, SETTINGS
from workbench.cost.published import published_runs
from workbench.memory.closed_form import estimate


@pytest.fixture(scope="module")
def found():
    return say.needs(1, 512)


def test_more_trained_means_more_memory_and_the_smallest_gpu_holds_it(found):
    for reports in found.values():
        sizes = [reports[method].total_bytes for method in say.METHODS]
        assert sizes == sorted(sizes)
    table = priced(gpus())
    for reports in found.values():
        for report in reports.values():
            name = say.smallest(report.total_bytes)
            smaller = [gpu for gpu in table.values() if name in table and gpu.usable_bytes < table[name].usable_bytes]
            assert name == "no single GPU" or table[name].fits(report.total_bytes)
            assert not any(gpu.fits(report.total_bytes) for gpu in smaller)
    assert say.smallest(1e15) == "no single GPU"


def test_the_sum_is_sixteen_bytes_and_two():
    row = next(line for line in say.sum_in_words().splitlines() if line.startswith("| 1B"))
    assert "1.24 billion numbers" in row and "19.8 GB" in row and "2.7 GB" in row


def test_the_sum_of_qlora_is_what_the_estimate_holds_at_rest():
    """All linear layers in 4 bits and the rest in float32, and adapters with their gradients and averages."""
    told = {line.split(" ")[1]: float(line.split("|")[-2].split()[0]) for line in say.sum_in_words().splitlines()[2:]}
    for size, name in say.MODELS.items():
        parts = estimate(name, replace(SETTINGS[QLORA], batch_size=1, sequence_length=1)).components
        states = parts["weights"] + parts["adapters"] + parts["gradients"] + parts["optimizer state"]
        assert told[size] == pytest.approx(states / 1e9, abs=0.1 + 0.02 * states / 1e9)


def test_the_answer_depends_on_the_gpu(found):
    small, large = (say.answer(gpus()[name], found, 0.05) for name in ("T4", "B200"))
    assert small.startswith("**The answer:** Of models of 1B, 3B, 7B, 8B, a T4 with 16 GB holds:")
    assert "full with float32 weights up to" in large and "full with float32 weights none" in small
    assert "full in bfloat16 up to 1B" in small and "were within 5%" in large


def test_tables_have_a_row_for_each(found):
    assert say.needs_in_words(found).count("\n") == 1 + len(say.MODELS)
    text, memory_error, speed_error = say.published_in_words(published_runs())
    assert text.count("\n") == 1 + len(published_runs()) and 0 < memory_error < 0.2 and 0 < speed_error < 1


def test_the_title_compares_each_method_with_itself(found):
    without = say.needs(1, 512, checkpointing=False)
    bars = {"LoRA": without["1B"]["LoRA"], "LoRA, checkpointing": found["1B"]["LoRA"]}
    ratio = bars["LoRA"].total_bytes / bars["LoRA, checkpointing"].total_bytes
    assert say.checkpointing_title(bars) == f"Checkpointing cuts memory {ratio:.2g} times (LoRA)"
