"""The claims that the course tests, bets on them, and the rules of each verdict."""

from workbench._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "BETS": "ledger",
        "Claim": "ledger",
        "DEPENDS": "ledger",
        "NOT_SUPPORTED": "ledger",
        "SUPPORTED": "ledger",
        "UNTESTED": "ledger",
        "VERDICTS": "ledger",
        "Verdict": "ledger",
        "claims": "ledger",
        "clearly_ahead": "runs",
        "judge": "runs",
        "judge_memory": "memory",
        "judge_quantization": "quantization",
        "judge_ranks": "ranks",
        "load_bets": "ledger",
        "memory_ratio": "runs",
        "save_bets": "ledger",
    },
)
