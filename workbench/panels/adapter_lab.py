"""AdapterLab: a trained adapter at another rank or alpha, on some modules only, or on a base of fewer bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import ipywidgets as widgets
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from workbench.adapters import updates
from workbench.adapters.methods import ATTENTION, MLP
from workbench.errors import RunError
from workbench.memory.steps.real_steps import quantization_tensors
from workbench.models.base import Base, load_again
from workbench.models.checks import most_tokens
from workbench.models.quantized import QUANTIZATIONS
from workbench.models.sharing import in_float32
from workbench.panels.base import LABEL, SlowPanel, View, choice, slider, steps_slider, switch
from workbench.plots.adapters import adapter_lab
from workbench.plots.style import Figure, described
from workbench.scoring import evaluation
from workbench.tasks.encoding import encode
from workbench.tasks.example import Example
from workbench.tasks.tasks import Task
from workbench.training.peak_memory import LiveBytes
from workbench.training.runs import Run

ALPHAS = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4)  # multiples of the alpha in training
GENERAL_CHUNKS = 1  # of twelve: enough to see the direction, and the answer takes two seconds
ANSWER_TOKENS = 12
FLOAT32_BYTES = 4
NOT_QUANTIZED = "none"  # None as the value of a list of choices leaves its field empty on the page


@dataclass(frozen=True)
class State:
    """One setting of the adapter: rank and alpha, the kinds of modules on which it acts, and the base's storage."""

    quantization: str | None
    rank: int
    alpha: float
    kinds: tuple[str, ...]


