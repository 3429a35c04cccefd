"""`workbench memory`."""

import json

import pytest

from support.memory_configs import CONFIGS
from workbench.cli import main


def test_the_command_prints_the_report(tmp_path, capsys):
    CONFIGS["llama"].save_pretrained(tmp_path)
    arguments = ["memory", str(tmp_path), "--method", "lora", "--rank", "4", "--targets", "q_proj,v_proj", "--dora"]
    arguments += ["--batch-size", "2", "--sequence-length", "64", "--dtype", "bfloat16", "--optimizer", "adamw"]
    for extra in ([], ["--checkpointing", "--simulate"]):
        assert main([*arguments, *extra, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["peak_allocated_bytes"] == sum(report["components"].values()) and report["seconds"] > 0
        assert report["peak_reserved_bytes"] + report["context_bytes"] == report["total_bytes"]
    for options in (["--method", "full"], ["--method", "hybrid", "--full-modules", "layers.1.mlp"]):
        assert main(["memory", str(tmp_path), *options]) == 0
        assert "what the GPU must have free" in capsys.readouterr().out


def test_the_command_has_every_setting_of_a_step(capsys):
    def setup(*options: str) -> dict:
        assert main(["memory", "llama-3.2-1b", "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)["setup"]

    plain = setup()
    split = setup("--loss", "fused", "--gpus", "2", "--offload", "--packed", "--attention", "flash", "--free-outputs")
    assert {name for name in plain if split[name] != plain[name]} == {
        "loss",
        "gpus",
        "offload",
        "packed",
        "attention",
        "keep_outputs",
    }
    bits = setup("--method", "qlora", "--adapter-dtype", "bfloat16", "--unprepared", "--single-quantization")
    assert (bits["adapter_dtype"], bits["prepared"], bits["double_quantization"]) == ("bfloat16", False, False)
    assert setup("--optimizer", "paged_adamw8bit")["optimizer"] == "paged_adamw8bit"
    assert setup("--accumulate")["accumulate"] and not plain["accumulate"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-model"], "names known here"),
        (["llama-3.2-1b", "--dtype", "int3"], "dtype='int3' is not known"),
        (["llama-3.2-1b", "--targets", "c_attn"], "q_proj"),
        (["llama-3.2-1b", "--method", "hybrid"], "needs full_modules"),
        (["llama-3.2-1b", "--method", "full", "--dora"], "--dora: full fine-tuning has no adapters"),
        (["llama-3.2-1b", "--method", "full", "--rank", "64", "--targets", "nonsense"], "--rank, --targets: full"),
        (["llama-3.2-1b", "--method", "full", "--full-modules", "lm_head"], "--full-modules: full fine-tuning"),
        (["llama-3.2-1b", "--rank", "0"], "rank=0 must be a whole number"),
    ],
)
def test_the_command_refuses_with_one_sentence_and_exit_code_2(arguments, words, capsys):
    assert main(["memory", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("workbench: ") and words in told and told.count("\n") == 1
