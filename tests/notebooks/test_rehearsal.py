"""The gpu tier, rehearsed on the CPU: the same cells, small random models in the place of the 1B models."""

import pytest

from support.small_models import write_model
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
