"""Every module can be imported, and public names are there when first used."""

import importlib
from pathlib import Path

import pytest

import jdyn
from tests.test_layers import COMMANDS, FILES

# Commands define their flags on import; `test_entry.py` starts each by itself.
MODULES = [
  '.'.join(path.with_suffix('').parts).removesuffix('.__init__')
  for path in FILES
  if path.stem not in COMMANDS or len(path.parts) > 2
]


@pytest.mark.parametrize('name', MODULES)
def test_module_imports_and_says_what_it_is(name):
  assert importlib.import_module(name).__doc__


@pytest.mark.parametrize('name', jdyn.__all__)
def test_public_names_exist(name):
  assert getattr(jdyn, name).__name__ == name


def test_an_unknown_public_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="'jdyn' has no attribute 'fit'"):
    jdyn.fit  # noqa: B018


def test_every_folder_is_a_package():
  folders = {path.parent for path in FILES}
  assert all(folder / '__init__.py' in FILES for folder in folders), folders
  assert Path('jdyn/typing.py') in FILES
