"""In what order the stream's rows are trained on: shuffled inside windows, as a pure function of the row number.

A long document fills many rows in a row of the stream. Trained on in that order, a step of short rows would be one or two documents told
at length, and its gradient as noisy. So row r of the run is not row r of the stream but a row of the same window of `window` rows, under
a keyed permutation. Nothing is buffered, and a curve over progress is blurred by at most one window.

Not promised: that rows of one document never meet in a step; a window is a shuffle, not a sort.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from proxy_lm.data.permutation import key_of, permute

I64 = npt.NDArray[np.int64]

# The default window: a sixteenth of the run, so that the curves keep their shape, and no more rows than mix documents well.
WINDOWS_PER_RUN: Final = 16
MAX_DEFAULT_WINDOW: Final = 4096


def default_window(num_rows: int) -> int:
    """Rows shuffled together where the configuration does not say."""
    return max(1, min(MAX_DEFAULT_WINDOW, num_rows // WINDOWS_PER_RUN))


def stream_rows(seed: int, rows: I64, num_rows: int, window: int) -> I64:
    """Rows of the stream that rows 0 <= `rows` < num_rows of the run are: int64, the shape of `rows`, a bijection of 0..num_rows-1."""
    if window <= 1:
        return rows
    out = np.empty_like(rows)
    whole = num_rows // window * window
    inside = rows < whole
    key = key_of(seed, "row")
    out[inside] = rows[inside] // window * window + permute(key, window, rows[inside])
    rest = num_rows - whole  # the last window is shorter and is an epoch of its own permutation
    if rest:
        out[~inside] = whole + permute(key_of(seed, "last row"), rest, rows[~inside] - whole)
    return out
