"""The gpu tier, rehearsed on the CPU: the same cells, small random models in the place of the 1B models."""

import pytest

from support.small_models import write_model
from workbench.course.runner import find_notebooks, run_notebook


@pytest.mark.parametrize(("lesson", "architecture"), [("06", "olmo2"), ("05", "llama"), ("03", "qwen3")])
def test_a_lesson_runs_on_other_architectures(lesson, architecture, base, tmp_path):
    folder = write_model(tmp_path / architecture, architecture, base.tokenizer)
    (path,) = find_notebooks([lesson])
    parameters = {"model": str(folder)} | ({"steps": 3} if lesson != "05" else {})  # 05 has a length of its own
    result = run_notebook(path, tmp_path / "executed", tier="gpu", parameters=parameters)
    if not result.passed:
        pytest.fail(str(result.failure), pytrace=False)
