"""AdapterLab: a trained adapter, cut to a rank, weighed by alpha, switched off in parts, on a base of fewer bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import ipywidgets as widgets
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from workbench.adapters import checkpoints
from workbench.adapters.methods import ATTENTION, MLP
from workbench.errors import RunError
from workbench.memory.real_steps import quantization_tensors
from workbench.models.base import Base, load_base
from workbench.models.quantized import QUANTIZATIONS
from workbench.models.sharing import in_float32
from workbench.panels.base import LABEL, SlowPanel, View, choice, slider, steps_slider, switch
from workbench.plots.adapters import adapter_lab
from workbench.tasks.encoding import encode
from workbench.tasks.files import Example
from workbench.tasks.tasks import Task
from workbench.training import evaluation
from workbench.training.peak_memory import LiveBytes
from workbench.training.runs import Run

ALPHAS = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4)  # as shares of the alpha in training
GENERAL_CHUNKS = 1  # of the twelve: enough to see which way it goes, and an answer in two seconds
ANSWER_TOKENS = 12
FLOAT32_BYTES = 4
NOT_QUANTIZED = "none"  # None as the value of a list of choices leaves its field empty on the page


class AdapterLab(SlowPanel):
    """A run's adapter on its base. Controls: rank, alpha, attention, mlp, quantization, prompt.

    base: what `run` was trained on. run: of `lora` or `qlora`, no DoRA, with its adapter saved. task: its first `rows`
    test rows are scored. Raises RunError for another kind of run, for another base, or if the adapter's files are gone.
    """

    def __init__(self, base: Base, run: Run, task: Task, rows: int = 16):
        if run.method["name"] not in ("lora", "qlora") or run.method.get("dora"):
            raise RunError(f"AdapterLab takes a lora or qlora run apart, without DoRA; run {run.id} is {run.label}.")
        self.base, self.run = base, run
        self.rank, self.alpha = run.method["rank"], run.method["alpha"]
        self.rows = encode(task.test[:rows], base.tokenizer, run.config["max_length"])
        self.general = evaluation.general_rows(base.tokenizer)[:GENERAL_CHUNKS]
        self._loaded: dict[str | None, tuple[PeftModel, int]] = {}
        self._scores: dict[tuple, dict[str, float]] = {}
        self._answers: dict[tuple, str] = {}
        self._changed_model = lru_cache(maxsize=8)(self._change)  # to copy the tree of modules takes time too
        self.spectra = checkpoints.spectra(self._tuned(base.quantization)[0])
        self.kinds = tuple(sorted({name.rpartition(".")[2] for name in self.spectra}))
        stored_as = QUANTIZATIONS if run.method["name"] == "lora" else (base.quantization,)  # as `Run.load` has it
        names = [(kind, kind) if kind else ("not quantized", NOT_QUANTIZED) for kind in stored_as]
        layout = widgets.Layout(width="800px", max_width="calc(100% - 4px)", height="52px")
        controls = {
            "rank": slider("rank r", self.rank, 1, max(self.rank, 2), heavy=True),
            "alpha": steps_slider(
                "alpha", self.alpha, [(f"{share * self.alpha:g}", share * self.alpha) for share in ALPHAS], heavy=True
            ),
            "attention": switch("attention (q, k, v, o)", True),
            "mlp": switch("MLP (gate, up, down)", True),
            "quantization": choice("base stored as", base.quantization or NOT_QUANTIZED, names),
            "prompt": widgets.Textarea(
                task.test[0].prompt, description="prompt", continuous_update=False, style=LABEL, layout=layout
            ),
        }
        super().__init__(f"{run.label}, trained on {task.name}: what is in it?", controls, self.look)

    def look(
        self,
        rank: int,
        alpha: float,
        attention: bool,
        mlp: bool,
        quantization: str,
        prompt: str,
        still_wanted: Callable[[], None] = lambda: None,
    ) -> View:
        """What the adapter does when changed like this, beside the base alone and the adapter as it was trained.

        Scores and answers are computed once. still_wanted is called between the parts of the work. Raises ValueError
        for an empty prompt, RunError for a base that the adapter does not fit.
        """
        rank, quantization = min(rank, self.rank), None if quantization == NOT_QUANTIZED else quantization
        if not prompt.strip():
            raise ValueError("The prompt is empty; write what the model shall go on from.")
        off = {*(() if attention else ATTENTION), *(() if mlp else MLP)}
        kinds = tuple(kind for kind in self.kinds if kind not in off)
        own = self.base.quantization
        states = {
            "base": (own, self.rank, 0, ()),
            "trained": (own, self.rank, self.alpha, self.kinds),
            "now": (quantization, rank, alpha, kinds) if alpha and kinds else (quantization, self.rank, 0, ()),
        }
        scores = {name: self._measure(state, still_wanted) for name, state in states.items()}
        answers = {name: self._answer(states[name], prompt, still_wanted) for name in ("base", "now")}
        forgotten = {name: scores[name]["general_loss"] - scores["base"]["general_loss"] for name in ("trained", "now")}
        base_mb = self._tuned(quantization)[1] / 1e6
        adapter_mb = adapter_bytes(self._tuned(quantization)[0], rank, kinds) / 1e6
        figure = adapter_lab(
            {name: score["exact_match"] for name, score in scores.items()},
            forgotten,
            self._curves(rank, alpha, kinds),
            {"base": base_mb, "adapter": adapter_mb},
        )
        now, before, then = scores["now"], scores["base"], scores["trained"]
        tokens = sum(len(row.ids) for row in self.general)
        text = (
            f"Rank {rank} of {self.rank}, alpha {alpha:g} (trained with {self.alpha:g}), on {len(kinds)} of "
            f"{len(self.kinds)} kinds of layers; the base stored as {quantization or self.base.dtype_name}. On "
            f"{len(self.rows)} test rows: exact match {now['exact_match']:.0%} (base {before['exact_match']:.0%}, as "
            f"trained {then['exact_match']:.0%}), loss {now['loss']:.3f} nats a token (as trained {then['loss']:.3f}). "
            f"{tokens} tokens of general text: {forgotten['now']:+.3f} nats a token over the base (as trained "
            f"{forgotten['trained']:+.3f})"
            f". Weights: base {base_mb:,.0f} MB, adapter {adapter_mb:.2g} MB."
        )
        numbers = {"base_mb": base_mb, "adapter_mb": adapter_mb, "forgotten": forgotten["now"]}
        numbers |= {name: now[name] for name in ("exact_match", "loss", "general_loss")}
        figure.alt = f"{text} Asked {prompt!r}, the base says {answers['base']!r}, now {answers['now']!r}."
        heads = {"base": "the base's answer", "now": "the answer now"}
        return View(figure, text, numbers, {heads[name]: answer or "(nothing)" for name, answer in answers.items()})

    def _tuned(self, quantization: str | None) -> tuple[PeftModel, int]:
        """The adapter on the base so quantized, computing in float32, and the bytes of that base's weights."""
        if quantization not in self._loaded:
            base = self.base
            if quantization != base.quantization:
                revision = base.revision if base.source == "hub" else None
                base = load_base(base.name, quantization, base.dtype, revision)
            self._loaded[quantization] = in_float32(self.run.load(base).model), weight_bytes(base.model)
        return self._loaded[quantization]

    def _change(self, quantization, rank, alpha, kinds) -> PeftModel:
        return checkpoints.change(self._tuned(quantization)[0], rank, alpha, kinds)

    def _measure(self, state: tuple, still_wanted) -> dict[str, float]:
        if state not in self._scores:
            model = self._changed_model(*state)
            still_wanted()
            scores = evaluation.score(model, self.rows)
            still_wanted()
            self._scores[state] = scores | {"general_loss": evaluation.score(model, self.general)["loss"]}
        still_wanted()
        return self._scores[state]

    def _answer(self, state: tuple, prompt: str, still_wanted) -> str:
        if (state, prompt) not in self._answers:
            tuned = replace(self.base, model=self._changed_model(*state))
            (self._answers[state, prompt],) = evaluation.answers(tuned, [Example(prompt, "")], ANSWER_TOKENS)
        still_wanted()
        return self._answers[state, prompt]

    def _curves(self, rank: int, alpha: float, kinds: Sequence[str]) -> dict[str, tuple[list[float], list[float]]]:
        """Group of modules -> median singular values of its updates, as trained and now (none where switched off)."""
        curves = {}
        for group, members in (("attention", ATTENTION), ("MLP", MLP)):
            values = [s[: self.rank] for name, s in self.spectra.items() if name.rpartition(".")[2] in members]
            if values:
                trained = torch.stack(values).median(0).values
                on = any(kind in members for kind in kinds)
                curves[group] = trained.tolist(), (trained[:rank] * alpha / self.alpha).tolist() if on else []
        return curves


def adapter_bytes(model: PeftModel, rank: int, kinds: Sequence[str]) -> int:
    """Bytes of the adapter's two matrices on modules of these names, in float32, at a rank: 4 r (in + out) each."""
    layers = [layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    named = [name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    sizes = [layer.in_features + layer.out_features for layer, kind in zip(layers, named, strict=True) if kind in kinds]
    return FLOAT32_BYTES * rank * sum(sizes)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights as they are stored, each storage once, the scales of quantized ones included."""
    return LiveBytes([*model.parameters(), *quantization_tensors(model)]).now
