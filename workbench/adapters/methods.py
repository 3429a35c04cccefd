"""The four ways to fine-tune, each a small frozen description, and `apply`, which makes a base trainable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from numbers import Integral, Real

from transformers import PreTrainedConfig

from workbench.errors import MethodError
from workbench.seeds import TORCH_SEEDS


@dataclass(frozen=True)
class Method:
    """How a model is fine-tuned. Make one with `full`, `lora`, `qlora` or `hybrid`.

    rank r and alpha: the update is dW = scaling * B A with scaling = alpha / r (LoRA, arXiv 2106.09685), or
    alpha / sqrt(r) with `rslora` (arXiv 2312.03732). dora: weight-decomposed adapters (arXiv 2402.09353).
    targets: "all-linear", or the ends of the names of the linear layers to adapt ("q_proj", "mlp.down_proj").
    layers: the indices of the blocks to adapt; None is all. full_modules: modules trained whole beside the adapters.
    init_seed: draws the adapter's first values; None takes the run's own seed. reasons: why `recommend` chose this.
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
    full_modules: tuple[str, ...] = ()
    init_seed: int | None = None
    reasons: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self):
        for name in ("learning_rate",) if self.name == "full" else ("learning_rate", "alpha", "dropout"):
            value = getattr(self, name)
            if not isinstance(value, Real):
                raise MethodError(f"{name}={value!r} must be a number.")
            object.__setattr__(self, name, float(value))  # 32 and 32.0 are one setting, in JSON too
        if not 0 < self.learning_rate < inf:  # a record in JSON could not hold infinity
            raise MethodError(
                f"learning_rate={self.learning_rate:g} must be above 0 and finite; LoRA often likes 1e-3, full 1e-4."
            )
        if self.name == "full":
            return
        for name in ("rank", "init_seed"):
            if isinstance(value := getattr(self, name), Integral) and not isinstance(value, bool):
                object.__setattr__(self, name, int(value))  # a record in JSON takes none of numpy's numbers
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise MethodError(f"rank={self.rank!r} must be a whole number of at least 1.")
        if not isinstance(self.init_seed, int | None):
            raise MethodError(f"init_seed={self.init_seed!r} must be a whole number, or None for the run's own seed.")
        if (self.init_seed or 0) not in TORCH_SEEDS:
            raise MethodError(f"init_seed={self.init_seed} must be smaller; 0, 1, 2 do.")
        for name in ("targets", "full_modules"):
            if not all(isinstance(end, str) for end in getattr(self, name)):
                raise MethodError(f"{name}={list(getattr(self, name))!r} must hold the ends of modules' names.")
        if self.layers is not None:
            if not all(isinstance(layer, Integral) for layer in self.layers):
                raise MethodError(f"layers={list(self.layers)!r} must hold whole numbers, the indices of blocks.")
            object.__setattr__(self, "layers", tuple(map(int, self.layers)))
        if not 0 < self.alpha < inf:
            raise MethodError(f"alpha={self.alpha:g} must be above 0 and finite; alpha / rank scales the update.")
        if not 0 <= self.dropout < 1:
            raise MethodError(f"dropout={self.dropout:g} must be at least 0 and below 1.")
        if self.full_modules and self.name != "hybrid":
            raise MethodError(f"full_modules belong to hybrid(), not to {self.name}().")
        if self.name == "hybrid" and not self.full_modules:
            raise MethodError(
                "hybrid() needs full_modules, e.g. full_modules=['layers.29.mlp']; without any, use lora()."
            )

    @property
    def scaling(self) -> float | None:
        """What multiplies B A: alpha / r, or alpha / sqrt(r) with rslora; None for full fine-tuning."""
        if self.rank is None:
            return None
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    @property
    def label(self) -> str:
        """Short, for legends and file names."""
        if self.name == "full":
            return "full"
        extras = [word for word, on in (("rslora", self.rslora), ("dora", self.dora)) if on]
        return " ".join([f"{self.name} r={self.rank}", *extras])

    def to_dict(self) -> dict:
        """As JSON would have it, so that a record read back equals the one that was written."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return values if self.reasons else {name: value for name, value in values.items() if name != "reasons"}


def full(learning_rate: float = 1e-4) -> Method:
    """Every weight is trained, in float32."""
    return Method("full", learning_rate)


def lora(
    rank: int = 8,
    alpha: float = 16,
    learning_rate: float = 2e-3,
    targets: str | Sequence[str] = "all-linear",
    layers: Sequence[int] | None = None,
    dropout: float = 0.0,
    rslora: bool = False,
    dora: bool = False,
    init_seed: int | None = None,
) -> Method:
    """Low-rank adapters beside frozen weights."""
    if not isinstance(targets, Iterable):
        raise MethodError(f"targets={targets!r} must be 'all-linear' or a list of names, e.g. targets=['q_proj'].")
    if not isinstance(layers, Iterable | None):
        raise MethodError(f"layers={layers!r} must be a list: layers=[{layers!r}].")
    targets = targets if isinstance(targets, str) else tuple(targets)
    layers = None if layers is None else tuple(layers)
    return Method("lora", learning_rate, rank, alpha, targets, layers, dropout, rslora, dora, init_seed=init_seed)


def qlora(*args, **options) -> Method:
    """Low-rank adapters beside a frozen base whose weights are stored in 4 or 8 bits. Takes what `lora` takes."""
    return replace(lora(*args, **options), name="qlora")


def hybrid(full_modules: Sequence[str], *args, **options) -> Method:
    """Low-rank adapters, and some modules trained whole. Takes `full_modules`, then what `lora` takes.

    full_modules: ends of module names, e.g. ["layers.29.mlp"]; they get no adapter and are trained in float32.
    """
    if isinstance(full_modules, str) or not isinstance(full_modules, Iterable):
        raise MethodError(f"full_modules={full_modules!r} must be a list, e.g. full_modules=['layers.29.mlp'].")
    adapters = lora(*args, **options)
    return Method(**(asdict(adapters) | {"name": "hybrid", "full_modules": tuple(full_modules)}))


def last_mlp(config: PreTrainedConfig) -> str:
    """The end of the name of the last block's MLP, which the panels' hybrid trains whole. config: the model's."""
    return f"layers.{config.num_hidden_layers - 1}.mlp"
