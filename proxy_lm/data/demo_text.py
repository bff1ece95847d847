"""Code and English of the installed Python, as two runs of bytes that share no file.

Code is whole source files. Text is what their documentation strings say: module, class and function docstrings of ASCII, at least 80
characters, without their indentation, each once, with an empty line between. A file is told as code or as text by the digest of its path,
so nothing stands in both. The standard library comes first, installed packages when it is used up; within each, the seed says the order.

Not promised: the same bytes from another Python or other packages, and anything held out from a model trained on `python:`, whose corpus
is these very files.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy_lm.data.installed import installed_roots

LEAST_CHARACTERS: Final = 80


def code_blocks(seed: int) -> Iterator[bytes]:
    """Source files, each with a line break at its end."""
    for path in _files(seed, told_as_text=False):
        source = _read(path)
        if source:
            yield source if source.endswith(b"\n") else source + b"\n"


def text_blocks(seed: int) -> Iterator[bytes]:
    """Documentation strings, each with an empty line behind it."""
    told: set[bytes] = set()
    for path in _files(seed, told_as_text=True):
        for text in docstrings(_read(path)):
            block = text.encode() + b"\n\n"
            if block not in told:
                told.add(block)
                yield block


def docstrings(source: bytes) -> list[str]:
    """The documentation strings of one source file that are ASCII and long enough, in their order; none of a file that is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = sorted((node for node in ast.walk(tree) if isinstance(node, kinds)), key=lambda node: getattr(node, "lineno", 0))
    texts = [inspect.cleandoc(text) for text in (ast.get_docstring(node, clean=False) for node in nodes) if text]
    return [text for text in texts if text.isascii() and len(text) >= LEAST_CHARACTERS]


def _files(seed: int, *, told_as_text: bool) -> Iterator[Path]:
    for root in installed_roots():
        for path in sorted((file.path for file in root.listing.files), key=lambda path: _digest(f"demo {seed} {path}")):
            if _digest(f"demo side {root.name}/{path}")[0] & 1 == told_as_text:
                yield root.folder / path


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # a package that is taken away meanwhile, a file of another user: one source less
        return b""
