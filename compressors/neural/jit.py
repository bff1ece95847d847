"""`compiled`: numba, once, with the settings that all loops of this room share.

Compiled code is cached beside the source (or in the user's cache folder where that is read-only), gives up the interpreter lock, and
uses no fast-math: equal input gives equal output on every machine.

numba looks at the file of a function only, and compiles what that calls in other files into it. So the folder of the cache is named after
all of them: an encoder compiled from today's files never meets a decoder that still holds yesterday's.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Final, TypeVar, cast

import numpy as np
from numba import config, njit


def _import_arrays() -> None:
    """The part of numba that any first call imports. It imports scipy.linalg, where that is installed, to learn whether numpy.kron can be
    compiled, which no loop here uses: a quarter of what a command waits for before its first document."""
    if "scipy.linalg" in sys.modules:
        return
    sys.modules["scipy.linalg"] = None  # type: ignore[assignment]  # "not installed"
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        del sys.modules["scipy.linalg"]


_import_arrays()
# The interpreter ends with searches for garbage among all objects, most of them numba's: a quarter of a second. Files are closed without.
atexit.register(gc.freeze)

F = TypeVar("F", bound=Callable[..., object])


_KEYS: Final[dict[str, str]] = {}


def compiled(function: F) -> F:
    """`function` as machine code, compiled on first call for the types it is given."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_cache_folder(sys.modules[function.__module__]))
    try:
        return cast(F, njit(nogil=True, cache=True, error_model="numpy")(function))
    finally:
        config.CACHE_DIR = before


def _cache_folder(module: ModuleType) -> Path:
    """Beside the source, where that can be written; `NUMBA_CACHE_DIR` has the last word."""
    name = f"{module.__name__}-{_key(module)}"
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR, name)
    beside = Path(str(module.__file__)).parent
    if os.access(beside, os.W_OK):
        return beside / "__pycache__" / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "proxy-lm", name)


def _key(module: ModuleType) -> str:
    """Digest of a module's source, of the numbers it imports and of the modules whose compiled functions it imports."""
    if module.__name__ not in _KEYS:
        digest = hashlib.sha256(Path(str(module.__file__)).read_bytes())
        for name, value in sorted(vars(module).items()):
            if isinstance(value, int | float | np.generic):
                digest.update(f"{name}={value!r}".encode())
            elif isinstance(value, np.ndarray):
                digest.update(name.encode() + value.tobytes())
            elif hasattr(value, "py_func") and value.__module__ != module.__name__:
                digest.update(f"{name}={_key(sys.modules[value.__module__])}".encode())
        _KEYS[module.__name__] = digest.hexdigest()[:16]
    return _KEYS[module.__name__]
