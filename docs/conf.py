"""Builds the documentation: ``sphinx-build -W --keep-going -b html docs docs/_build/html``."""

import os

import transformers

import sklearn_irt
from sklearn_irt.doc_link import DOCUMENTATION

# Progress bars and reports of the libraries would end up in the pages, and in those of worker processes as well.
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
# Of the notebook's kernel: its bars are not shown in a page, so that it does without ipywidgets.
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"

project = "sklearn_irt"
author = "The sklearn_irt developers"
project_copyright = author
version = release = sklearn_irt.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = [
    "_build",
    "**.ipynb_checkpoints",
    "auto_examples/**.ipynb",
    "auto_examples/**.md5",
]

# Every name of this package that a docstring refers to must have a page. Names of other projects are left as text:
# their inventories lie on the network, and a build must not depend on it.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!sklearn_irt).*")]

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections have the types in words
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# The notebooks are stored without outputs, so that the pages show what this version computes.
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"benchmarks|quickstart|__init__\.py",  # the quick start prints alone, for a terminal
    "within_subsection_order": "FileNameSortKey",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("sklearn_irt",),
    "reference_url": {"sklearn_irt": None},
    "abort_on_example_error": True,
    "show_memory": False,
    "min_reported_time": 1,
    "parallel": 2,  # with a thread each, which small products use better than two
    "download_all_examples": False,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = "sklearn_irt"
html_baseurl = f"{DOCUMENTATION}/"
html_static_path = ["_static"]
html_css_files = ["page.css"]
html_theme_options = {
    "icon_links": [],
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "header_links_before_dropdown": 5,
    "navbar_align": "left",
}
html_sidebars = {
    "index": [],
    "getting_started": [],
    "how_it_works": [],
    "measurements": [],
}
