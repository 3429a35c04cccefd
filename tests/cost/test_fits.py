"""What fits a GPU, and the cheapest one for a job."""

import pytest

from workbench.cli import main
from workbench.cost.fits import BATCHES, CHOICES, LENGTHS, cheapest_gpus, fits, setups
from workbench.cost.gpus import gpus
from workbench.memory import estimate

MODELS = ("llama-3.2-1b", "llama-3.1-8b")
L4 = gpus()["L4"]


def test_what_fits_is_as_large_as_it_can_be():
    found = fits(L4, MODELS)
    assert [(fit.model, fit.method) for fit in found] == [
        (model, method) for model in MODELS for method in setups(model)
    ]
    for fit in found:
        setup = setups(fit.model)[fit.method]
        for sizes, best, name in ((LENGTHS, fit.longest, "sequence_length"), (BATCHES, fit.rows, "batch_size")):
            other = {"batch_size": 1} if name == "sequence_length" else {"sequence_length": 1024}
            for size in {best, 2 * best if best else sizes[0]} - {None}:
                report = estimate(fit.model, setup, **other, **{name: size})
                assert L4.fits(report.total_bytes) == (size == best) or size > sizes[-1]
    rows = {(fit.model, fit.method): fit.rows for fit in found}
    assert rows["llama-3.1-8b", "full"] is None and rows["llama-3.1-8b", "QLoRA"] and rows["llama-3.2-1b", "full"]


def test_the_cheapest_gpus_hold_the_job_and_adapters_cost_less():
    found = cheapest_gpus("llama-3.1-8b", 10e6)
    for method, choices in found.items():
        report = estimate("llama-3.1-8b", setups("llama-3.1-8b")[method], batch_size=1, sequence_length=1024)
        assert [job.money for job, _ in choices] == sorted(job.money for job, _ in choices)
        for job, assumed in choices:
            assert job.gpu.fits(report.total_bytes) and assumed.low <= assumed.share <= assumed.high
    assert len(found["LoRA"]) == CHOICES and found["LoRA"][0][0].money < found["full"][0][0].money


def test_the_command_lists_what_fits(capsys):
    assert main(["fits", "--gpu", "L4", "--model", "llama-3.2-1b"]) == 0
    told = capsys.readouterr().out
    assert "L4: 22.0 GiB usable, $0.80 an hour (Modal, 2026-05)." in told
    assert told.count("| llama-3.2-1b |") == 4 and "| llama-3.2-1b | full |" in told
    assert main(["fits", "--model", "llama-3.1-8b", "--million-tokens", "3"]) == 0
    told = capsys.readouterr().out
    assert "3 million tokens" in told and told.count("| LoRA |") == CHOICES
    assert main(["fits", "--gpu", "Mac M4 Max 128 GB", "--model", "llama-3.2-1b"]) == 0
    assert "no price. memory is shared with the CPU" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "fits needs --gpu L4 (what fits it?) or --model"),
        (["--gpu", "L5"], "There is no GPU 'L5' in the table; use one of T4"),
        (["--model", "no-such-model"], "names known here"),
        (["--gpu", "L4", "--model", "llama-3.2-1b", "--length", "0"], "must be a whole number of at least 1"),
    ],
)
def test_the_command_refuses_with_one_sentence(arguments, words, capsys):
    assert main(["fits", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("workbench: ") and words in told and told.count("\n") == 1
