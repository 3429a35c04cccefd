"""What this computer says of itself, and the measure of a step's memory."""

import json

import pytest
import torch

from workbench import machine


def test_the_peak_counts_what_is_alive_at_once_and_nothing_freed_before(capfd):
    """A million float32 numbers are 4 MB: two live at once inside, then one, beside one that was there before."""
    before = torch.ones(1_000_000)

    def step():
        first = torch.ones(1_000_000)
        second = first * 2
        del first
        third = second + 1
        return third.sum().item()

    result, peak = machine.cpu_peak_bytes(step, [before, before.view(1000, 1000)])
    assert result == 3_000_000
    assert 12_000_000 <= peak < 12_100_000
    assert capfd.readouterr().err == ""


def test_an_error_in_the_measured_step_comes_through():
    def step():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        machine.cpu_peak_bytes(step, [])
    assert machine.cpu_peak_bytes(lambda: 1, [])[0] == 1


def test_step_times_pick_the_precision_of_this_machine_only(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    assert machine.step_times() is None and machine.preferred_dtype() == torch.float32
    machine.save_step_times({"float32": 1.0, "bfloat16": 0.5})
    assert machine.preferred_dtype() == torch.bfloat16
    for slow in (0.95, 7.0, None):
        machine.save_step_times({"float32": 1.0, "bfloat16": slow})
        assert machine.preferred_dtype() == torch.float32
    file = tmp_path / "step_times.json"
    file.write_text(json.dumps({"machine": "another", "seconds": {"float32": 1.0, "bfloat16": 0.1}}))
    assert machine.step_times() is None and machine.preferred_dtype() == torch.float32
    file.write_text("{")
    assert machine.step_times() is None


def test_the_record_of_hardware_and_versions_is_complete():
    assert machine.hardware()["memory_bytes"] > 1e9 and machine.hardware()["processor"]
    assert "not installed" not in machine.versions().values()


def test_a_written_file_is_whole_or_not_there(tmp_path):
    machine.write_json(tmp_path / "new" / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        machine.write_json(tmp_path / "new" / "a.json", {"a": object()})
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"a": 1}
    assert len(list((tmp_path / "new").iterdir())) == 1
