"""An encoder with random weights and a vocabulary of a few words, saved as sentence-transformers does."""

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from workbench.retrieval.corpus import Corpus, Pair

SUBJECTS = ("array", "matrix", "graph", "tensor", "table", "series", "tree", "model", "axis", "token", "path", "edge")
VERBS = ("sort", "invert", "draw", "join", "split", "count", "read", "store")
OTHER = (
    "return",
    "the",
    "a",
    "of",
    "and",
    "with",
    "every",
    "one",
    "is",
    "given",
    "result",
    "new",
    "in",
    "place",
    "[UNK]",
)
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")


def save_tiny_encoder(folder: Path, layers: int = 2) -> Path:
    """Write a BERT with layers of 32 and a pooler, and its tokenizer, as an encoder; returns the folder."""
    torch.manual_seed(0)
    words = list(dict.fromkeys([*SPECIAL, *SUBJECTS, *VERBS, *OTHER]))
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.1,
    )  # fmt: skip
    inner = folder / "bert"
    BertModel(config).save_pretrained(inner)
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(inner)
    transformer = Transformer(str(inner))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    SentenceTransformer(modules=[transformer, pooling]).save(str(folder / "encoder"))
    return folder / "encoder"


def small_corpus() -> Corpus:
    """A pair for each subject and verb: "sort the array", answered by "every array is given ... sort ..."."""
    pairs = [
        Pair(
            f"{verb} the {subject}",
            f"the {subject} result is given and {verb} with every new {subject}",
            f"m.{subject}",
        )
        for subject in SUBJECTS
        for verb in VERBS
    ]
    test, train = pairs[::3], [pair for place, pair in enumerate(pairs) if place % 3]
    return Corpus(
        tuple(pair.document for pair in test),
        tuple(pair.query for pair in test),
        tuple(range(len(test))),
        tuple(train),
        "made up",
    )
