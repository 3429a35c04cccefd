"""The models that the workbench knows by name, with the Hub id and the shipped configuration of each.

`models.load_base` and the memory predictions resolve names here, so that a model has one name in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workbench.paths import DATA

CONFIG_FOLDER = DATA / "models"


@dataclass(frozen=True)
class KnownModel:
    """A model with a name of its own.

    hub_id: where its weights are on the Hugging Face Hub. packaged: `load_base` takes them from an installed Python
    package instead.
    """

    name: str
    hub_id: str
    packaged: bool = False

    @property
    def config_file(self) -> Path:
        """Its configuration in data/models, as far as memory depends on it."""
        return CONFIG_FOLDER / f"{self.name}.json"


# A model added here needs its config.json in data/models.
# Gemma, Llama and Mistral ask for a login or for a licence to be accepted on the Hub; the others need no account.
_MODELS = (
    KnownModel("gemma-2-2b", "google/gemma-2-2b"),
    KnownModel("gemma-2b", "google/gemma-2b"),
    KnownModel("llama-2-7b", "meta-llama/Llama-2-7b-hf"),
    KnownModel("llama-3.1-70b", "meta-llama/Llama-3.1-70B"),
    KnownModel("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
    KnownModel("llama-3.2-1b", "meta-llama/Llama-3.2-1B"),
    KnownModel("llama-3.2-3b", "meta-llama/Llama-3.2-3B"),
    KnownModel("mistral-7b-v0.3", "mistralai/Mistral-7B-v0.3"),
    KnownModel("olmo2-1b", "allenai/OLMo-2-0425-1B"),
    KnownModel("olmo2-7b", "allenai/OLMo-2-1124-7B"),
    KnownModel("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B"),
    KnownModel("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B"),
    KnownModel("qwen2.5-14b", "Qwen/Qwen2.5-14B"),
    KnownModel("qwen2.5-32b", "Qwen/Qwen2.5-32B"),
    KnownModel("qwen2.5-3b", "Qwen/Qwen2.5-3B"),
    KnownModel("qwen2.5-7b", "Qwen/Qwen2.5-7B"),
    KnownModel("qwen3-0.6b", "Qwen/Qwen3-0.6B-Base"),
    KnownModel("qwen3-1.7b", "Qwen/Qwen3-1.7B-Base"),
    KnownModel("qwen3-4b", "Qwen/Qwen3-4B-Base"),
    KnownModel("qwen3-8b", "Qwen/Qwen3-8B-Base"),
    KnownModel("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B"),
    KnownModel("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", packaged=True),
    KnownModel("smollm2-360m", "HuggingFaceTB/SmolLM2-360M"),
    KnownModel("tinyllama-1.1b", "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"),
)
CATALOGUE = {model.name: model for model in _MODELS}
ALIASES = {"llama3.2-1b": "llama-3.2-1b"}  # the name that load_base had for it before the catalogue


def find(name: str) -> KnownModel | None:
    """The model with this name, alias or Hub id; None where the catalogue has none."""
    name = ALIASES.get(name, name)
    return CATALOGUE.get(name) or next((model for model in _MODELS if model.hub_id == name), None)


def canonical(name: str) -> str:
    """The catalogue's name for a name, alias or Hub id of it; `name` itself where it has none."""
    model = find(name)
    return model.name if model else name


def names() -> list[str]:
    """All names, in alphabetical order, without aliases."""
    return sorted(CATALOGUE)
