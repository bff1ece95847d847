"""How documents are told over a run: each share, weight and order is a curve of its own over progress (see `curves`).

    mix:
      rate: [[0.0, 0.4], [0.2, 0.9]]     # of the documents told once and whole: from 40 % to 90 % by a view in the first fifth
      pair: [[0.0, 0.5], [0.2, 0.0]]     # half of the documents told twice at the start, none after a fifth
      parallel: 0.05                     # told twice, neither telling sees the other
      splice: [[0.2, 0.0], [0.3, 0.2, cosine]]   # told once, raw and by a view in turn
      max_cuts: 3
      raw_first: 0.5
      repeat: [[0.3, 0.5], [0.3001, 0.0]]  # half of the rows of the first 30 % repeat their first half
      weights: {spm: 2, gzip: [[0, 1], [0.5, 0]]}
      loss_weights: {raw: 1.0, spm: 0.75}
      anneal: 0.05                       # the last twentieth of the run is raw only

`preset: paper` stands for the published recipe instead: see `MixSettings.preset`.

The shares are of documents: the shares of symbols and of source bytes follow from the views' lengths and are in `Plan.summary`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from proxy_lm.config import Settings
from proxy_lm.data.curves import F64, Curve, WeightCurve
from proxy_lm.data.fim import FimSettings
from proxy_lm.errors import RequestError

__all__ = ["Curve", "MixSettings", "Shares", "WeightCurve"]

# Places that `cuts` offers in each document, hence also the most cuts.
MAX_CUTS: Final = 16
# The published recipe: 40 % to 90 % of the tellings by a view, in a straight line over the first fifth of the run.
_PAPER_RATES: Final = (0.4, 0.9)
_PAPER_WARM_UP: Final = 0.2
_ZERO: Final = Curve.constant(0.0)
_Part = Literal["pair", "parallel", "splice"]
_TOLD_TWICE_OR_IN_TURN: Final[tuple[_Part, ...]] = ("pair", "parallel", "splice")


class Shares(NamedTuple):
    """Shares of documents at some progress, arrays of its shape. What pair, parallel and splice leave is told by a view with the
    probability `rate`, else raw."""

    rate: F64
    pair: F64
    parallel: F64
    splice: F64


class MixSettings(Settings):
    """What share of the documents is told how. One draw decides one thing, so each share is exactly what is written here."""

    preset: Literal["paper", "paper-parallel"] | None = None
    """The published recipe in place of rate, pair, parallel and splice. The share r of tellings by a view goes from 0.4 to 0.9 in a line
    over the first fifth of the run, where some documents are told twice: up to r = 0.5 these are r / (1 - r) of them, and the others
    are raw; above, 1 / r - 1, and the others by a view. After the fifth, 0.9 by a view and 0.1 raw, none twice. (arXiv 2602.04289, data
    mixture and training schedule.) paper-parallel: the same, but neither of two tellings sees the other, the paper's control."""

    rate: Curve = _ZERO
    """Probability that a document which is told once and whole is told by a view instead of raw. A number, or [[progress, value], ...]."""

    pair: Curve = _ZERO
    """Share of the documents told twice, raw and by a view, where the second telling sees the first."""

    parallel: Curve = _ZERO
    """Share of the documents told twice, where neither telling sees the other."""

    splice: Curve = _ZERO
    """Share of the documents told once, raw and by a view in turn, cut at borders of the view's symbols. A document without such a border
    inside is told as `rate` decides, and counted."""

    max_cuts: int = Field(default=3, ge=1, le=MAX_CUTS)
    """Cuts of a spliced document: each number from 1 to this one (or to the borders that were drawn for the document) is equally likely."""

    raw_first: Curve = Curve.constant(0.5)
    """Probability that raw comes first in a document told twice or in turn."""

    weights: dict[str, WeightCurve] | None = None
    """Relative weight of each view of the run, by name; views that are left out get 0. None: all equal."""

    loss_weights: dict[str, WeightCurve] = Field(default_factory=dict)
    """Weight in the objective of what is predicted, by `raw` or the view's name; what is left out, and specials, weigh 1. Reported losses
    are never weighed."""

    fim: FimSettings = FimSettings()
    """Fill-in-the-middle, of the documents told raw."""

    repeat: Curve = _ZERO
    """Share of the rows, not documents, that say their first half twice, however it is told (`repeat.py`): something to copy from, for a
    model that has yet to learn to look back. With packing=cut only."""

    anneal: float = Field(default=0.0, ge=0.0, le=1.0)
    """The last share of the run that is raw only, whatever the curves say, and says nothing twice."""

    @model_validator(mode="before")
    @classmethod
    def _from_older_spelling(cls, value: Any) -> Any:
        """Runs saved before `parallel` was a share of its own say which share of `pair` it is; they must still be read."""
        if not isinstance(value, dict) or not isinstance(value.get("parallel_share"), (int, float)):
            return value
        share = value["parallel_share"]
        rest = {key: item for key, item in value.items() if key != "parallel_share"}
        if share == 0 or not 0 < share <= 1 or "parallel" in rest:
            return rest if share == 0 else value
        pair = Curve.model_validate(rest.get("pair", 0.0)).points
        scaled = {name: [(at, part * y, way) for at, y, way in pair] for name, part in (("pair", 1 - share), ("parallel", share))}
        return rest | scaled

    @field_validator("weights")
    @classmethod
    def _weights_are_weights(cls, weights: dict[str, WeightCurve] | None) -> dict[str, WeightCurve] | None:
        if weights and all(weight.is_zero for weight in weights.values()):
            raise ValueError("all weights are 0; give at least one view a weight above 0")
        return weights

    @model_validator(mode="after")
    def _check(self) -> MixSettings:
        given = [name for name in ("rate", *_TOLD_TWICE_OR_IN_TURN) if not getattr(self, name).is_zero]
        if self.preset is not None:
            if given:
                raise ValueError(
                    f"preset={self.preset} sets the shares and {', '.join(given)} is given too; leave out one or the other "
                    "(mix={} clears a file's shares)"
                )
            return self
        # Straight lines reach their greatest sum at a point; cosines may between points.
        knots = [point[0] for name in _TOLD_TWICE_OR_IN_TURN for point in getattr(self, name).points]
        progress = np.unique(np.concatenate([knots, np.linspace(0.0, 1.0, 2049)]))
        shares = {name: getattr(self, name)(progress) for name in _TOLD_TWICE_OR_IN_TURN}
        total = np.sum(list(shares.values()), axis=0)
        worst = int(np.argmax(total))
        if total[worst] > 1.0 + 1e-9:
            parts = " + ".join(f"{name} {values[worst]:.4g}" for name, values in shares.items() if values[worst] > 0)
            raise ValueError(
                f"{parts} = {total[worst]:.4g} of the documents at progress {progress[worst]:.4g}, more than all of them; lower one of them"
            )
        return self

    def shares(self, progress: npt.ArrayLike, ahead: float = 0.0) -> Shares:
        """The shares in force at this progress, any shape: curves or preset, and the raw-only end, for which what follows up to progress +
        `ahead` is told at these shares too."""
        at = np.asarray(progress, dtype=np.float64)
        if self.preset is None:
            found = Shares(self.rate(at), self.pair(at), self.parallel(at), self.splice(at))
        else:
            found = _paper(at, in_parallel=self.preset == "paper-parallel")
        if self.anneal == 0.0:
            return found
        before = at + ahead < 1.0 - self.anneal
        return Shares(*(np.where(before, share, 0.0) for share in found))

    def share_of_rows_that_repeat(self, progress: npt.ArrayLike) -> F64:
        """The share of rows that say their first half twice at this progress, the shape of it."""
        at = np.asarray(progress, dtype=np.float64)
        return np.where(at < 1.0 - self.anneal, self.repeat(at), 0.0)

    def share_is_zero(self, name: _Part) -> bool:
        """True when no document is told in this layout, at any progress."""
        if self.preset is not None:
            return name != ("parallel" if self.preset == "paper-parallel" else "pair")
        is_zero: bool = getattr(self, name).is_zero
        return is_zero or self.anneal == 1.0

    @property
    def tells_raw(self) -> bool:
        """False where the mix never asks for raw bytes; a document that its view cannot express is told raw even so."""
        whole_views = self.preset is None and all(value == 1.0 for _, value, _ in self.rate.points)
        return not whole_views or self.anneal > 0.0 or any(not self.share_is_zero(name) for name in _TOLD_TWICE_OR_IN_TURN)

    @property
    def weights_are_constant(self) -> bool:
        """True when the draw among views is the same all along."""
        return self.weights is None or all(weight.is_constant for weight in self.weights.values())

    def can_be_drawn(self, name: str) -> bool:
        """True when the view of this name has a weight above 0 at some progress."""
        return self.weights is None or (name in self.weights and not self.weights[name].is_zero)

    def cumulative_weights(self, names: Sequence[str], progress: npt.ArrayLike = 0.0) -> F64:
        """Upper borders in 0..1 of each view's share of the draws, shape [..., num_views], the last exactly 1.

        Raises `RequestError` for weights of views the run does not have, for views wanted in a run that has none, and where all are 0."""
        at = np.asarray(progress, dtype=np.float64)
        for name in self.weights or ():
            if name not in names:
                raise RequestError(f"mix.weights names the view '{name}', which the run does not have; known: {', '.join(names) or 'none'}")
        if not names:
            self._refuse_views()
            return np.zeros((*at.shape, 0))
        curves = [None if self.weights is None else self.weights.get(name) for name in names]
        default = 1.0 if self.weights is None else 0.0
        shares = np.stack([np.full(at.shape, default) if curve is None else curve(at) for curve in curves], axis=-1)
        total = shares.sum(axis=-1, keepdims=True)
        if (total <= 0.0).any():
            raise RequestError(
                f"mix.weights = {self._dumped('weights')} gives no view of the run a weight above 0 at progress "
                f"{np.atleast_1d(at)[np.argmin(np.atleast_2d(total))]:.4g}; known: {', '.join(names)}"
            )
        borders: F64 = np.cumsum(shares, axis=-1) / total
        # Rounding must not leave a gap below 1, nor give a share to a view of weight 0 at the end.
        rest = np.flip(np.cumsum(np.flip(shares, axis=-1), axis=-1), axis=-1) - shares
        borders[rest <= 0.0] = 1.0
        return borders

    def check_names(self, names: Sequence[str]) -> None:
        """Raise `RequestError` for curves that the views of the run cannot follow, at any progress."""
        knots = [point[0] for weight in (self.weights or {}).values() for point in weight.points]
        self.cumulative_weights(names, np.unique(np.array([0.0, 1.0, *knots])))
        for name in self.loss_weights:
            if name != "raw" and name not in names:
                raise RequestError(
                    f"mix.loss_weights names the view '{name}', which the run does not have; known: {', '.join(['raw', *names])}"
                )

    def loss_weights_at(self, progress: float, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """Weights in the objective by code, float32 [num_views + 2]: raw, the views `names` in their order, specials (always 1)."""
        weights = [float(self.loss_weights[name](progress)) if name in self.loss_weights else 1.0 for name in ("raw", *names)]
        return np.array([*weights, 1.0], dtype=np.float32)

    def _refuse_views(self) -> None:
        if self.preset is not None:
            raise RequestError(f"mix.preset = {self.preset} asks for views, but the run names none; add one under views or leave it out")
        for what in ("rate", *_TOLD_TWICE_OR_IN_TURN):
            if not getattr(self, what).is_zero:
                raise RequestError(
                    f"mix.{what} = {self._dumped(what)} asks for views, but the run names none; add one under views or set mix.{what}=0"
                )

    def _dumped(self, what: str) -> Any:
        return self.model_dump(mode="json")[what]


def _paper(progress: F64, in_parallel: bool) -> Shares:
    """Pairs are calibrated so that r stays the share of tellings by a view: view / (raw + view) = r with pairs counted on both sides."""
    low, high = _PAPER_RATES
    r = low + (high - low) * progress / _PAPER_WARM_UP
    warm = progress < _PAPER_WARM_UP
    r = np.where(warm, r, high)
    twice = np.where(warm, np.where(r <= 0.5, r / (1.0 - r), 1.0 / r - 1.0), 0.0)
    rate = np.where(warm, np.where(r <= 0.5, 0.0, 1.0), high)
    zero = np.zeros_like(r)
    return Shares(rate, zero, twice, zero) if in_parallel else Shares(rate, twice, zero, zero)
