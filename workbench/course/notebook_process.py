"""The process that `supervisor` starts for a notebook: papermill, which starts the kernel."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.course.supervisor import PR_SET_PDEATHSIG, prctl

KERNEL = "python3"


def _execute(job: Mapping[str, Any]) -> int:
    """Run papermill with settings for an unattended run; returns the exit code. job: see `runner.run_notebook`."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    try:
        executed = papermill.execute_notebook(
            job["input"],
            job["output"],
            parameters=job["parameters"],
            kernel_name=KERNEL,
            cwd=Path(job["input"]).parent,
            progress_bar=False,
            start_timeout=120,
            execution_timeout=job["cell_timeout"],
            iopub_timeout=60,
            raise_on_iopub_timeout=True,
        )
    except papermill.PapermillExecutionError:
        reason = ""  # the traceback in the executed copy says it all
    except CellTimeoutError as error:
        reason = str(error).splitlines()[0]
    except DeadKernelError:
        reason = "The kernel died while this cell ran. The usual cause is that the computer ran out of memory."
    else:
        # papermill lets a cell that calls sys.exit() pass, and leaves the cells after it out
        if all(cell.metadata.papermill.status == "completed" for cell in executed.cells):
            return 0
        reason = "This cell left the notebook with SystemExit; the cells after it did not run."
    Path(job["reason"]).write_text(reason, encoding="utf-8")
    return 1


if __name__ == "__main__":
    prctl(PR_SET_PDEATHSIG, 9)  # if the supervisor is killed, so is papermill; its kernel then ends by itself
    sys.exit(_execute(json.loads(sys.argv[1])))
