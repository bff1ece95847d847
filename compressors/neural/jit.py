"""`compiled`: numba, once, with the settings that all loops of this room share.

Compiled code is cached beside the source (or in the user's cache folder where that is read-only), gives up the interpreter lock, and
uses no fast-math: equal input gives equal output on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """`function` as machine code, compiled on first call for the types it is given."""
    return cast(F, njit(nogil=True, cache=True, error_model="numpy")(function))
