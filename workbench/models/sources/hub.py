"""Whether the Hugging Face Hub answers, asked once before its client tries every file with long pauses."""

from __future__ import annotations

from workbench.console import say

SECONDS = 8  # to wait for an answer


def answers(name: str, revision: str | None) -> bool:
    """Whether the Hub answers a request for this model, an error status included; True in offline mode, unasked.

    Without this check, a Hub that accepts connections and never answers is retried silently for several minutes.
    """
    from huggingface_hub import HfApi, is_offline_mode

    if is_offline_mode():
        return True
    try:
        HfApi().model_info(name, revision=revision, timeout=SECONDS)
    except Exception as error:
        if not is_transport_error(error):
            return True  # gated, unknown, busy: the client's own error is more specific
        say(f"The Hub does not answer ({type(error).__name__}); looking for {name} in the local cache.")
        return False
    return True


def is_transport_error(error: BaseException) -> bool:
    """Whether there was no answer: no route, no such host, a time-out. The client may use httpx or httpx2."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
