"""The notebooks as files: short, no outputs, nothing that breaks a viewer, parameters that papermill can replace."""

import copy

import nbformat
import pytest

from workbench.course.notebook_process import KERNEL
from workbench.course.runner import find_notebooks, read_parameters

STRIP = "run `make strip`"
NOTEBOOK_FILES = [pytest.param(path, id=path.stem) for path in find_notebooks()]


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    """What is wrong with a notebook as a file, one sentence each."""
    code = [(number, cell) for number, cell in enumerate(notebook.cells, start=1) if cell.cell_type == "code"]
    found = [f"cell {number} has outputs: {STRIP}" for number, cell in code if cell.outputs]
    found += [f"cell {number} has an execution count: {STRIP}" for number, cell in code if cell.execution_count]
    found += [f"cell {number} has {n} lines (15 at most)" for number, cell in code if (n := lines_of(cell)) > 15]
    if "widgets" in notebook.metadata:
        found.append(f"it holds the state of widgets: {STRIP}")
    if notebook.metadata.get("kernelspec", {}).get("name") != KERNEL:
        found.append(f"its kernel is not {KERNEL!r}")
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5) or any("id" not in cell for cell in notebook.cells):
        found.append("it is not in notebook format 4.5 with cell ids")
    if len(notebook.cells) > 25:
        found.append(f"it has {len(notebook.cells)} cells (25 at most)")
    return found


def lines_of(cell: nbformat.NotebookNode) -> int:
    """Lines of code in a cell: neither blank nor only a comment."""
    lines = [line.strip() for line in cell.source.splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in lines)


@pytest.mark.parametrize("path", NOTEBOOK_FILES)
def test_the_file_is_clean(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert not faults(notebook)


@pytest.mark.parametrize("path", NOTEBOOK_FILES)
def test_the_tier_is_a_parameter_and_laptop_its_default(path):
    assert read_parameters(path)["tier"] == "laptop"


def clean_notebook():
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("1 + 1")]
    metadata = {"kernelspec": {"name": KERNEL, "display_name": "Python 3", "language": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def with_output(notebook):
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="2")]


def with_count(notebook):
    notebook.cells[1].execution_count = 3


def with_widgets(notebook):
    notebook.metadata["widgets"] = {}


def with_another_kernel(notebook):
    notebook.metadata.kernelspec.name = "my-venv"


def in_an_old_format(notebook):
    notebook.nbformat_minor = 4


def with_a_long_cell(notebook):
    notebook.cells[1].source = "x = 1\n" * 16


def with_many_cells(notebook):
    notebook.cells += [copy.deepcopy(notebook.cells[0]) for _ in range(24)]


@pytest.mark.parametrize(
    "spoil",
    [with_output, with_count, with_widgets, with_another_kernel, in_an_old_format, with_a_long_cell, with_many_cells],
)
def test_each_fault_is_found(spoil):
    notebook = clean_notebook()
    assert not faults(notebook)
    spoil(notebook)
    assert len(faults(notebook)) == 1
