"""The four ways to fine-tune, each a small frozen description, and `apply`, which makes a base trainable."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from numbers import Integral, Real

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedConfig

from workbench import WorkbenchError
from workbench.machine import TORCH_SEEDS, forked_random_state
from workbench.models.base import Base, head_lock, linear_modules, share


class MethodError(WorkbenchError, ValueError):
    """A method that cannot be applied as described; the message says what to change."""


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


def check_method(base: Base, method: Method) -> None:
    """Raise MethodError if `method` cannot be applied to `base`, before any time is spent on either."""
    if isinstance(base.model, PeftModel):  # which takes no second adapter, and would save the first alone after full()
        raise MethodError(
            f"This base ({base.revision}) carries an adapter: merge it into the plain one's weights, "
            "replace(base, model=adapters.merge(plain.model, base.model)), or train the plain base."
        )
    if method.name == "full" and base.quantization:
        raise MethodError(f"full() cannot train {base.quantization} weights; load the base without quantization.")
    if method.name == "full":
        return
    if method.name == "qlora" and not base.quantization:
        remedy = f"load_base({base.name!r}, quantization='nf4')"
        raise MethodError(f"qlora() does not go with this unquantized base; {remedy} gives its own.")
    if method.name == "lora" and base.quantization:
        raise MethodError(
            f"lora() does not go with this {base.quantization} base; take qlora(), or a base without quantization."
        )
    target_modules(base, method)
    for name in opened_modules(base, method):
        if any(not parameter.is_floating_point() for parameter in base.model.get_submodule(name).parameters()):
            raise MethodError(
                f"{name} holds {base.quantization} weights, which cannot be trained whole; open others, e.g. ['norm']."
            )


def apply(base: Base, method: Method, seed: int = 0) -> nn.Module:
    """A trainable model; `base` itself is untouched.

    Full fine-tuning gets a float32 copy. The others share the base's frozen weights and add float32 adapters through
    PEFT, drawn from `method.init_seed` (or `seed`). Raises MethodError for what `check_method` refuses.
    """
    check_method(base, method)
    if method.name == "full":
        with head_lock:
            return copy.deepcopy(base.model).float().requires_grad_(True)
    init_seed = seed if method.init_seed is None else method.init_seed
    with forked_random_state(base.model.device), warnings.catch_warnings():
        torch.manual_seed(init_seed)
        # PEFT 0.21 still reads a name that transformers 5 has renamed.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*")
        model = get_peft_model(share(base.model), peft_config(base, method))
    for parameter in model.parameters():
        if parameter.requires_grad:
            # modules_to_save copies keep the base's dtype; in bfloat16 most updates would round to nothing.
            parameter.data = parameter.data.float()
    return model


def peft_config(base: Base, method: Method) -> LoraConfig:
    """The PEFT configuration of the adapters that `method` describes on this base."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        target_modules=target_modules(base, method),
        lora_dropout=method.dropout,
        use_rslora=method.rslora,
        use_dora=method.dora,
        modules_to_save=opened_modules(base, method) or None,
    )


def opened_modules(base: Base, method: Method) -> list[str]:
    """Full names of the modules that are trained whole, without those that lie inside of another.

    In full because PEFT takes ends of names, dot or no dot: "norm" means many.
    """
    names = [name for name, _ in base.model.named_modules()]
    opened = [name for name in names if any(ends_with(name, wanted) for wanted in method.full_modules)]
    return [name for name in opened if not any(name.startswith(f"{other}.") for other in opened)]


def target_modules(base: Base, method: Method) -> list[str]:
    """Full names of the linear layers that get an adapter."""
    modules = [name for name, _ in base.model.named_modules()]
    return choose_targets(method, list(linear_modules(base.model)), modules, base.name)


def choose_targets(method: Method, every: Sequence[str], modules: Sequence[str], model_name: str) -> list[str]:
    """Those of `every` linear layer, by full name, that get an adapter in a model with these modules.

    Raises MethodError for a name that the model does not have, and if nothing is left.
    """
    if not every:
        raise MethodError(f"{model_name} has no nn.Linear layers (GPT-2's are Conv1D), which adapters here need.")
    ends = ("",) if method.targets == "all-linear" else method.targets
    ends = (ends,) if isinstance(ends, str) else ends
    if "" in method.full_modules or (method.targets != "all-linear" and "" in ends):
        raise MethodError("targets and full_modules must not hold an empty name; is there a comma too many?")
    for wanted in method.full_modules:
        if not any(ends_with(name, wanted) for name in modules):
            raise MethodError(
                f"full_modules names {wanted!r}, which {model_name} does not have; it has e.g. {every[0]!r}."
            )
    for end in ends:
        if end and not any(ends_with(name, end) for name in every):
            kinds = sorted({name.rpartition(".")[2] for name in every})
            raise MethodError(f"targets names {end!r}, but {model_name} has no such linear layer; it has {kinds}.")
    if method.layers is not None:
        blocks = {int(part) for name in every for part in name.split(".") if part.isdigit()}
        for layer in method.layers:
            if layer not in blocks:
                raise MethodError(f"layers names block {layer}, but {model_name} has blocks 0 to {max(blocks)}.")
    chosen = [
        name
        for name in every
        if any(ends_with(name, end) for end in ends)
        and (method.layers is None or any(part.isdigit() and int(part) in method.layers for part in name.split(".")))
        and not any(lies_within(name, module) for module in method.full_modules)
    ]
    if not chosen:
        raise MethodError("No linear layer is left for the adapters; widen targets or layers.")
    return chosen


def adapter_parameters(base: Base, method: Method) -> int:
    """Trainable parameters of the low-rank adapters alone: r (in + out) for each target (DoRA has some more)."""
    shapes = linear_modules(base.model)
    return method.rank * sum(sum(shapes[name]) for name in target_modules(base, method))


def ends_with(name: str, end: str) -> bool:
    """Whether a module's name ends with `end` at a dot; every name ends with ""."""
    return not end or name == end or name.endswith(f".{end}")


def lies_within(name: str, module: str) -> bool:
    """Whether `name` is a module that `module`, the end of a name, stands for, or lies inside of one."""
    return f".{module}." in f".{name}."


def trainable_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
