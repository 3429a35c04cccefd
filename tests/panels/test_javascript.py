"""The panels' JavaScript, linted by oxlint as the browser gets it: several files in one scope."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.panels.live.canvas import source

SCRIPTS = (("delta_w",), ("eight_weights",), ("charts",), ("standalone", "delta_w"))
RULES = {
    "env": {"browser": True, "es2024": True},
    "categories": {"correctness": "error", "suspicious": "error", "perf": "error"},
    "rules": {
        "no-undef": "error",
        "no-shadow": "off",  # a local name of one file may be a function of another
        "no-await-in-loop": "off",  # Jupyter gives one model after the other
        "oxc/no-map-spread": "off",  # of three boxes
        "unicorn/consistent-function-scoping": "off",  # a function may stand beside the only place that uses it
    },
}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[tuple[str, ...], list[dict]]:
    """What oxlint finds in the module of each panel."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "rules.json").write_text(json.dumps(RULES), encoding="utf-8")
    return {scripts: lint(folder, source(*scripts)) for scripts in SCRIPTS}


def lint(folder: Path, code: str) -> list[dict]:
    (folder / "module.mjs").write_text(code + "\n", encoding="utf-8")
    command = [Path(sys.executable).with_name("oxlint"), "-c", "rules.json", "--format", "json", "module.mjs"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["diagnostics"]


def unused(one: dict) -> bool:
    return "no-unused-vars" in one["code"]


@pytest.mark.parametrize("scripts", SCRIPTS)
def test_a_panel_has_no_finding(scripts, found):
    assert not [one["message"] for one in found[scripts] if not unused(one)]


def test_every_function_is_used_by_some_panel(found):
    """The shared files hold functions that one panel uses and another does not."""
    by_panel = [{one["message"] for one in all_of_one if unused(one)} for all_of_one in found.values()]
    assert not set.intersection(*by_panel)


def test_a_name_that_is_not_there_is_found(tmp_path):
    (tmp_path / "rules.json").write_text(json.dumps(RULES), encoding="utf-8")
    assert [one["code"] for one in lint(tmp_path, "export default { render: () => drawn() };")] == ["eslint(no-undef)"]
