"""The claims that the course tests, bets on them, and the rules of each verdict."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "BETS": "ledger",
        "Claim": "ledger",
        "DEPENDS": "ledger",
        "JUDGED": "ledger",
        "NOT_SUPPORTED": "ledger",
        "SUPPORTED": "ledger",
        "UNTESTED": "ledger",
        "VERDICTS": "ledger",
        "Verdict": "ledger",
        "claims": "ledger",
        "clearly_ahead": "runs",
        "keep_verdicts": "ledger",
        "load_bets": "ledger",
        "save_bets": "ledger",
        "verdicts": "rules",
    },
)
