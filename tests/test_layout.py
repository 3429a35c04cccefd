"""The README's table of modules is whole, and its order is that of the imports."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "workbench"


def rows() -> list[list[str]]:
    """The modules of each row of the table, a folder by its name."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("| module of `workbench/` |")[2]
    lines = text.partition("\n\n")[0].splitlines()[2:]
    return [re.findall(r"`(\w+)/?`", line.split("|")[1]) for line in lines]


def imports(file: Path) -> set[str]:
    """The modules (or folders) of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "workbench":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


def test_every_module_has_a_place_in_the_table():
    there = {file.stem for file in PACKAGE.glob("*.py")} | {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    listed = [module for row in rows() for module in row]
    assert sorted(listed) == sorted(there - {"__init__"})


def test_a_module_imports_only_from_its_own_row_and_those_above():
    place = {module: number for number, row in enumerate(rows()) for module in row}
    for file in PACKAGE.rglob("*.py"):
        module = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        late = {other for other in imports(file) & set(place) if place[other] > place.get(module, len(place))}
        assert not late, f"{file.name} imports {late}"
