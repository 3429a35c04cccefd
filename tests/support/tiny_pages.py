"""Pages drawn here, and an encoder of the architecture of Qwen3-VL with random weights that reads them.

Model, tokenizer and image processor are transformers' own. The processor of Qwen3-VL also holds one for videos, which
cannot be made without torchvision: `PageProcessor` is the same without it. Importing this module registers it; the
kernel of a notebook imports it by a file sitecustomize.py.
"""

from itertools import product
from pathlib import Path

import datasets
import torch
from PIL import Image, ImageDraw
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLModel, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from support.tiny_encoder import SUBJECTS, VERBS

END, PADDING, IMAGE, VIDEO = "<|im_end|>", "<|endoftext|>", "<|image_pad|>", "<|video_pad|>"
MARKS = (PADDING, "<|im_start|>", END, "<|vision_start|>", "<|vision_end|>", IMAGE, VIDEO)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
)


class PageProcessor(Qwen3VLProcessor):
    """The processor of Qwen3-VL for texts and images."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        self.image_token, self.video_token = IMAGE, VIDEO
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([IMAGE, VIDEO])
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


AutoProcessor.register(Qwen3VLConfig, PageProcessor, exist_ok=True)


def save_tiny_page_encoder(folder: Path) -> Path:
    """Write an encoder with layers of 64, the last token's vector of length 1; returns its folder."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *MARKS]
    ids = {token: place for place, token in enumerate(alphabet)}
    inner = Tokenizer(models.BPE(vocab=ids, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=END, pad_token=PADDING, additional_special_tokens=list(MARKS[1:])
    )
    images = Qwen2VLImageProcessorPil(patch_size=16, temporal_patch_size=2, merge_size=2)
    torch.manual_seed(0)
    PageProcessor(images, tokenizer, TEMPLATE).save_pretrained(folder / "inner")
    Qwen3VLModel(_config(ids)).save_pretrained(folder / "inner")
    transformer = Transformer(str(folder / "inner"))
    pooling = Pooling(transformer.get_embedding_dimension(), "lasttoken")
    SentenceTransformer(modules=[transformer, pooling, Normalize()]).save(str(folder / "encoder"))
    return folder / "encoder"


def _config(ids: dict[str, int]) -> Qwen3VLConfig:
    text = {
        "vocab_size": len(ids), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": ids[PADDING],
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3], "mrope_interleaved": True
        },
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64, "num_position_embeddings": 256,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    marks = {
        "image_token_id": ids[IMAGE], "video_token_id": ids[VIDEO], "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }  # fmt: skip
    return Qwen3VLConfig(text_config=text, vision_config=vision, **marks)


def page(words: str) -> Image.Image:
    """A white page with a line of text."""
    image = Image.new("RGB", (160, 96), "white")
    ImageDraw.Draw(image).text((8, 30), words, fill="black")
    return image


def page_rows(count: int = 60) -> list[dict]:
    """A query, the page of its words and two pages of others in each row, as the published data set has them."""
    pairs = [(verb, subject) for subject, verb in product(SUBJECTS, VERBS)][:count]
    return [
        {
            "query": f"{verb} the {subject}",
            "image": page(f"{subject}: {verb}"),
            "negative_0": page(f"{SUBJECTS[place % 5 - 6]}: {verb} {place}"),
            "negative_1": page(f"page {place}"),
        }
        for place, (verb, subject) in enumerate(pairs)
    ]


def save_pages(folder: Path, rows: list[dict]) -> Path:
    """Write rows as `datasets` saves them; returns the folder."""
    datasets.Dataset.from_list(rows).save_to_disk(folder)
    return folder
