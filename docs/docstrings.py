"""What the project's docstrings mean, in the markup that autodoc takes.

They are plain text for a reader of the code: `code` in single backticks, and formulas
and examples indented by four.
"""

import re

_CODE = re.compile(r'`([^`]+)`(\w?)')
# 'scale: T.' describes; autodoc would begin a list at T.
_LETTER = re.compile(r'^(\s+\w+: )(\w\.)(?= |$)')
# Every Flax module has these two.
_FLAX = re.compile(r'(?:, |(?<=\())parent=<[^>]*>, name=None')


def to_rst(lines: list[str]) -> list[str]:
  """The lines of a docstring as reStructuredText; sections stay as they are."""
  found, in_block, last = [], False, ''
  for line in lines:
    indented = line.startswith('    ')
    if indented and not in_block and found and not found[-1] and last[:1].strip():
      found += ['::', '']
      in_block = True
    elif line and not indented:
      in_block = False
    found.append(line if in_block else _escape(line))
    last = line or last
  # A letter right behind the code (`x`s) would hide where the code ends.
  return _CODE.sub(_literal, '\n'.join(found)).split('\n')


def _escape(line: str) -> str:
  return _LETTER.sub(r'\1\\\2', line.replace('|', r'\|'))


def _literal(match: re.Match) -> str:
  code, letter = match.groups()
  code = code.replace(r'\|', '|')
  return f'``{code}``' + (rf'\ {letter}' if letter else '')


def without_flax_fields(signature: str) -> str:
  """The signature of a class without what every Flax module takes."""
  return _FLAX.sub('', signature)


def process(app, kind, name, subject, options, lines: list[str]) -> None:
  """For Sphinx's event `autodoc-process-docstring`."""
  del app, kind, name, subject, options
  lines[:] = to_rst(lines)


def process_signature(app, kind, name, subject, options, signature, returns):
  """For Sphinx's event `autodoc-process-signature`."""
  del app, kind, name, subject, options
  return (without_flax_fields(signature) if signature else signature), returns
