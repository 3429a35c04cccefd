"""What the learner sees of an exercise: the verdict on an answer, and folded hints and solutions."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class Result:
    """The verdict on an answer."""

    passed: bool
    message: str
    started: bool = True

    def __bool__(self) -> bool:
        return self.passed

    @property
    def heading(self) -> str:
        """The verdict in a word or two."""
        return "Passed." if self.passed else "Not right." if self.started else "Not yet."

    def __repr__(self) -> str:
        return f"{self.heading} {self.message}"

    def _repr_html_(self) -> str:
        colour = "#009E73" if self.passed else "#D55E00" if self.started else "#999999"
        return (
            f'<div style="border-left: 6px solid {colour}; padding: 4px 12px; white-space: pre-wrap">'
            f"<b>{self.heading}</b> {html.escape(self.message)}</div>"
        )


@dataclass(frozen=True, repr=False)
class Folded:
    """Texts that open one at a time in a notebook, so that running the cell shows none of them."""

    titles: Sequence[str]
    texts: Sequence[str]
    code: bool = False

    def __repr__(self) -> str:
        return "\n\n".join(f"{title}\n{text}" for title, text in zip(self.titles, self.texts, strict=True))

    def _repr_html_(self) -> str:
        tag = "pre" if self.code else "p"
        return "".join(
            f'<details style="margin: 4px 0"><summary style="cursor: pointer">{html.escape(title)}</summary>'
            f"<{tag}>{html.escape(text)}</{tag}></details>"
            for title, text in zip(self.titles, self.texts, strict=True)
        )
