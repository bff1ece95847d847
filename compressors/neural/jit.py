"""`compiled`: numba, once, with the settings that all loops of this room share.

Compiled code is cached beside the source (or in the user's cache folder where that is read-only), gives up the interpreter lock, and
uses no fast-math: equal input gives equal output on every machine.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit


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


def compiled(function: F) -> F:
    """`function` as machine code, compiled on first call for the types it is given."""
    return cast(F, njit(nogil=True, cache=True, error_model="numpy")(function))