class AdapterLab(SlowPanel):
    """A run's adapter on its base. Controls: rank, alpha, attention, mlp, quantization, prompt.

    base: what `run` was trained on. run: of `lora` or `qlora`, no DoRA, with its adapter saved. task: its first `rows`
    test rows are scored. Raises RunError for another kind of run, for another base, or if the adapter's files are gone.
    """

    def __init__(self, base: Base, run: Run, task: Task, rows: int = 16):
        method = run.method
        rank, alpha = method.get("rank"), method.get("alpha")
        if method["name"] not in ("lora", "qlora") or method.get("dora") or rank is None or alpha is None:
            raise RunError(f"AdapterLab takes a lora or qlora run apart, without DoRA; run {run.id} is {run.label}.")
        self.base, self.run = base, run
        self.rank, self.alpha = rank, alpha
        self.rows = encode(task.test[:rows], base.tokenizer, run.config["max_length"])
        self.general = evaluation.general_rows(base.tokenizer, most_tokens(base.model))[:GENERAL_CHUNKS]
        self._loaded: dict[str | None, tuple[PeftModel, int]] = {}
        self._scores: dict[State, dict[str, float]] = {}
        self._answers: dict[tuple[State, str], str] = {}
        self._changed_model = lru_cache(maxsize=8)(self._change)  # copying the tree of modules takes time
        self.spectra = updates.spectra(self._tuned(base.quantization)[0])
        self.kinds = tuple(sorted({name.rpartition(".")[2] for name in self.spectra}))
        super().__init__(
            f"{run.label}, trained on {task.name}: what is in it?",
            self._make_controls(task.test[0].prompt),
            self.compute,
        )

    def compute(
        self,
        rank: int,
        alpha: float,
        attention: bool,
        mlp: bool,
        quantization: str,
        prompt: str,
        raise_if_stale: Callable[[], None] = lambda: None,
    ) -> View:
        """The view of the adapter with these settings, compared with the base alone and the adapter as trained.

        Scores and answers are computed once. raise_if_stale is called between the parts of the work. Raises ValueError
        for an empty prompt, RunError for a base that the adapter does not fit.
        """
        if not prompt.strip():
            raise ValueError("The prompt is empty; write what the model shall go on from.")
        chosen, states = self._states(rank, alpha, attention, mlp, quantization)
        scores = {name: self._measure(state, raise_if_stale) for name, state in states.items()}
        answers = {name: self._answer(states[name], prompt, raise_if_stale) for name in ("base", "now")}
        exact, forgotten = exact_and_forgotten(scores)
        memory = self._memory(chosen)
        text = self._in_words(chosen, scores, forgotten, memory)
        numbers = {"base_mb": memory["base"], "adapter_mb": memory["adapter"], "forgotten": forgotten["now"]}
        numbers |= {name: scores["now"][name] for name in ("exact_match", "loss", "general_loss")}
        alt = f"{text} Asked {prompt!r}, the base says {answers['base']!r}, now {answers['now']!r}."
        heads = {"base": "the base's answer", "now": "the answer now"}
        shown = {heads[name]: answer or "(nothing)" for name, answer in answers.items()}
        result = f"exact match {exact['now']:.0%}, forgotten {forgotten['now']:+.3f} nats"

        def draw() -> Figure:
            return described(adapter_lab(exact, forgotten, self._curves(chosen), memory), alt)

        return View(draw, text, numbers, shown, result)

    def draft(self) -> View | None:
        """The update's singular values and the bytes, which take no forward pass; the scores are left open."""
        settings = self.values
        settings.pop("prompt")
        chosen, states = self._states(**settings)
        if states["now"] in self._scores or chosen.quantization not in self._loaded:
            return None
        unknown = {"exact_match": math.nan, "general_loss": math.nan}
        exact, forgotten = exact_and_forgotten(
            {name: self._scores.get(state, unknown) for name, state in states.items()}
        )
        curves, memory = self._curves(chosen), self._memory(chosen)
        return View(lambda: adapter_lab(exact, forgotten, curves, memory), "", {})

    def _states(
        self, rank: int, alpha: float, attention: bool, mlp: bool, quantization: str
    ) -> tuple[State, dict[str, State]]:
        """The state that the controls choose, and those whose scores are shown: "base", "trained" and "now"."""
        off = {*(() if attention else ATTENTION), *(() if mlp else MLP)}
        kinds = tuple(kind for kind in self.kinds if kind not in off)
        chosen = State(None if quantization == NOT_QUANTIZED else quantization, min(rank, self.rank), alpha, kinds)
        return chosen, {
            "base": State(self.base.quantization, self.rank, 0, ()),
            "trained": State(self.base.quantization, self.rank, self.alpha, self.kinds),
            # One state for every way to switch the adapter off, so that it is computed once.
            "now": chosen if alpha and kinds else State(chosen.quantization, self.rank, 0, ()),
        }

    def _memory(self, chosen: State) -> dict[str, float]:
        tuned, base_bytes = self._tuned(chosen.quantization)
        return {"base": base_bytes / 1e6, "adapter": adapter_bytes(tuned, chosen.rank, chosen.kinds) / 1e6}

    def _make_controls(self, prompt: str) -> dict[str, widgets.ValueWidget]:
        base, run = self.base, self.run
        stored_as = QUANTIZATIONS if run.method["name"] == "lora" else (base.quantization,)  # what `Run.load` takes
        names = [(kind, kind) if kind else ("not quantized", NOT_QUANTIZED) for kind in stored_as]
        alphas = [(f"{share * self.alpha:g}", share * self.alpha) for share in ALPHAS]
        layout = widgets.Layout(width="800px", max_width="calc(100% - 4px)", height="52px")
        return {
            "rank": slider("rank r", self.rank, 1, max(self.rank, 2)),
            "alpha": steps_slider("alpha", self.alpha, alphas),
            "attention": switch("attention (q, k, v, o)", True),
            "mlp": switch("MLP (gate, up, down)", True),
            "quantization": choice("base stored as", base.quantization or NOT_QUANTIZED, names),
            "prompt": widgets.Textarea(
                prompt, description="prompt", continuous_update=False, style=LABEL, layout=layout
            ),
        }

    def _in_words(
        self,
        chosen: State,
        scores: Mapping[str, Mapping[str, float]],
        forgotten: Mapping[str, float],
        memory: Mapping[str, float],
    ) -> str:
        now, before, then = scores["now"], scores["base"], scores["trained"]
        tokens = sum(len(row.ids) for row in self.general)
        return (
            f"Rank {chosen.rank} of {self.rank}, alpha {chosen.alpha:g} (trained with {self.alpha:g}), on "
            f"{len(chosen.kinds)} of {len(self.kinds)} kinds of layers; the base stored as "
            f"{chosen.quantization or self.base.dtype_name}. On {len(self.rows)} test rows: exact match "
            f"{now['exact_match']:.0%} (base {before['exact_match']:.0%}, as trained {then['exact_match']:.0%}), loss "
            f"{now['loss']:.3f} nats a token (as trained {then['loss']:.3f}). {tokens} tokens of general text: "
            f"{forgotten['now']:+.3f} nats a token over the base (as trained {forgotten['trained']:+.3f}). Weights: "
            f"base {memory['base']:,.0f} MB, adapter {memory['adapter']:.2g} MB."
        )

    def _tuned(self, quantization: str | None) -> tuple[PeftModel, int]:
        """The adapter on the base in this storage, computing in float32, and the bytes of that base's weights."""
        if quantization not in self._loaded:
            base = self.base
            if quantization != base.quantization:
                base = load_again(base, quantization)
            self._loaded[quantization] = in_float32(self.run.load(base).model), weight_bytes(base.model)
        return self._loaded[quantization]

    def _change(self, state: State) -> PeftModel:
        return updates.change(self._tuned(state.quantization)[0], state.rank, state.alpha, state.kinds)

    def _measure(self, state: State, raise_if_stale: Callable[[], None]) -> dict[str, float]:
        """The scores of a state on the test rows and, as general_loss, on general text."""
        if state not in self._scores:
            model = self._changed_model(state)
            raise_if_stale()
            scores = evaluation.score(model, self.rows)
            raise_if_stale()
            self._scores[state] = scores | {"general_loss": evaluation.score(model, self.general)["loss"]}
        raise_if_stale()
        return self._scores[state]

    def _answer(self, state: State, prompt: str, raise_if_stale: Callable[[], None]) -> str:
        if (state, prompt) not in self._answers:
            tuned = replace(self.base, model=self._changed_model(state))
            (self._answers[state, prompt],) = evaluation.answers(tuned, [Example(prompt, "")], ANSWER_TOKENS)
        raise_if_stale()
        return self._answers[state, prompt]

    def _curves(self, chosen: State) -> dict[str, tuple[list[float], list[float]]]:
        """Group of modules -> median singular values of its updates, as trained and now (none where switched off)."""
        curves = {}
        for group, members in (("attention", ATTENTION), ("MLP", MLP)):
            values = [s[: self.rank] for name, s in self.spectra.items() if name.rpartition(".")[2] in members]
            if values:
                trained = torch.stack(values).median(0).values
                on = any(kind in members for kind in chosen.kinds)
                now = (trained[: chosen.rank] * chosen.alpha / self.alpha).tolist() if on else []
                curves[group] = trained.tolist(), now
        return curves


def exact_and_forgotten(scores: Mapping[str, Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """State -> share of rows with the exact answer, and -> nats a token lost on general text since the base."""
    start = scores["base"]["general_loss"]
    exact = {name: score["exact_match"] for name, score in scores.items()}
    return exact, {name: scores[name]["general_loss"] - start for name in ("trained", "now")}


def adapter_bytes(model: PeftModel, rank: int, kinds: Sequence[str]) -> int:
    """Bytes of the adapter's matrices on modules of these names, in float32, at a rank: 4 r (in + out) a module."""
    layers = [(name.rpartition(".")[2], layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    sizes = [layer.in_features + layer.out_features for kind, layer in layers if kind in kinds]
    return FLOAT32_BYTES * rank * sum(sizes)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights as they are stored: shared storages count once, quantization scales are included."""
    return LiveBytes([*model.parameters(), *quantization_tensors(model)]).now
