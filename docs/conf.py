"""Sphinx: `python -m sphinx -W -b html docs docs/_build`."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
# The pages come from the modules' docstrings; importing them needs no accelerator.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import docstrings  # noqa: E402
import generate  # noqa: E402

project = 'jdyn'
author = 'the authors of jdyn'
copyright = author
html_title = 'jdyn'
html_theme = 'furo'
html_static_path = ['static']
html_css_files = ['tables.css']
html_copy_source = False

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['_build']
myst_heading_anchors = 3

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'
autodoc_preserve_defaults = True
toc_object_entries_show_parents = 'hide'
napoleon_use_ivar = True
napoleon_numpy_docstring = False

# Two modules may hold one class; a bare name in a docstring then fits both.
suppress_warnings = ['ref.python']
linkcheck_timeout = 20


def setup(app):
  """Generates pages before Sphinx looks for them, and reads docstrings as ours."""
  app.connect('builder-inited', lambda _: generate.write(HERE / 'generated'))
  # Before napoleon, which understands their sections.
  app.connect('autodoc-process-docstring', docstrings.process, priority=400)
  app.connect('autodoc-process-signature', docstrings.process_signature)
