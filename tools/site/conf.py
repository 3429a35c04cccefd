"""Sphinx's settings for the site. tools/site/build.py lays out the sources and calls Sphinx."""

from __future__ import annotations

import html
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

project = "LoRA workbench"
author = "the LoRA workbench's authors"
copyright = "2026, Apache-2.0"
extensions = ["myst_nb"]
root_doc = "index"
include_patterns = [
    "index.md",
    "notebooks/[0-9]*.ipynb",
    "notebooks/*.md",
    "data/README.md",
    "data/reference/*.md",
    "benchmarks/README.md",
    "docs/*.md",
    "*.md",
]
exclude_patterns = ["README.md"]  # the front page includes it

nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # they come from a network
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]

html_theme = "pydata_sphinx_theme"
html_title = "LoRA workbench"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "navigation_with_keys": False,
}
html_context = {"default_mode": "auto"}


def write_mathml(writer: Any, node: nodes.Node, display: str) -> None:
    """A formula as MathML, which browsers draw themselves, without a script and without a network."""
    text = node.astext()
    tag = convert(text, display=display).replace("<math ", f'<math aria-label="{html.escape(text, quote=True)}" ', 1)
    writer.body.append(tag if display == "inline" else f'<div class="math">{tag}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Let formulas be written by `write_mathml`."""
    app.add_node(nodes.math, override=True, html=(lambda writer, node: write_mathml(writer, node, "inline"), None))
    app.add_node(nodes.math_block, override=True, html=(lambda writer, node: write_mathml(writer, node, "block"), None))
