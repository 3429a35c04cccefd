"""Progress of a scoring: a bar on a terminal, one line in a log, nothing if it takes only a moment."""

from __future__ import annotations

import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from workbench.console import on_terminal, progress_wanted, say

SHORT = 3.0  # seconds; a shorter scoring is not announced


class ScoringProgress:
    """Counts the tokens that are scored and, after the first batch, tells how long the rest will take. words: of what.

    tokens: how many there will be; more can be expected later.
    """

    def __init__(self, words: str, tokens: int):
        self.words, self.total, self.done = words, tokens, 0
        self._began = time.perf_counter()
        self._told = False
        self._bar: Any = None

    def __enter__(self) -> ScoringProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with suppress(OSError, ValueError):  # stderr is closed
                self._bar.close()

    def expect(self, tokens: int) -> None:
        """More tokens will come."""
        self.total += tokens
        if self._bar is not None:
            self._bar.total = self.total

    def advance(self, tokens: int) -> None:
        """So many more tokens are done."""
        self.done += tokens
        if not self._told:
            self._told = True
            self._tell((time.perf_counter() - self._began) * self.total / self.done)
        if self._bar is not None:
            with suppress(OSError, ValueError):
                self._bar.update(tokens if self._bar.n else self.done)

    def _tell(self, seconds: float) -> None:
        if seconds < SHORT:
            return
        if not (progress_wanted() and on_terminal()):
            say(f"{self.words}: about {seconds:.0f} s")
            return
        from tqdm import tqdm

        form = "{desc}: {percentage:3.0f} % {bar:20} {remaining} left"
        self._bar = tqdm(total=self.total, desc=self.words, bar_format=form, leave=False)
