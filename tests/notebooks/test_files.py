"""The notebooks as files: short, no outputs, nothing that breaks a viewer, parameters that papermill can replace."""

import copy
import re

import nbformat
import pytest

from support.lessons import SHAPED
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
    if len(notebook.cells) > 45:
        found.append(f"it has {len(notebook.cells)} cells (45 at most)")
    return found


def faults_of_shape(notebook: nbformat.NotebookNode) -> list[str]:
    """What a lesson lacks as a lesson, one sentence each."""
    cells = list(enumerate(notebook.cells, start=1))
    code = [(number, cell) for number, cell in cells if cell.cell_type == "code"]
    tagged = {
        tag: [cell for _, cell in code if tag in cell.metadata.get("tags", [])] for tag in ("answer", "take-home")
    }
    found = [
        f"it has {len(with_tag)} code cells tagged {tag!r}" for tag, with_tag in tagged.items() if len(with_tag) != 1
    ]
    for number, cell in code:
        shows = "predict_" in cell.source or "answer" in cell.metadata.get("tags", []) or "Markdown(f" in cell.source
        if shows and "import" not in cell.source and not is_folded(cell):
            found.append(f"cell {number} asks, or formats text, and is not folded (source_hidden)")
    for number, cell in cells[1:]:
        if cell.cell_type == "markdown" and (asked := questions(cell.source)):
            near = cell.source + "".join(other.source for _, other in cells[number : number + 1])
            if "<details>" not in near:
                found.append(f"cell {number} asks {asked[0]!r} without a folded answer in it or in the next cell")
    return found


def is_folded(cell: nbformat.NotebookNode) -> bool:
    return bool(cell.metadata.get("jupyter", {}).get("source_hidden"))


def questions(text: str) -> list[str]:
    """The lines of a text that end a sentence with a question mark: not headings, code, folded answers or exercises."""
    if text.startswith("## Exercise "):
        return []
    text = re.sub(r"```.*?```|`[^`]*`|<details>.*?</details>", "", text, flags=re.DOTALL)
    return [line for line in text.splitlines() if not line.startswith("#") and re.search(r"\?[*_)\"'”]*(\s|$)", line)]


def lines_of(cell: nbformat.NotebookNode) -> int:
    """Lines of code in a cell: neither blank nor only a comment."""
    lines = [line.strip() for line in cell.source.splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in lines)


@pytest.mark.parametrize("path", NOTEBOOK_FILES)
def test_the_file_is_clean(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert not faults(notebook)


@pytest.mark.parametrize("path", [path for path in NOTEBOOK_FILES if path.id.startswith(SHAPED or "none")])
def test_a_lesson_answers_what_it_asks(path):
    assert not faults_of_shape(nbformat.read(path, as_version=4))


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
    notebook.cells += [copy.deepcopy(notebook.cells[0]) for _ in range(44)]


@pytest.mark.parametrize(
    "spoil",
    [with_output, with_count, with_widgets, with_another_kernel, in_an_old_format, with_a_long_cell, with_many_cells],
)
def test_each_fault_is_found(spoil):
    notebook = clean_notebook()
    assert not faults(notebook)
    spoil(notebook)
    assert len(faults(notebook)) == 1


def shaped_notebook():
    notebook = clean_notebook()
    for tag in ("answer", "take-home"):
        metadata = {"tags": [tag], "jupyter": {"source_hidden": tag == "answer"}}
        notebook.cells.append(nbformat.v4.new_code_cell("1 + 1", metadata=metadata))
    notebook.cells.append(nbformat.v4.new_markdown_cell("## Is it so?\n`a ? b` <details>Why? So.</details>"))
    return notebook


def without_an_answer(notebook):
    del notebook.cells[2]


def without_code_to_take_home(notebook):
    del notebook.cells[3]


def with_an_answer_that_shows_its_code(notebook):
    notebook.cells[2].metadata["jupyter"]["source_hidden"] = False


def with_a_visible_prediction(notebook):
    notebook.cells[1].source = "guess = predict_choice('How much?', ['little', 'all'])"


def with_a_question_left_open(notebook):
    notebook.cells.append(nbformat.v4.new_markdown_cell("Which is **larger?** Try it."))


@pytest.mark.parametrize(
    "spoil",
    [
        without_an_answer,
        without_code_to_take_home,
        with_an_answer_that_shows_its_code,
        with_a_visible_prediction,
        with_a_question_left_open,
    ],
)
def test_each_fault_of_a_lessons_shape_is_found(spoil):
    notebook = shaped_notebook()
    assert not faults_of_shape(notebook)
    spoil(notebook)
    assert len(faults_of_shape(notebook)) == 1
