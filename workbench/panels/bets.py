"""The learner's bets on the claims, one choice a claim, saved when it is made. Used in lessons 00 and 06."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets as widgets

from workbench.claims.ledger import BETS, DEPENDS, NOT_SUPPORTED, SUPPORTED, Verdict, claims, load_bets, save_bets
from workbench.errors import WorkbenchError
from workbench.panels.base import alert, show_live, static_class
from workbench.training.store import RunStore

NO_BET = "no bet yet"
CHOICES = (SUPPORTED, DEPENDS, NOT_SUPPORTED)


class BetsPanel:
    """A choice for each claim of BETS, open at first. `bets` holds the choices made; each is saved in the store."""

    def __init__(self, store: RunStore | None = None) -> None:
        self.store = store or RunStore()
        saved = load_bets(self.store)
        ledger = claims()
        self.controls = {
            claim: widgets.ToggleButtons(options=CHOICES, value=saved.get(claim), style={"button_width": "auto"})
            for claim in BETS
        }
        self.message = widgets.HTML()
        rows = []
        for claim, control in self.controls.items():
            control.observe(self._save, names="value")
            words = f"<b>{claim}</b>: {html.escape(ledger[claim].text)} <i>(article {ledger[claim].source})</i>"
            rows += [widgets.HTML(words), control]
        self.widget = widgets.VBox([*rows, self.message])
        self._tell()

    @property
    def bets(self) -> dict[str, str]:
        """Claim -> bet, for the claims that have one."""
        return {claim: control.value for claim, control in self.controls.items() if control.value}

    def _save(self, _change: dict) -> None:
        try:
            save_bets(self.bets, self.store)
        except OSError as error:
            words = f"Your bets could not be saved in {self.store.path} ({error.strerror}). "
            self.message.value = alert(WorkbenchError(f"{words}Set WORKBENCH_RUNS to a folder that can be written."))
            return
        self._tell()

    def _tell(self) -> None:
        self.message.value = f"<p>{len(self.bets)} of {len(self.controls)} bets made and saved.</p>"

    def _ipython_display_(self) -> None:
        name = static_class()
        items = "".join(f"<li>{claim}: {control.value or NO_BET}</li>" for claim, control in self.controls.items())
        text = "; ".join(f"{claim}: {control.value or NO_BET}" for claim, control in self.controls.items())
        data = {"text/html": f'<div class="{name}">Your bets<ul>{items}</ul></div>', "text/plain": f"Your bets: {text}"}
        show_live(self.widget, data, {}, name)


def bets_and_verdicts(bets: dict[str, str], verdicts: Sequence[Verdict]) -> str:
    """A Markdown table with a row for each verdict: claim, the learner's bet, verdict, evidence, rule."""
    rows = [[_claim(v), bets.get(v.claim, NO_BET), f"**{v.verdict}**", v.evidence, v.rule] for v in verdicts]
    return _table(["claim", "you bet", "your runs say", "evidence", "counts as supported"], rows)


def verdict_table(verdicts: Sequence[Verdict], heading: str) -> str:
    """The same without bets. heading: of the column of verdicts, e.g. "the stored grid says"."""
    rows = [[_claim(v), f"**{v.verdict}**", v.evidence, v.rule] for v in verdicts]
    return _table(["claim", heading, "evidence", "counts as supported"], rows)


def _claim(verdict: Verdict) -> str:
    return f"`{verdict.claim}`: {claims()[verdict.claim].text}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
