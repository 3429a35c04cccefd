"""Label scores and answers of bases whose caches hold states, which cannot be repeated or taken up again.

Reported for others as huggingface/transformers#48305 (Qwen3.5 and other hybrids).
"""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from support.labels import label_accuracy
from support.small_tokenizers import make_tokenizer
from workbench.models.base import Base
from workbench.models.padding_free import use_row_attention
from workbench.scoring import label_scores
from workbench.scoring.evaluation import answers, evaluate, label_choices
from workbench.tasks import Example, Task, encode

pytestmark = pytest.mark.slow  # many families of models

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 800,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
NO_HEADS = {"num_attention_heads": ..., "num_key_value_heads": ...}
LINEAR = {
    "num_hidden_layers": 4,
    "head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
MAMBA = {"mamba_n_heads": 4, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 16}
JAMBA = {"num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1}
REPEATABLE = {
    "llama": {},
    "gemma2": {"head_dim": 8, "sliding_window": 8},
    "mistral": {"sliding_window": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
}
STATES = {
    "lfm2": {"full_attn_idxs": [1], "block_ff_dim": 64},
    "qwen3_next": {**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": LINEAR,
    "mamba": {**NO_HEADS, "state_size": 8},
    "mamba2": {**NO_HEADS, "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 16},
    "falcon_h1": {**MAMBA, "head_dim": 8, "mamba_d_ssm": 32, "mamba_d_head": 8},
    "bamba": {**MAMBA, "mamba_d_head": 16, "attn_layer_indices": [1]},
    "jamba": {**JAMBA, "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "recurrent_gemma": {"head_dim": 8, "lru_width": 32, "block_types": ["recurrent", "recurrent", "attention"]},
    "minimax": {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
    "rwkv": {"attention_hidden_size": 32},
}
LABELS = ("no", "perhaps a little", "yes")
ROWS = tuple(
    Example(f"{start} the {word} done?\nAnswer:", f" {label}")
    for start, word, label in zip(
        ("Is", "Was", "Were", "Is"), ("work", "job", "tests", "day"), [*LABELS, "yes"], strict=True
    )
)
TASK = Task("done", ROWS, ROWS, LABELS, "test", "0")


def make_base(family: str, kind: str = "bytes") -> Base:
    fields = {**SIZES, **{**REPEATABLE, **STATES}[family]}
    config = AutoConfig.for_model(family, **{name: value for name, value in fields.items() if value is not ...})
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.requires_grad_(False)
    for parameter in model.parameters():  # as initialised, labels would hardly differ
        parameter.mul_(4) if parameter.dim() > 1 else None
    return Base(model, make_tokenizer(kind), family, "0", "directory", None, torch.float32)


def likelihood(base: Base, prompt: str, label: str) -> float:
    """One plain forward pass for one prompt and one label."""
    (row,) = encode([Example(prompt, f" {label}")], base.tokenizer, 99)
    ids = torch.tensor([row.ids])
    logits = base.model(input_ids=ids, use_cache=False).logits[0, row.prompt_length - 1 : -1].log_softmax(-1)
    return logits.gather(1, ids[0, row.prompt_length :, None]).sum().item()


def plain_accuracy(base: Base) -> float:
    chosen = [max(LABELS, key=lambda label, row=row: likelihood(base, row.prompt, label)) for row in ROWS]
    return sum(row.completion.strip() == label for row, label in zip(ROWS, chosen, strict=True)) / len(ROWS)


@pytest.mark.parametrize("family", [*REPEATABLE, *STATES])
def test_labels_score_as_one_by_one(family):
    base = make_base(family)
    with torch.no_grad():
        prompts, labels = (torch.arange(60).view(2, 30) % 17).tolist(), [(5, 6, 7, 8, 1), (9, 1)]
        found = label_scores.label_likelihoods(base.model, prompts, [labels, labels])
        for row, ids in enumerate(prompts):
            for column, label in enumerate(labels):
                whole = torch.tensor([[*ids, *label]])
                logits = base.model(input_ids=whole, use_cache=False).logits[0, 29:-1].log_softmax(-1)
                wanted = logits.gather(1, torch.tensor(label)[:, None]).sum().item()
                assert found[row][column] == pytest.approx(wanted, abs=1e-3)
        assert label_accuracy(base.model, base.tokenizer, TASK) == plain_accuracy(base)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_prompt_is_read_once_where_the_model_can_leave_padding_out(family):
    base, read = make_base(family), []
    use_row_attention(base.model)
    base.model.register_forward_pre_hook(lambda _, __, given: read.append(given["input_ids"].numel()), with_kwargs=True)
    with torch.no_grad():
        label_scores.label_likelihoods(base.model, [[5, 6, 7, 8]], [[(9, 1), (10, 11, 1), (12, 1)]])
        assert read == [4 + 1 + 2 + 1]
        assert label_accuracy(base.model, base.tokenizer, TASK) == plain_accuracy(base)


@pytest.mark.parametrize("family", ["mamba", "qwen3_next", "rwkv", "recurrent_gemma", "jamba"])
def test_answers_are_greedy_whatever_the_cache(family):
    base = make_base(family)
    ids = base.tokenizer(ROWS[0].prompt)["input_ids"]
    asked = len(ids)
    with torch.no_grad():
        while len(ids) < asked + 5 and ids[-1] != base.tokenizer.eos_token_id:
            ids.append(base.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item())
    assert answers(base, ROWS[:1], 5) == [base.tokenizer.decode(ids[asked:], skip_special_tokens=True).strip()]


@pytest.mark.parametrize("family", ["lfm2", "mamba2", "falcon_h1", "llama"])
def test_a_labelled_task_is_evaluated_whole(family):
    base = make_base(family)
    with torch.no_grad():
        assert evaluate(base, TASK, limit=4)["label_accuracy"] == plain_accuracy(base)


@pytest.mark.parametrize("kind", ["first mark", "every mark", "llama 2", "bytes after a space", "word pieces"])
def test_labels_are_read_as_what_goes_on_with_their_prompt(kind):
    """After "Answer:\\n" a label has no space in front, whatever the tokenizer puts where a text begins."""
    rows = tuple(Example(row.prompt + "\n", row.completion.strip()) for row in ROWS)
    base, task = make_base("llama", kind), Task("done", rows, rows, LABELS, "test", "0")
    choices = label_choices(base.tokenizer, task, encode(rows, base.tokenizer, 99))
    wanted = encode([Example(rows[0].prompt, label) for label in LABELS], base.tokenizer, 99)
    assert {choice.labels for choice in choices} == {tuple(row.ids[row.prompt_length :] for row in wanted)}


@pytest.mark.parametrize("family", ["recurrent_gemma", "mamba", "rwkv", "llama"])
def test_a_model_is_scored_whatever_its_last_training_step_left_in_it(family):
    """RecurrentGemma keeps the states of its last pass, with their graph, which cannot be copied."""
    base = make_base(family)
    base.model.requires_grad_(True)
    base.model(input_ids=torch.arange(12)[None], use_cache=False)
    with torch.no_grad():
        assert evaluate(base, TASK, limit=4)["label_accuracy"] == plain_accuracy(base)
