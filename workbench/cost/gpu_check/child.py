"""`python -m workbench.cost.gpu_check.child`: takes one measurement, described by JSON on stdin; prints JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import torch

from workbench.cost.gpu_check.cases import STEP, Case
from workbench.cost.gpu_check.comparisons import compare
from workbench.cost.gpu_check.models import configuration
from workbench.memory.steps.gpu_steps import measured_steps

MARK = "measured: "  # before the line that the parent reads; libraries may print others


def main() -> int:
    """Measure, and print what was found; out of memory is a finding."""
    asked = json.load(sys.stdin)
    case, device = Case.from_dict(asked["case"]), torch.device(asked["device"])
    print(MARK + json.dumps(measured(case, device)), flush=True)
    return 0


def measured(case: Case, device: torch.device) -> dict[str, Any]:
    """The finding: its status, and what was measured or why nothing was."""
    if case.setup and case.setup.method.name == "qlora" and (reason := _without_bitsandbytes()):
        return {"status": "skipped", "words": reason}
    try:
        if case.setup is None or case.kind != STEP:
            return {"status": "measured", "ways": compare(case, device)}
        found = measured_steps(configuration(case.model), case.setup, device, case.timed_steps)
        return {"status": "measured", **asdict(found)}
    except (torch.OutOfMemoryError, MemoryError) as error:
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        return {
            "status": "out of memory",
            "allocated_bytes": peak,
            "words": str(error).splitlines()[0] if str(error) else "",
        }


def _without_bitsandbytes() -> str:
    """Why QLoRA cannot be measured here; empty if it can."""
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"QLoRA is left out: bitsandbytes does not load ({type(error).__name__}); pip install bitsandbytes."
    return ""


if __name__ == "__main__":
    sys.exit(main())
