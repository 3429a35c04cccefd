"""The names that a package offers are those that its stub declares, and they are the same objects."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STUBS = sorted((ROOT / "workbench").rglob("__init__.pyi"))


def package_of(stub: Path) -> str:
    return ".".join(stub.parent.relative_to(ROOT).parts)


@pytest.mark.parametrize("stub", STUBS, ids=package_of)
def test_a_stub_declares_what_its_package_offers(stub):
    package = import_module(package_of(stub))
    imports = [node for node in ast.parse(stub.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    declared = {alias.name: node.module for node in imports for alias in node.names}
    assert sorted(declared) == sorted(package.__all__)
    for name, module in declared.items():
        assert getattr(package, name) is getattr(import_module(module), name)


def test_the_top_level_stub_is_there():
    assert ROOT / "workbench" / "__init__.pyi" in STUBS


def test_a_name_that_is_not_there_is_an_attribute_error():
    package = import_module("workbench")
    assert {"train", "__version__"} <= set(dir(package))
    with pytest.raises(AttributeError, match="'workbench' has no attribute 'fine_tune'"):
        package.fine_tune  # noqa: B018
