"""How the documentation becomes a site: `sphinx-build -W docs build/site` (`pip install '.[docs]'`)."""

from minidask import __version__

project = "minidask"
copyright = "the authors of minidask"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"minidask {__version__}"
html_show_sourcelink = False
exclude_patterns = ["systemd"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "myst.xref_missing"]  # links to files of the repository are checked by test_docs.py
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
nitpicky = False
