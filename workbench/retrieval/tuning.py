"""Fine-tune an encoder with sentence-transformers' own trainer: in full, with LoRA, or with both (hybrid)."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from workbench.adapters.inject import ends_with, lies_within
from workbench.adapters.methods import Method
from workbench.errors import MethodError, RetrievalError
from workbench.machine import gpu_has_bfloat16
from workbench.retrieval.corpus import Pair
from workbench.retrieval.encoder import embed, reads_images
from workbench.retrieval.index import similarities

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

Array = NDArray[Any]

ROWS, BATCH = 1_280, 32
SPARE = 1.5  # times the rows whose negatives are looked for: where there is none that is safe, the row is dropped
MARGIN = 0.05  # of its similarity, by which a document is nearer to its query than a hard negative
WARM_UP = 0.1  # of the steps
PAGES_AT_ONCE = 4  # of a batch, in the cached loss
# An unused head of BERT's, and the vision tower of a multimodal model
NOT_ADAPTED = ("pooler", "visual", "vision", "vision_model", "vision_tower")


@dataclass(frozen=True)
class Tuned:
    """What training left: how many weights were trained, and the loss of each step."""

    trainable_parameters: int
    losses: tuple[float, ...]


def triplets(encoder: SentenceTransformer, pairs: Sequence[Pair], rows: int = ROWS) -> Dataset:
    """Rows of a query, its document and a hard negative, from the first pairs.

    The encoder that mines is the base, so that every method trains on the same rows. Raises RetrievalError if there
    are not so many.
    """
    from datasets import Dataset

    asked = pairs[: round(SPARE * rows)]
    queries, documents = [pair.query for pair in asked], [pair.document for pair in asked]
    mined = hard_negatives(embed(encoder, queries), embed(encoder, documents)) if asked else {}
    if len(mined) < rows:
        raise RetrievalError(
            f"{len(asked):,} pairs give {len(mined):,} rows with a hard negative, and {rows:,} were asked for; "
            "ask for fewer rows."
        )
    columns = [(queries[own], documents[own], documents[other]) for own, other in mined.items()][:rows]
    return Dataset.from_list([dict(zip(("query", "document", "negative"), row, strict=True)) for row in columns])


def hard_negatives(queries: Array, documents: Array) -> dict[int, int]:
    """For each pair of embeddings: the other document that is most similar to the query and yet safe to call wrong.

    Safe is what is less similar than the own document by MARGIN of its similarity (NV-Retriever, arXiv 2407.15831);
    what is nearer may answer the query too. Pairs without such a document are left out.
    """
    similar = similarities(queries, documents)
    own = similar.diagonal()[:, None]
    safe = np.where(similar <= own - MARGIN * np.abs(own), similar, -np.inf)
    np.fill_diagonal(safe, -np.inf)
    return {pair: int(row.argmax()) for pair, row in enumerate(safe) if np.isfinite(row.max())}


def transformer(encoder: SentenceTransformer) -> nn.Module:
    """The transformers model inside an encoder."""
    model = getattr(encoder[0], "auto_model", None)
    if not isinstance(model, nn.Module):
        raise RetrievalError("This encoder has no transformers model inside, so nothing of it can be adapted.")
    return model


def prepare(encoder: SentenceTransformer, method: Method) -> int:
    """Put the method's adapters into an encoder and set what trains; returns the number of weights that do.

    Raises MethodError for a method that this lesson does not compare, or for modules that are not there.
    """
    from peft import LoraConfig

    _check(method)
    model = transformer(encoder)
    names = [name for name, _ in model.named_modules()]
    for module in method.full_modules:
        if not any(ends_with(name, module) for name in names):
            raise MethodError(f"No module's name ends with {module}; look at named_modules().")

    def opened(name: str) -> bool:
        return any(lies_within(name, module) for module in method.full_modules)

    if method.name != "full":
        targets = [name for name in linear_layers(model) if not opened(name)]
        options = {"use_rslora": method.rslora, "use_dora": method.dora}
        encoder.add_adapter(LoraConfig(r=method.rank, lora_alpha=method.alpha, target_modules=targets, **options))
    for name, parameter in model.named_parameters():
        wanted = method.name == "full" or "lora_" in name or opened(name)
        parameter.requires_grad_(wanted and not _left_out(name))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def linear_layers(model: nn.Module) -> list[str]:
    """The names of the linear layers that get adapters: not an unused pooler, nor a vision tower."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in names if not _left_out(name)]


def _left_out(name: str) -> bool:
    return any(part in NOT_ADAPTED for part in name.split("."))


def _check(method: Method) -> None:
    if method.name not in ("full", "lora", "hybrid"):
        raise MethodError(f"Retrieval compares full, lora and hybrid; {method.name} is not one of them.")
    if method.pissa or method.lora_plus != 1 or method.layers is not None or method.targets != "all-linear":
        raise MethodError("Retrieval adapts all linear layers in the usual way: leave out pissa, lora_plus, layers "
                          "and targets.")  # fmt: skip


def fine_tune(
    encoder: SentenceTransformer, rows: Dataset, method: Method, seed: int = 0, batch: int = BATCH, epochs: int = 1
) -> Tuned:
    """Train an encoder in place on triplets, with the multiple-negatives ranking loss.

    Each query has to pick its document among all documents and hard negatives of the batch (arXiv 1705.00652). A batch
    of pages does not fit in memory: its gradient is computed in pieces (arXiv 2101.06983).
    """
    from sentence_transformers import SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer import losses
    from transformers import PrinterCallback, set_seed

    set_seed(seed)
    count = prepare(encoder, method)
    encoder.model_card_data.widget = [{"text": ""}]  # else it computes examples for the Hub, with a progress bar
    with tempfile.TemporaryDirectory() as folder:
        loss = (
            losses.CachedMultipleNegativesRankingLoss(encoder, mini_batch_size=PAGES_AT_ONCE)
            if reads_images(encoder)
            else losses.MultipleNegativesRankingLoss(encoder)
        )
        arguments = _arguments(folder, method, seed, batch, epochs, len(rows))
        trainer = SentenceTransformerTrainer(model=encoder, args=arguments, train_dataset=rows, loss=loss)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    encoder.eval()
    return Tuned(count, tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))


def _arguments(folder: str, method: Method, seed: int, batch: int, epochs: int, rows: int) -> Any:
    from sentence_transformers import SentenceTransformerTrainingArguments

    rate = method.full_learning_rate
    # Patterns that are searched for in the names of parameters
    opened = {} if rate is None else {rf"(^|\.){re.escape(end)}\.": rate for end in method.full_modules}
    return SentenceTransformerTrainingArguments(
        folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch,
        learning_rate=method.learning_rate,
        learning_rate_mapping=opened,
        warmup_steps=round(WARM_UP * epochs * rows / batch),  # none of few steps: the first would train nothing
        batch_sampler="no_duplicates",  # the same text twice would be its own negative
        seed=seed,
        bf16=gpu_has_bfloat16(),
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def merge(encoder: SentenceTransformer) -> None:
    """Add the adapters into the encoder's weights, in place; embeddings change by rounding alone."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in transformer(encoder).modules() if isinstance(module, BaseTunerLayer)]
    if not layers:
        raise RetrievalError("This encoder has no adapters to merge; merge one that was tuned with LoRA.")
    for layer in layers:
        layer.merge()
