"""What other cells do while a panel trains changes no run, and a run changes nothing of theirs.

pytorch/pytorch#39716 and #90585 (one random generator for all threads), #76580 (dropout takes no generator).
"""

import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from support.quick_training import CONFIG, losses, readable_base, rows
from workbench import evaluate, full, hybrid, lora, sweep, train
from workbench.advice.recommend import bits_to_learn
from workbench.errors import TrainingError
from workbench.scoring.evaluation import answers
from workbench.seeds import RandomNumbers

DRAWING = {
    "adapter": (("llama", {}), lora(rank=2, dropout=0.3)),
    "adapter, dora": (("qwen3", {}), lora(rank=2, dropout=0.3, dora=True)),
    "opened modules": (("gemma2", {}), hybrid(["layers.1.mlp"], rank=2, dropout=0.3)),
    "attention": (("llama", {"attention_dropout": 0.3}), lora(rank=2)),
    "grouped attention": (("qwen2", {"attention_dropout": 0.3, "num_key_value_heads": 2}), lora(rank=2)),
    "residual": (("phi", {"resid_pdrop": 0.3, "embd_pdrop": 0.2}), lora(rank=2)),
    "everything, GPT-2": (("gpt2", {"resid_pdrop": 0.2, "attn_pdrop": 0.2, "embd_pdrop": 0.2}), full(1e-3)),
    "start of the adapters alone": (("mistral", {}), lora(rank=4, init_seed=5)),
}


@contextmanager
def another_thread_draws():
    """A cell that seeds and draws for as long as the block runs."""
    over = threading.Event()

    def draw():
        while not over.is_set():
            torch.manual_seed(1)
            torch.rand(1000)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DRAWING)
def test_a_seed_gives_one_run_whatever_other_threads_draw(store, name):
    (family, fields), method = DRAWING[name]
    base = readable_base(family, **fields)
    torch.manual_seed(7)
    quiet = train(base, rows(), method, CONFIG, store)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(7))), "it drew from ours"
    with another_thread_draws():
        disturbed = train(base, rows(), method, CONFIG, store)
    assert losses(disturbed) == losses(quiet)
    other = train(base, rows(), method, replace(CONFIG, seed=1), store)
    assert losses(other) != losses(quiet)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adapter", "residual", "everything, GPT-2"])
def test_what_is_recomputed_drops_what_it_dropped(store, name):
    (family, fields), method = DRAWING[name]
    base = readable_base(family, **fields)
    plain = train(base, rows(), method, CONFIG, store)
    recomputed = train(base, rows(), method, replace(CONFIG, checkpointing=True), store)
    assert losses(recomputed) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.slow
def test_what_on_step_draws_is_its_own(store):
    def draw(_):
        torch.rand(10)
        nn.functional.dropout(torch.ones(10), 0.5)

    quiet = train(readable_base(), rows(), lora(rank=2, dropout=0.3), CONFIG, store)
    assert losses(train(readable_base(), rows(), lora(rank=2, dropout=0.3), CONFIG, store, draw)) == losses(quiet)


def test_the_numbers_are_those_of_the_global_generator_with_the_same_seed():
    def draw() -> list[torch.Tensor]:
        layer, ones = nn.Linear(20, 30), torch.ones(4, 20)
        nn.init.trunc_normal_(layer.weight)
        q = torch.randn(1, 4, 5, 8)
        attended = nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True, dropout_p=0.4)
        drawn = [nn.Embedding(5, 3).weight, torch.rand(3), torch.randn_like(ones), torch.randperm(9)]
        drawn += [torch.randint(9, (4,)), torch.empty(5).uniform_(), torch.multinomial(torch.ones(4), 2)]
        return [layer.weight, layer.bias, nn.Dropout(0.2)(ones), attended, *drawn]

    torch.manual_seed(3)
    expected = draw()
    numbers = RandomNumbers(3)
    with another_thread_draws(), numbers:
        found = draw()
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)


def test_tensors_without_memory_can_be_initialised_within_the_block():
    with RandomNumbers(0), torch.device("meta"):
        made = torch.nn.Linear(3, 2)
        assert torch.rand_like(torch.nn.init.normal_(made.weight)).is_meta and torch.randn(2).uniform_().is_meta


