"""The claims ledger: what the articles say, what the learner bets, and what a verdict holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from workbench import learner
from workbench.errors import DamagedError
from workbench.paths import DATA, write_json
from workbench.stored import read_json
from workbench.training.store import RunStore

SUPPORTED, DEPENDS, NOT_SUPPORTED, UNTESTED = "supported", "depends", "not supported", "not yet tested"
VERDICTS = (SUPPORTED, DEPENDS, NOT_SUPPORTED)
BETS = ("memory-ratio", "speed", "forgetting", "hybrid")  # which the learner's own runs can decide
JUDGED = (*BETS, "artifact", "parity")  # by lesson 06


@dataclass(frozen=True)
class Claim:
    """A statement of one or more of the three articles (A, B, C in data/claims.json), in our words."""

    id: str
    text: str
    source: str
    notebooks: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What one kind of evidence says about one claim. evidence: a sentence with the numbers."""

    claim: str
    verdict: str
    evidence: str
    rule: str = ""  # what counts as supported


def claims() -> dict[str, Claim]:
    """Every claim by id, in the order of the ledger."""
    rows = json.loads((DATA / "claims.json").read_text(encoding="utf-8"))["claims"]
    return {row["id"]: Claim(row["id"], row["text"], row["source"], tuple(row["notebooks"])) for row in rows}


def save_bets(bets: Mapping[str, str], store: RunStore | None = None) -> None:
    """Keep the learner's bets in the folder of their runs. bets: claim id -> one of the verdicts."""
    for claim, bet in bets.items():
        if claim not in BETS or bet not in VERDICTS:
            raise ValueError(
                f"{claim!r}: {bet!r} is not a bet; the claims are {', '.join(BETS)}, the bets {', '.join(VERDICTS)}."
            )
    write_json((store or RunStore()).path / learner.FOLDER / "bets.json", dict(bets))


def keep_verdicts(found: Iterable[Verdict], store: RunStore | None = None) -> None:
    """Keep what a lesson measured of claims here, for the whole ledger; a claim that was kept before is replaced."""
    store = store or RunStore()
    decided = [one for one in found if one.verdict in VERDICTS]
    kept = {one.claim: one for one in (*kept_verdicts(store), *decided)}
    write_json(store.path / learner.FOLDER / "verdicts.json", {claim: asdict(one) for claim, one in kept.items()})


def kept_verdicts(store: RunStore | None = None) -> list[Verdict]:
    """What lessons measured of claims here, or nothing if nothing was kept (or the file is damaged)."""
    try:
        kept = read_json((store or RunStore()).path / learner.FOLDER / "verdicts.json", dict[str, dict[str, str]])
        found = [Verdict(**one) for one in kept.values()]
    except (OSError, DamagedError, TypeError):
        return []
    known = claims()
    return [one for one in found if one.claim in known and one.verdict in VERDICTS]


def load_bets(store: RunStore | None = None) -> dict[str, str]:
    """The learner's bets, or none if none were saved (or the file is damaged)."""
    try:
        bets = read_json((store or RunStore()).path / learner.FOLDER / "bets.json", dict)
        return {claim: bet for claim, bet in bets.items() if claim in BETS and bet in VERDICTS}
    except (OSError, DamagedError):
        return {}
