"""The gpu tier, rehearsed on the CPU: the same cells, small random models in the place of the large ones."""

from pathlib import Path

import pytest

from support.small_models import write_model
from support.tiny_pages import page_rows, save_pages, save_tiny_page_encoder
from workbench.course.runner import find_notebooks, run_notebook

# lesson: (architecture, a piece of its source, what stands there in the rehearsed copy). The gpu tier scores every test
# row, and lesson 05 trains as long as its study; two steps and eight rows run the same lines.
LESSONS = {
    "07": ("olmo2", '"gpu": 240', '"gpu": 8'),
    "06": ("olmo2", '"gpu": None', '"gpu": 8'),
    "05": ("llama", '**(smoke if tier == "smoke" else {})', "**smoke"),
    "03": ("qwen3", '"gpu": (200, 16, None)', '"gpu": (2, 16, 8)'),
}


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_runs_on_other_architectures(lesson, base, tmp_path):
    architecture, usual, short = LESSONS[lesson]
    folder = write_model(tmp_path / architecture, architecture, base.tokenizer)
    (path,) = find_notebooks([lesson])
    source, quoted = path.read_text(encoding="utf-8"), usual.replace('"', '\\"')
    assert source.count(quoted) == 1, f"{path.name} no longer holds {usual}: change LESSONS"
    copy = tmp_path / path.name
    copy.write_text(source.replace(quoted, short.replace('"', '\\"')), encoding="utf-8")
    parameters = {"model": str(folder)} | ({"steps": 2} if lesson in ("06", "07") else {})
    result = run_notebook(copy, tmp_path / "executed", tier="gpu", parameters=parameters)
    if not result.passed:
        pytest.fail(str(result.failure), pytrace=False)


def test_lesson_09_searches_pages(tmp_path, monkeypatch):
    """The processor without videos, see `support.tiny_pages`, has to be registered in the kernel as well."""
    (tmp_path / "sitecustomize.py").write_text("import support.tiny_pages\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[1]}:{Path(__file__).parents[2]}")
    parameters = {
        "encoder": str(save_tiny_page_encoder(tmp_path)),
        "pages": str(save_pages(tmp_path / "pages", page_rows(96))),
    }
    (path,) = find_notebooks(["09"])
    result = run_notebook(path, tmp_path / "executed", tier="gpu", parameters=parameters)
    if not result.passed:
        pytest.fail(str(result.failure), pytrace=False)