@pytest.mark.parametrize("masked", ["causal", "boolean", "added", "none"])
def test_attention_that_drops_is_torchs_own(masked):
    q, k, v = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    mask = torch.rand(2, 1, 6, 6) > 0.3
    mask[..., 0] = True
    options = {"causal": {"is_causal": True}, "boolean": {"attn_mask": mask}, "none": {"scale": 0.5}}
    options["added"] = {"attn_mask": torch.randn(2, 1, 6, 6)}
    attend = nn.functional.scaled_dot_product_attention
    torch.manual_seed(4)
    expected = attend(q, k, v, dropout_p=0.5, enable_gqa=True, **options[masked])
    with RandomNumbers(4):
        torch.testing.assert_close(attend(q, k, v, dropout_p=0.5, enable_gqa=True, **options[masked]), expected)


@pytest.mark.parametrize("act", ["evaluate", "answers", "recommend"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3", "gpt2"])
def test_scoring_touches_nothing_of_the_base(monkeypatch, family, act):
    """Another thread calls the base in the middle of it, and finds no hook, and the mode that it left."""
    base = readable_base(family)
    ids, seen = torch.tensor([[5, 9, 3, 77]]), []
    with torch.no_grad():
        expected = base.model(input_ids=ids).logits
    base.model.train()
    modes = [module.training for module in base.model.modules()]

    def look(*_, **__):
        hooks = [h for m in base.model.modules() for h in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())]
        seen.append((hooks, [module.training for module in base.model.modules()] == modes))

    for name in ("cross_entropy", "log_softmax", "embedding"):
        real = getattr(torch.nn.functional, name)
        monkeypatch.setattr(torch.nn.functional, name, lambda *a, _real=real, **k: (look(), _real(*a, **k))[1])
    try:
        if act == "evaluate":
            evaluate(base, rows(), 2)
        elif act == "answers":
            answers(base, rows().test[:1], 2)
        else:
            bits_to_learn(base, rows())
    finally:
        base.model.eval()
    assert len(seen) >= 2 and all(not hooks and same for hooks, same in seen)
    with torch.no_grad():
        assert torch.equal(base.model(input_ids=ids).logits, expected)


@pytest.mark.slow
def test_a_training_inside_of_a_training_is_refused_and_the_outer_one_kept(store):
    def nest(_):
        train(readable_base(), rows(), lora(rank=2), CONFIG, store)

    with pytest.raises(TrainingError, match="Another training is under way"):
        train(readable_base(), rows(), lora(rank=2), CONFIG, store, nest)
    (run,) = store.all()
    assert run.status == "interrupted" and len(run.history) == 1 and "Another training" in run.advice
    assert train(readable_base(), rows(), lora(rank=2), CONFIG, store).status == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_without_gradients_around_it_is_training(store, mode):
    usual = train(readable_base(), rows(), lora(rank=2), CONFIG, store)
    with mode():
        assert losses(train(readable_base(), rows(), lora(rank=2), CONFIG, store)) == losses(usual)


@pytest.mark.quick
def test_another_default_dtype_is_told(store):
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(TrainingError, match=r"set_default_dtype\(torch.float32\)"):
            train(readable_base(), rows(), lora(rank=2), CONFIG, store)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("method", [lora(rank=2), full(1e-3)], ids=str)
def test_a_caller_inside_of_autocast_changes_no_number(method, store):
    base = readable_base()
    scores, written = evaluate(base, rows(), 2), answers(base, rows().test[:1], 4)
    alone = train(base, rows(), method, CONFIG, store)
    with torch.autocast("cpu", torch.bfloat16):
        assert evaluate(base, rows(), 2) == scores and answers(base, rows().test[:1], 4) == written
        within = train(base, rows(), method, CONFIG, store)
        assert torch.is_autocast_enabled("cpu")
    assert losses(within) == losses(alone) and within.metrics == alone.metrics
    (swept,) = sweep(base, rows(), [method], CONFIG, store)
    with torch.autocast("cpu", torch.bfloat16):
        (again,) = sweep(base, rows(), [replace(method, init_seed=CONFIG.seed)], CONFIG, store)
    assert losses(again) == losses(swept)
