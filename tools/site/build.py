"""Build the site: the executed lessons, the documents, and the API reference, as pages that need no network.

    .venv/bin/python tools/site/build.py [--executed DIR] [--to DIR]

Executes every lesson in the laptop tier first, unless --executed names a folder with executed copies. The panels that
compute in the browser are alive on the pages. Ends with an error if Sphinx warns or if a lesson is missing.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
from sphinx.cmd.build import build_main

import workbench as package
from workbench import RunStore
from workbench.claims.book import as_markdown, book
from workbench.cli import main as workbench
from workbench.panels.live.standalone import MIME, page_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHILDREN = {  # the pages below a page, in the order of the menu
    "data/reference/FINDINGS.md": ["/ledger", "README", "/benchmarks/README", "/FAMILIES"],
    "using.md": ["docs/INSTALL", "docs/USING", "docs/DESIGN", "api", "data/README", "CONTRIBUTING", "CHANGELOG"],
}
WIDGET = "application/vnd.jupyter.widget-view+json"


def main() -> None:
    """Build the site into a folder, and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executed", type=Path, help="folder with executed lessons; without it they are executed")
    parser.add_argument(
        "--to", type=Path, default=ROOT / "build" / "site", help="the site's folder; default build/site"
    )
    options = parser.parse_args()
    executed = options.executed or ROOT / "build" / "lessons"
    if options.executed is None and workbench(["notebooks", "--tier", "laptop", "--out", str(executed)]):
        sys.exit("A lesson failed (see above), so no site was built.")
    source = options.to.parent / f"{options.to.name}-source"
    lay_out(source, executed)
    shutil.rmtree(options.to, ignore_errors=True)
    status = build_main(["-q", "-W", "--keep-going", "-j", "2", str(source), str(options.to)])
    if status:
        sys.exit(status)
    print(f"The site is in {options.to}: open index.html in a browser.")


def lay_out(source: Path, executed: Path) -> None:
    """Fill `source` with the files of the repository, the lessons as executed, and the pages of the site's own."""
    shutil.rmtree(source, ignore_errors=True)
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listing.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
            if name.endswith(".md"):
                text = (ROOT / name).read_text(encoding="utf-8")
                (source / name).write_text(without_readme_links(text, (ROOT / name).parent), encoding="utf-8")
    lessons = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    for name in lessons:
        if not (executed / name).is_file():
            sys.exit(f"There is no executed copy of {name} in {executed}.")
        lesson = nbformat.read(executed / name, as_version=4)
        nbformat.write(for_the_site(lesson, Path(name).stem), source / "notebooks" / name)
    shutil.copyfile(HERE / "conf.py", source / "conf.py")
    (source / "_static").mkdir()
    shutil.copyfile(HERE / "site.css", source / "_static" / "site.css")
    shutil.copyfile(HERE / "index.md", source / "index.md")
    (source / "using.md").write_text("# Using and changing it\n\nThe package, the data, and how to add to them.\n")
    ledger = as_markdown(book(RunStore(source / "runs")))  # of which there are none
    (source / "ledger.md").write_text(f"# The ledger of claims\n\n{ledger}\n")
    (source / "api.md").write_text(api_page())
    for page, children in (CHILDREN | {"notebooks/README.md": [*lessons, "LEADING"]}).items():
        with (source / page).open("a", encoding="utf-8") as file:
            file.write("\n```{toctree}\n:hidden:\n\n" + "\n".join(children) + "\n```\n")


def for_the_site(lesson: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """An executed lesson without what needs a kernel; panels that compute in the browser as HTML of their own."""
    lesson.cells = [cell for cell in lesson.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    lesson.metadata.pop("widgets", None)  # their state, which a page could show only with scripts from a network
    for number, cell in enumerate(lesson.cells):
        if cell.cell_type != "code":
            continue
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            cell.metadata.setdefault("tags", []).append("hide-input")
        cell.outputs = [
            alive(output, f"{name}-{number}") for output in cell.outputs if WIDGET not in output.get("data", {})
        ]
    return lesson


def alive(output: Any, name: str) -> Any:
    """An output as it is, or the live panel in its place."""
    if MIME not in output.get("data", {}):
        return output
    page = page_of(output["data"][MIME], name)
    return nbformat.v4.new_output("display_data", data={"text/html": page, "text/plain": output["data"]["text/plain"]})


def without_readme_links(text: str, folder: Path) -> str:
    """A document's links to the README as links to the front page, which shows it. folder: the document's own."""

    def replaced(link: re.Match[str]) -> str:
        is_readme = (folder / link["path"]).resolve() == ROOT / "README.md"
        return f"]({link['path'].removesuffix('README.md')}index.md{link['rest'] or ''})" if is_readme else link[0]

    return re.sub(r"\]\((?P<path>[^)#:\s]*README\.md)(?P<rest>#[^)]*)?\)", replaced, text)


def api_page() -> str:
    """The reference of everything public as Markdown, which the docstrings are: a section for each folder."""
    folders = [name for _, name, is_folder in pkgutil.iter_modules(package.__path__) if is_folder]
    modules = [package, *(importlib.import_module(f"workbench.{name}") for name in folders)]
    parts = ["# API reference", "What `import workbench` gives, then each folder's own names."]
    for module in modules:
        names = [name for name in getattr(module, "__all__", ()) if callable(getattr(module, name))]
        if names:
            parts += [f"## {module.__name__}", inspect.getdoc(module) or ""]
        parts += [entry(name, getattr(module, name)) for name in names]
    return "\n\n".join(parts) + "\n"


def entry(name: str, thing: Any) -> str:
    """A function, or a class with its public methods: signature and docstring."""
    parts = [f"### {name}", f"```python\n{name}{signature(thing)}\n```", inspect.getdoc(thing) or ""]
    if inspect.isclass(thing):
        methods = {key: one for key, one in vars(thing).items() if inspect.isfunction(one) and not key.startswith("_")}
        for key, method in methods.items():
            told = inspect.getdoc(method)
            parts += [f"```python\n{name}.{key}{signature(method)}\n```", told] if told else []
    return "\n\n".join(parts)


def signature(thing: Any) -> str:
    """The arguments of something callable; empty where Python cannot tell."""
    try:
        return str(inspect.signature(thing))
    except ValueError:
        return ""


if __name__ == "__main__":
    main()
