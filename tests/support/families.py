"""What the workbench does with a decoder of each family, tried on small random weights: the table in FAMILIES.md.

`make families` writes it; tests/faults/test_families.py fails when it is not what is found.
"""

from __future__ import annotations

import gc
import os
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from support.small_tokenizers import make_tokenizer
from workbench import RunStore, TrainConfig, adapters, load_base, lora, memory, qlora, sweep, train
from workbench.errors import WorkbenchError
from workbench.tasks.example import Example
from workbench.tasks.tasks import Task

TABLE = Path(__file__).resolve().parents[2] / "FAMILIES.md"
SIZES = {
    "vocab_size": 640,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
HEADS = {"head_dim": 8}
ROUTED = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
GROUPED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1}
GROUPED |= {"num_hidden_layers": 2, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4}
STATES = {"num_hidden_layers": 2, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
OLD_NAMES = {"n_embd": 32, "n_layer": 1, "n_head": 4}  # of GPT-2 and its kin
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": HEADS,
    "gemma2": HEADS,
    "gemma3_text": HEADS,
    "phi": {},
    "phi3": {},
    "olmo2": {},
    "cohere": {},
    "granite": {},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "glm4": HEADS,
    "gpt2": OLD_NAMES,
    "openai-gpt": OLD_NAMES | {"n_positions": 256},
    "gpt_neox": {},
    "gptj": OLD_NAMES | {"rotary_dim": 8},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 1, "n_head": 4},
    "falcon": {},
    "mixtral": ROUTED,
    "qwen3_moe": ROUTED | HEADS,
    "phimoe": ROUTED,
    "deepseek_v3": GROUPED | LATENT,
    "gpt_oss": ROUTED | HEADS,
    "mamba": {"state_size": 8},
    "bamba": STATES | {"attn_layer_indices": [1]},
    "granitemoehybrid": ROUTED | STATES | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
    "lfm2": {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]},
}
CONFIG = TrainConfig(steps=1, batch_size=2, evaluate=False)
HEADING = """# Families of decoders

Tried with transformers {version} on small models with random weights: the table says what runs, not what is learned.
"no": refused, with the sentence below the table. memory: predicted by `simulate` for LoRA with its default settings.
Written by `make families`; tests/faults/test_families.py fails when it is not what is found.

"""


def rows() -> Task:
    """A few short rows."""
    examples = tuple(Example(f"The number after {number} is", f" {number + 1}") for number in range(4))
    return Task("numbers", examples, examples[:2], None, "here", "0" * 64)


def write_base(family: str, folder: Path) -> Path:
    """A random model of this family with a tokenizer of its own, saved in a folder."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SIZES | FAMILIES[family])
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    make_tokenizer("bytes").save_pretrained(folder)
    return folder


def tried(family: str, scratch: Path) -> dict[str, str]:
    """What each step gives for this family: "yes", or the sentence that it is refused with.

    An exception that is not the workbench's own is raised.
    """
    folder, store = write_base(family, scratch / family), RunStore(scratch / "runs")
    found: dict[str, Any] = {}

    def load() -> None:
        found["base"] = load_base(folder, dtype="float32")

    def train_adapter() -> None:
        found["run"] = train(found["base"], rows(), lora(rank=2), CONFIG, store)

    def train_together() -> None:
        sweep(found["base"], rows(), [lora(rank=1), lora(rank=2, dropout=0.1)], CONFIG, store)

    def train_in_4_bits() -> None:
        train(load_base(folder, "nf4", dtype="float32"), rows(), qlora(rank=2), CONFIG, store)

    def merge() -> None:
        adapters.merge(found["base"].model, adapters.load(found["base"], found["run"].artifact_dir))

    def predict() -> None:
        memory.simulate(folder, lora(rank=2), 1, 8)

    steps = {"loads": load, "trains": train_adapter, "sweeps": train_together, "quantizes": train_in_4_bits}
    steps |= {"merges": merge, "memory": predict}
    return {
        step: _outcome(run, scratch) if step in ("loads", "memory") or "base" in found else "-"
        for step, run in steps.items()
    }


def _outcome(step: Callable[[], None], scratch: Path) -> str:
    try:
        step()
    except KeyError:
        return "-"  # what it starts from was refused
    except WorkbenchError as error:
        return re.sub(re.escape(f"{scratch.resolve()}/"), "", str(error)).replace(f"{scratch}/", "")
    return "yes"


def lines_of(family: str, outcomes: dict[str, str]) -> tuple[str, list[str]]:
    """A family's row of the table, and a line for each sentence."""
    cells = [outcome if outcome in ("yes", "-") else "no" for outcome in outcomes.values()]
    sentences = [f"- {family}, {step}: {said}" for step, said in outcomes.items() if said not in ("yes", "-")]
    return f"| {family} | {' | '.join(cells)} |", sentences


def quiet() -> None:
    """Without the warnings and bars of other libraries."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def write() -> None:
    """Try every family and write the table."""
    quiet()
    gc.freeze()  # Accelerate collects garbage after each training
    table, sentences = ["| family | loads | trains | sweeps | quantizes | merges | memory |", f"|{' --- |' * 7}"], []
    with tempfile.TemporaryDirectory() as scratch:
        for family in FAMILIES:
            row, said = lines_of(family, tried(family, Path(scratch)))
            print(row, *said, sep="\n", flush=True)
            table.append(row)
            sentences += said
    heading = HEADING.format(version=transformers.__version__)
    TABLE.write_text(heading + "\n".join([*table, "", "## Refused with this sentence", "", *sentences, ""]), "utf-8")


if __name__ == "__main__":
    os.environ.update(HF_HUB_OFFLINE="1", WORKBENCH_PROGRESS="0")
    write()
