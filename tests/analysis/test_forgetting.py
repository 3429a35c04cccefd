"""KL divergence and perplexity against plain loops over single texts, with torch's own loss functions."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from hypothesis import given, settings, strategies as st

from support.quick_training import readable_base
from support.random_bases import random_base
from support.tuned_bases import full_run
from workbench.analysis import interpolate, kl_from_base, merged, perplexity
from workbench.errors import ModelError, TaskError
from workbench.scoring.evaluation import general_rows, score
from workbench.scoring.row_scores import TOKENS_A_BATCH

TEXTS = ["The number after 3 is", "Water", "def add(a, b):\n    return a + b", "One two three four five six seven"]


@torch.no_grad()
def plain_loop(base, tuned, texts) -> float:
    """One text at a time, every position, torch's kl_div with the base's distribution as the target."""
    total, tokens = 0.0, 0
    for text in texts:
        ids = torch.tensor([base.tokenizer(text, add_special_tokens=False)["input_ids"]])
        before, after = (model(input_ids=ids).logits[0].double().log_softmax(-1) for model in (base.model, tuned.model))
        total += F.kl_div(after, before, reduction="sum", log_target=True).item()
        tokens += ids.shape[1]
    return total / tokens


@pytest.mark.parametrize("which", ["whole", "adapted"])
def test_kl_is_that_of_a_plain_loop(plain, which, request):
    tuned, texts = request.getfixturevalue(which), [*TEXTS, *["\n".join(4 * TEXTS)] * 10]  # several batches
    assert sum(len(plain.tokenizer(text)["input_ids"]) for text in texts) > TOKENS_A_BATCH
    found = kl_from_base(plain, tuned, texts)
    assert found == pytest.approx(plain_loop(plain, tuned, texts), rel=1e-4)
    assert found > 0 and found != pytest.approx(kl_from_base(tuned, plain, texts), rel=1e-4), "it has a direction"


def test_a_base_has_not_moved_from_itself(plain, adapted):
    assert kl_from_base(plain, plain, TEXTS) == 0
    off = interpolate(plain, adapted, 0)
    assert kl_from_base(plain, off, TEXTS) == 0
    with adapted.model.disable_adapter():
        assert kl_from_base(plain, adapted, TEXTS) == 0, "the base is what is left with the adapter off"
    assert kl_from_base(plain, adapted, TEXTS) > 0


def test_an_adapter_and_its_merged_weights_have_moved_equally(plain, adapted):
    whole = merged(plain, adapted)
    assert kl_from_base(plain, whole, TEXTS) == pytest.approx(kl_from_base(plain, adapted, TEXTS), rel=1e-3)
    assert perplexity(whole, TEXTS) == pytest.approx(perplexity(adapted, TEXTS), rel=1e-5)


@settings(max_examples=10)
@given(st.floats(-1, 2), st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3))
def test_kl_is_never_negative(t, texts):
    base = readable_base()
    assert kl_from_base(base, interpolate(base, full_run(base), t), texts) >= 0


def test_kl_is_a_mean_over_tokens_and_not_over_texts(plain, whole):
    counts = [len(plain.tokenizer(text)["input_ids"]) for text in TEXTS]
    each = [kl_from_base(plain, whole, [text]) for text in TEXTS]
    expected = sum(kl * count for kl, count in zip(each, counts, strict=True)) / sum(counts)
    assert kl_from_base(plain, whole, TEXTS) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_perplexity_has_shifted_targets(plain, whole):
    """transformers shifts its labels itself, so its loss on one text is the text's mean."""
    for text in TEXTS:
        ids = torch.tensor([plain.tokenizer(text)["input_ids"]])
        if ids.shape[1] < 2:
            continue
        out = whole.model(input_ids=ids, labels=ids)
        assert perplexity(whole, [text]) == pytest.approx(math.exp(out.loss.item()), rel=1e-4)
        unshifted = F.cross_entropy(out.logits[0], ids[0]).item()
        assert perplexity(whole, [text]) != pytest.approx(math.exp(unshifted), rel=1e-3)


def test_perplexity_of_general_text_is_that_of_its_loss(plain):
    loss = score(plain.model, general_rows(plain.tokenizer))["loss"]
    assert perplexity(plain) == pytest.approx(math.exp(loss), rel=1e-5)


def test_texts_and_models_that_cannot_be_compared(plain):
    for call, words in (
        (lambda: kl_from_base(plain, plain, []), "at least one text"),
        (lambda: kl_from_base(plain, plain, "a text"), "a list"),
        (lambda: kl_from_base(plain, plain, ["fine", ""]), "Text 2 has 0 tokens"),
        (lambda: perplexity(plain, [""]), "Text 1 has 0 tokens, and 2"),
    ):
        with pytest.raises(TaskError, match=words):
            call()
    other = replace(random_base("llama", vocab_size=900), tokenizer=plain.tokenizer)
    with pytest.raises(ModelError, match="The base predicts 800 tokens and the tuned model 900"):
        kl_from_base(plain, other, TEXTS)


@pytest.mark.slow
def test_on_the_packaged_model(base):
    """The general text is ordinary English to it, and moving the weights a little moves its distributions a little."""
    assert 5 < perplexity(base) < 60
    texts = ["The capital of France is", "Once upon a time"]
    assert kl_from_base(base, base, texts) == 0
    noisy = full_run(base, size=0.01)
    near, far = (kl_from_base(base, interpolate(base, noisy, t), texts) for t in (0.3, 1.0))
    assert 0 < near < far
