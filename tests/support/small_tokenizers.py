"""Tokenizers of many kinds, trained in a moment on a text of Python's own, for tests about how texts are read."""

import json
from collections.abc import Callable, Iterator
from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

MARKS = ["<s>", "</s>", "<unk>"]
BYTES = [f"<0x{number:02X}>" for number in range(256)]


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A new tokenizer of one of KINDS, as `AutoTokenizer` would give it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(kind)), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@cache
def _trained(kind: str) -> str:
    return KINDS[kind]().to_str()


def _lines() -> Iterator[str]:
    from pydoc_data.topics import topics

    yield from "\n".join(topics[name] for name in sorted(topics))[:30_000].splitlines()


def _byte_level(dropout: float | None = None, **options: bool) -> Tokenizer:
    """GPT-2's kind: bytes as letters; a space is part of the word after it."""
    tokenizer = Tokenizer(models.BPE(dropout=dropout))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=MARKS, show_progress=False)
    tokenizer.train_from_iterator(_lines(), trainer)
    return tokenizer


def _marked(prepend: str, dropout: float | None = None) -> Tokenizer:
    """SentencePiece's kind: a mark for each space, and one where a text begins; unknown letters as bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    marks = decoders.Metaspace(prepend_scheme=prepend)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), marks])
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=[*MARKS, *BYTES], show_progress=False)
    tokenizer.train_from_iterator(_lines(), trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = described["added_tokens"][: len(MARKS)]  # a byte is an ordinary token
    described["model"]["dropout"] = dropout
    return Tokenizer.from_str(json.dumps(described))


def _llama_2() -> Tokenizer:
    """The same, the mark put in by a normalizer, as in converted checkpoints of Llama 2."""
    described = json.loads(_marked("first").to_str())
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    described["pre_tokenizer"] = None
    described["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    spaces = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    steps = [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    described["decoder"] = {"type": "Sequence", "decoders": [*steps, strip]}
    return Tokenizer.from_str(json.dumps(described))


def _t5() -> Tokenizer:
    """Unigram, with spaces and newlines run together."""
    tokenizer = Tokenizer(models.Unigram())
    one_space = normalizers.Replace(Regex(" {2,}"), " ")
    steps = [normalizers.Nmt(), normalizers.NFKC(), one_space, normalizers.Strip()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    letters = [chr(code) for code in range(33, 127)]
    trainer = trainers.UnigramTrainer(
        vocab_size=600, initial_alphabet=letters, special_tokens=MARKS, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_lines(), trainer)
    return tokenizer


def _word_pieces() -> Tokenizer:
    """BERT's kind: lower case, no spaces kept, word endings marked with ##."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=MARKS, show_progress=False)
    tokenizer.train_from_iterator(_lines(), trainer)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": _byte_level,
    "bytes after a space": lambda: _byte_level(add_prefix_space=True),
    "bytes with dropout": lambda: _byte_level(dropout=0.3),
    "bytes without words": lambda: _byte_level(use_regex=False),
    "first mark": lambda: _marked("first"),
    "every mark": lambda: _marked("always"),
    "no mark": lambda: _marked("never"),
    "marks with dropout": lambda: _marked("first", dropout=0.3),
    "llama 2": _llama_2,
    "t5": _t5,
    "word pieces": _word_pieces,
}
KEEPING = [kind for kind in KINDS if kind not in ("t5", "word pieces")]  # whose tokens decode to the text as it was
