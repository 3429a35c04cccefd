"""The gpu tier of lesson 06, rehearsed on the CPU: the same cells, small random models in the 1B models' place."""

import pytest
from small_models import write_model

from workbench.notebooks import find_notebooks, run_notebook


@pytest.mark.parametrize("architecture", ["olmo2", "qwen3", "llama"])
def test_lesson_06_runs_on_other_architectures(architecture, base, tmp_path):
    folder = write_model(tmp_path / architecture, architecture, base.tokenizer)
    (path,) = find_notebooks(["06"])
    result = run_notebook(path, tmp_path / "executed", tier="gpu", parameters={"model": str(folder), "steps": 3})
    if not result.passed:
        pytest.fail(str(result.failure), pytrace=False)
