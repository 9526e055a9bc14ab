"""Sphinx configuration."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version
from pathlib import Path

project = "nashsolve"
author = "The nashsolve developers"
copyright = "2026, The nashsolve developers"
release = version = installed_version("nashsolve")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
    "sphinx-mathjax-offline",  # formulas render without a network, too
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
bibtex_default_style = "plain"

# Every program of the gallery is run, and an error in one ends the build.
sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "filename_pattern": "plot_",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
    "image_srcset": ["2x"],
    "remove_config_comments": True,
    "min_reported_time": 3600,  # the seconds of a busy machine say nothing about the program
}

# Every reference in pages and docstrings must lead somewhere.
nitpicky = True
default_role = "literal"  # single backticks in docstrings are code

html_theme = "pydata_sphinx_theme"
html_title = "nashsolve"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "show_toc_level": 2,
    "header_links_before_dropdown": 8,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}

_KEYS = set(re.findall(r"^@\w+\{(\w+),", (Path(__file__).parent / "references.bib").read_text(), re.MULTILINE))


def _cite_by_key(app, what, name, obj, options, lines):
    """Turn the `[key]_` of a docstring into a citation; a key without an entry stays, and fails the build."""
    for i, line in enumerate(lines):
        lines[i] = re.sub(r"\[(\w+)\]_(?!\w)", lambda m: f":cite:t:`{m[1]}`" if m[1] in _KEYS else m[0], line)


_FIELD = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*) : (.+)")


def _list_fields(app, what, name, obj, options, lines):
    """Turn the lines `name : meaning` of a short docstring, which would run together, into a list."""
    written, inside = [], False
    for line in lines:
        if found := _FIELD.fullmatch(line):
            written += [] if inside else [""]
            written.append(f"* **{found[1]}** : {found[2]}")
            inside = True
        elif inside and line.startswith("    "):
            written.append(f"  {line.strip()}")
        else:
            written += [""] if inside else []
            written.append(line)
            inside = False
    lines[:] = written


def _say_attributes(app, what, name, obj, options, lines):
    """In a section of attributes, move a meaning from where numpydoc expects a type to where it expects words."""
    written, inside = [], False
    for k, line in enumerate(lines):
        following = lines[k + 1] if k + 1 < len(lines) else ""
        if set(following) == {"-"}:
            inside = line.strip() == "Attributes"
        found = _FIELD.fullmatch(line) if inside else None
        if found and (len(found[2]) > 30 or not following.startswith(" ")):
            written += [found[1], f"    {found[2]}"]
        else:
            written.append(line)
    lines[:] = written


def setup(app):
    app.connect("autodoc-process-docstring", _cite_by_key, priority=900)
    app.connect("autodoc-process-docstring", _list_fields, priority=800)
    app.connect("autodoc-process-docstring", _say_attributes, priority=100)  # before numpydoc
