"""Every notebook of the course, executed from top to bottom in the smoke tier.

The copies with outputs, of failed notebooks too, are in build/executed/.
"""

import nbformat
import pytest

from support.lessons import SHAPED
from workbench.course.runner import NOTEBOOKS, find_notebooks, run_notebook

EXECUTED = NOTEBOOKS.parent / "build" / "executed"
# What came of the predictions that are judged by what ships with the course, whatever is trained here.
OUTCOMES = {"04_memory_and_cost": "It was: less than 2 times", "05_rank_sweep": "It was: the rate"}


@pytest.mark.course
@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in find_notebooks()])
def test_notebook(path):
    result = run_notebook(path, EXECUTED)
    if not result.passed:
        pytest.fail(str(result.failure), pytrace=False)
    if path.stem.startswith(SHAPED or "none"):
        assert answer_of(nbformat.read(EXECUTED / path.name, as_version=4)).startswith("**The answer:**")
    assert OUTCOMES.get(path.stem, "") in (EXECUTED / path.name).read_text(encoding="utf-8")


def answer_of(notebook):
    """The text that the cell tagged "answer" gives."""
    (cell,) = [cell for cell in notebook.cells if "answer" in cell.metadata.get("tags", [])]
    return "".join(output.get("data", {}).get("text/markdown", "") for output in cell.outputs)


@pytest.mark.slow
def test_no_notebook_is_left_out(request):
    items = [item for item in request.session.items if item.get_closest_marker("course")]
    collected = sorted(item.callspec.params["path"].name for item in items)
    on_disk = sorted(path.name for path in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    assert collected == on_disk
