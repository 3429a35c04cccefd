"""The four ways to fine-tune, each a small frozen description: `full`, `lora`, `qlora` and `hybrid`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from numbers import Integral, Real
from typing import Any, TypedDict, Unpack

from transformers import PreTrainedConfig

from workbench.adapters.lowrank import scaling
from workbench.errors import MethodError
from workbench.seeds import TORCH_SEEDS

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
FULL_RATE_SHARE = 0.1  # of the adapters' learning rate: what is trained in full does best at about a tenth of it
LEFT_OUT = {
    "reasons": (),
    "full_learning_rate": None,
    "lora_plus": 1.0,
    "pissa": False,
}  # of a record, where they have these values
OF_GPT_2 = ("gpt2", "openai-gpt", "gpt_neo", "gpt_bigcode", "gptj", "codegen", "bloom", "falcon")  # blocks are called h
TARGET_GROUPS = {frozenset(ATTENTION): "attention", frozenset(MLP): "mlp"}


class AdapterOptions(TypedDict, total=False):
    """The less usual options of `lora`, by name; see `Method`."""

    dropout: float
    rslora: bool
    dora: bool
    pissa: bool
    lora_plus: float
    init_seed: int | None


@dataclass(frozen=True)
class Method:
    """How a model is fine-tuned. Make one with `full`, `lora`, `qlora` or `hybrid`.

    rank r and alpha: the update is dW = scaling * B A with scaling = alpha / r (LoRA, arXiv 2106.09685), or
    alpha / sqrt(r) with `rslora` (arXiv 2312.03732). dora: weight-decomposed adapters (arXiv 2402.09353). pissa: A
    and B start as the largest singular vectors of the weight, which keeps the rest (PiSSA, arXiv 2404.02948).
    lora_plus: the learning rate of B is so many times that of A (LoRA+, arXiv 2402.12354).
    targets: "all-linear", or the ends of the names of the linear layers to adapt ("q_proj", "mlp.down_proj").
    layers: the indices of the blocks to adapt; None is all. full_modules: ends of the names of modules that are trained
    in full, without adapters, at `full_learning_rate` (None: at `learning_rate`). init_seed: seed of the adapters'
    initial values; None takes the run's seed. reasons: why `recommend` chose these settings.
    Raises MethodError for values that make no sense.
    """

    name: str
    learning_rate: float
    rank: int | None = None
    alpha: float | None = None
    targets: str | tuple[str, ...] = "all-linear"
    layers: tuple[int, ...] | None = None
    dropout: float = 0.0
    rslora: bool = False
    dora: bool = False
    pissa: bool = False
    full_modules: tuple[str, ...] = ()
    full_learning_rate: float | None = None
    lora_plus: float = 1.0
    init_seed: int | None = None
    reasons: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        rates = ["learning_rate"] + ["full_learning_rate"] * (self.full_learning_rate is not None)
        self._check_numbers(rates if self.name == "full" else [*rates, "alpha", "dropout", "lora_plus"])
        for name in ("rslora", "dora", "pissa"):
            if not isinstance(getattr(self, name), bool):
                raise MethodError(f"{name}={getattr(self, name)!r} must be True or False.")
        for name in rates:
            if not 0 < getattr(self, name) < inf:  # a record in JSON could not hold infinity
                raise MethodError(
                    f"{name}={getattr(self, name):g} must be above 0 and finite; LoRA often likes 1e-3, full 1e-4."
                )
        if self.name == "full":
            return
        self._check_whole_numbers()
        self._check_names()
        if self.alpha is None or not 0 < self.alpha < inf:
            raise MethodError(f"alpha={self.alpha:g} must be above 0 and finite; alpha / rank scales the update.")
        if not 0 <= self.dropout < 1:
            raise MethodError(f"dropout={self.dropout:g} must be at least 0 and below 1.")
        if self.pissa and (self.dora or self.name == "qlora"):
            raise MethodError("pissa takes its start out of plain weights: leave out dora, or take lora().")
        if not 0 < self.lora_plus < inf:
            raise MethodError(f"lora_plus={self.lora_plus:g} must be above 0 and finite; LoRA+ takes about 16.")
        if (self.full_modules or self.full_learning_rate is not None) and self.name != "hybrid":
            raise MethodError(f"full_modules and full_learning_rate belong to hybrid(), not to {self.name}().")
        if self.name == "hybrid" and not self.full_modules:
            raise MethodError(
                "hybrid() needs full_modules, e.g. full_modules=['layers.29.mlp']; without any, use lora()."
            )

    def _check_numbers(self, names: Iterable[str]) -> None:
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, Real):
                raise MethodError(f"{name}={value!r} must be a number.")
            try:
                object.__setattr__(self, name, float(value))  # 32 and 32.0 are one setting, in JSON too
            except OverflowError as error:
                raise MethodError(f"{name} is larger than any float.") from error

    def _check_whole_numbers(self) -> None:
        for name in ("rank", "init_seed"):
            if isinstance(value := getattr(self, name), Integral) and not isinstance(value, bool):
                object.__setattr__(self, name, int(value))  # JSON takes none of numpy's numbers
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise MethodError(f"rank={self.rank!r} must be a whole number of at least 1.")
        if not isinstance(self.init_seed, int | None):
            raise MethodError(f"init_seed={self.init_seed!r} must be a whole number, or None for the run's own seed.")
        if (self.init_seed or 0) not in TORCH_SEEDS:
            raise MethodError(f"init_seed={self.init_seed} must be smaller; 0, 1, 2 do.")
        if self.layers is not None:
            if not all(isinstance(layer, Integral) and not isinstance(layer, bool) for layer in self.layers):
                raise MethodError(f"layers={list(self.layers)!r} must hold whole numbers, the indices of blocks.")
            object.__setattr__(self, "layers", tuple(map(int, self.layers)))

    def _check_names(self) -> None:
        for name in ("targets", "full_modules"):
            if not all(isinstance(end, str) for end in getattr(self, name)):
                raise MethodError(f"{name}={list(getattr(self, name))!r} must hold the ends of modules' names.")

    @classmethod
    def from_options(
        cls,
        name: str,
        full_modules: Sequence[str] = (),
        learning_rate: float | None = None,
        full_learning_rate: float | None = None,
        **options: Any,
    ) -> Method:
        """The method called `name` ("full", "lora", "qlora" or "hybrid") with the given options of `lora`.

        learning_rate: None takes the method's default. Full fine-tuning takes no other option. Raises MethodError.
        """
        rate: dict[str, Any] = {} if learning_rate is None else {"learning_rate": learning_rate}
        if name == "full":
            return full(**rate)
        if name == "hybrid":
            return hybrid(full_modules, full_learning_rate=full_learning_rate, **rate, **options)
        adapters = lora(**rate, **options)
        return replace(adapters, name=name, full_modules=tuple(full_modules), full_learning_rate=full_learning_rate)

    @property
    def base_quantization(self) -> str | None:
        """The quantization of the base that this method wants by default: "nf4" for QLoRA, none for the others."""
        return "nf4" if self.name == "qlora" else None

    @property
    def scaling(self) -> float | None:
        """The factor in front of B A: alpha / r, or alpha / sqrt(r) with rslora; None for full fine-tuning."""
        if self.rank is None or self.alpha is None:
            return None
        return scaling(self.alpha, self.rank, self.rslora)

    @property
    def label(self) -> str:
        """A short name for legends and file names: "lora r=8"."""
        if self.name == "full":
            return "full"
        extras = [word for word, on in (("rslora", self.rslora), ("dora", self.dora), ("pissa", self.pissa)) if on]
        extras += [f"B x{self.lora_plus:g}"] if self.lora_plus != 1 else []
        return " ".join([f"{self.name} r={self.rank}", *extras])

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them (lists for tuples), so that a record read back equals the one written."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {
            name: value
            for name, value in values.items()
            if name not in LEFT_OUT or getattr(self, name) != LEFT_OUT[name]
        }


def full(learning_rate: float = 1e-4) -> Method:
    """Full fine-tuning: every weight is trained, in float32."""
    return Method("full", learning_rate)


def lora(
    rank: int = 8,
    alpha: float = 16,
    learning_rate: float = 2e-3,
    targets: str | Sequence[str] = "all-linear",
    layers: Sequence[int] | None = None,
    **options: Unpack[AdapterOptions],
) -> Method:
    """Low-rank adapters on frozen weights. The arguments and the options by name are those of `Method`."""
    if not isinstance(targets, Iterable):
        raise MethodError(f"targets={targets!r} must be 'all-linear' or a list of names, e.g. targets=['q_proj'].")
    if not isinstance(layers, Iterable | None):
        raise MethodError(f"layers={layers!r} must be a list: layers=[{layers!r}].")
    targets = targets if isinstance(targets, str) else tuple(targets)
    return Method("lora", learning_rate, rank, alpha, targets, None if layers is None else tuple(layers), **options)


def qlora(
    rank: int = 8,
    alpha: float = 16,
    learning_rate: float = 2e-3,
    targets: str | Sequence[str] = "all-linear",
    layers: Sequence[int] | None = None,
    **options: Unpack[AdapterOptions],
) -> Method:
    """Low-rank adapters on a frozen base whose weights are stored in 4 or 8 bits (QLoRA, arXiv 2305.14314)."""
    return replace(lora(rank, alpha, learning_rate, targets, layers, **options), name="qlora")


def hybrid(
    full_modules: Sequence[str],
    rank: int = 8,
    alpha: float = 16,
    learning_rate: float = 2e-3,
    targets: str | Sequence[str] = "all-linear",
    layers: Sequence[int] | None = None,
    full_learning_rate: float | None = None,
    **options: Unpack[AdapterOptions],
) -> Method:
    """Low-rank adapters, and some modules trained in full.

    full_modules: ends of module names, e.g. ["layers.29.mlp"]; they get no adapter and are trained in float32, at
    `full_learning_rate`: by default a tenth of the adapters' rate, since full fine-tuning does best at about a tenth of
    LoRA's. The other arguments are those of `lora`.
    """
    if isinstance(full_modules, str) or not isinstance(full_modules, Iterable):
        raise MethodError(f"full_modules={full_modules!r} must be a list, e.g. full_modules=['layers.29.mlp'].")
    adapters = lora(rank, alpha, learning_rate, targets, layers, **options)
    rate = adapters.learning_rate * FULL_RATE_SHARE if full_learning_rate is None else full_learning_rate
    own = {"name": "hybrid", "full_modules": tuple(full_modules), "full_learning_rate": rate}
    return Method(**(asdict(adapters) | own))


def last_mlp(config: PreTrainedConfig) -> str:
    """The end of the name of the last block's MLP, which the panels' hybrid trains in full."""
    blocks = "h" if config.model_type in OF_GPT_2 else "layers"
    return f"{blocks}.{config.num_hidden_layers - 1}.mlp"


def targets_in_words(targets: str | Sequence[str]) -> str:
    """Target modules in one word where there is one ("all-linear", "attention", "mlp"), else their names."""
    if isinstance(targets, str):
        return targets
    return TARGET_GROUPS.get(frozenset(targets), ", ".join(targets))
