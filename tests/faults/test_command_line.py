"""What Python takes, the shell takes too; and what the command prints may have no reader, room or letters."""

import argparse
import io
import os
import sys

import pytest

import workbench.cli
from workbench.adapters.methods import Method, hybrid, lora, qlora
from workbench.cli import main, parser
from workbench.cli.runs import task
from workbench.cli.train import _method
from workbench.tasks import load_task


def test_columns_subset_labels_and_fraction_reach_the_task(tmp_path, monkeypatch):
    path = tmp_path / "mine.csv"
    path.write_text("q,a\n" + "".join(f"Ask {i},{i % 2}\n" for i in range(10)))
    typed = ["--task", str(path), "--prompt-column", "q", "--completion-column", "a"]
    for command in ("train", "sweep"):
        found = task(parser().parse_args([command, *typed, "--labelled", "--test-fraction", "0.4"]))
        assert found.labels == ("0", "1") and len(found.test) == 4
        plain = task(parser().parse_args([command, *typed]))
        assert plain.labels is None and len(plain.test) == 2
    asked, whole = [], load_task("facts")
    monkeypatch.setattr(
        "workbench.tasks.tasks.load_task", lambda *args, **options: asked.append((args, options)) or whole
    )
    task(parser().parse_args(["train", "--task", "somebody/data", "--subset", "en"]))
    assert asked[0][0] == ("somebody/data",) and asked[0][1]["subset"] == "en"


@pytest.mark.parametrize(
    ("typed", "method"),
    [
        (["--layers", "0,2", "--dropout", "0.1"], lora(layers=[0, 2], dropout=0.1)),
        (["--method", "qlora", "--layers", "1"], qlora(layers=[1])),
        (["--method", "hybrid", "--full-modules", "norm", "--layers", "1"], hybrid(["norm"], layers=[1])),
    ],
)
def test_layers_and_dropout_reach_the_method(typed, method):
    assert _method(parser().parse_args(["train", *typed])) == method


def test_layers_and_dropout_reach_every_method_of_a_sweep(monkeypatch):
    asked: list[list[Method]] = []

    def remember(base, data, methods, *args, **options):
        asked.append(methods)
        return []

    monkeypatch.setattr("workbench.sweeps.sweep.sweep", remember)
    monkeypatch.setattr("workbench.cli.sweep.base", lambda *_: None)
    monkeypatch.setattr("workbench.cli.sweep._print_sweep", lambda _: None)
    main(["sweep", "--ranks", "1,2", "--layers", "0,1", "--dropout", "0.2"])
    assert asked == [[lora(rank, layers=[0, 1], dropout=0.2) for rank in (1, 2)]]


@pytest.mark.parametrize("typed", [["--layers", "0"], ["--dropout", "0.1"]])
@pytest.mark.parametrize("method", ["full", "auto"])
def test_a_method_that_does_not_use_them_refuses_them(typed, method, capsys):
    assert main(["train", "--method", method, *typed]) == 2
    assert f"workbench: {typed[0]}: " in capsys.readouterr().err


def test_layers_that_are_no_numbers_are_wrong_usage(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--layers", "first"])
    assert "invalid list of whole numbers value: 'first'" in capsys.readouterr().err


# --- output


@pytest.fixture
def printing(monkeypatch):
    """Make `workbench say` the one command, which prints the given words."""

    def command(words: str) -> None:
        whole = argparse.ArgumentParser()
        whole.add_argument("say")
        whole.set_defaults(command=lambda _: print(words) or 0)
        monkeypatch.setattr(workbench.cli, "parser", lambda: whole)

    return command


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_letters_that_the_terminal_lacks_are_written_as_codes(printing, monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    printing("saved in /home/\u0141ukasz/\udcff")
    assert main(["say"]) == 0
    assert raw.getvalue().decode(encoding).startswith("saved in /home/") and rb"\udcff" in raw.getvalue()


def without_reader() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("words", ["a line", "a long line " * 10_000])
@pytest.mark.parametrize("place", ["a pipe without a reader", "/dev/full"])
def test_a_reader_that_has_gone_and_a_full_disk_are_a_sentence(printing, monkeypatch, capsys, place, words):
    if place == "/dev/full" and not os.path.exists(place):
        pytest.skip("no /dev/full here")
    printing(words)
    with open(place if place == "/dev/full" else without_reader(), "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert main(["say"]) == 1
    assert capsys.readouterr().err.startswith("workbench: the output could not be written (")


def test_a_closed_output_is_no_fault(printing, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    printing("words")
    assert main(["say"]) == 0


def test_other_faults_of_files_are_not_taken_for_it(monkeypatch):
    def fail(_):
        raise FileNotFoundError("a file of ours")

    whole = argparse.ArgumentParser()
    whole.add_argument("say")
    whole.set_defaults(command=fail)
    monkeypatch.setattr(workbench.cli, "parser", lambda: whole)
    with pytest.raises(FileNotFoundError):
        main(["say"])
