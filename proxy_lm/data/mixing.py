"""How often a document is told by a view, twice, or raw: two independent curves over the progress of a run.

    mix:
      rate: [[0.0, 0.4], [0.2, 0.9]]     # from 40 % to 90 % in the first fifth of the run, then 90 %
      pair: [[0.0, 0.5], [0.2, 0.0]]     # half of the documents told twice at the start, none after a fifth
      parallel_share: 0.0
      raw_first: 0.5
      weights: {spm: 2, gzip: 1}

Progress is counted in symbols of the stream (ids emitted over ids planned), so neither accumulation nor a queue can bend a curve.
The shares are of documents: the shares of symbols and of source bytes follow from the views' lengths and are in `Plan.summary`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_serializer, model_validator

from proxy_lm.config import Settings
from proxy_lm.errors import RequestError


class Curve(Settings):
    """A share from 0 to 1 as a function of progress from 0 to 1: straight lines between points, constant outside them.

    In YAML a number is a constant, and a list of [progress, value] pairs is a curve; progress goes strictly up."""

    points: tuple[tuple[float, float], ...]
    """(progress, value) pairs, both from 0 to 1, progress strictly increasing."""

    @classmethod
    def constant(cls, value: float) -> Curve:
        """The same share all along."""
        return cls(points=((0.0, value),))

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, bool) or value is None or isinstance(value, str):
            raise ValueError("a share is a number from 0 to 1, or a list of [progress, value] pairs")
        if isinstance(value, (int, float)):
            return {"points": ((0.0, value),)}
        if isinstance(value, (list, tuple)):
            for point in value:
                if not isinstance(point, (list, tuple)) or len(point) != 2:
                    raise ValueError(f"{point!r} is not a [progress, value] pair; write for example [[0, 0.4], [0.2, 0.9]]")
            return {"points": tuple(tuple(point) for point in value)}
        return value

    @model_validator(mode="after")
    def _check(self) -> Curve:
        if not self.points:
            raise ValueError("a curve without points says nothing; write a number, or at least one [progress, value] pair")
        last = -1.0
        for progress, value in self.points:
            if not 0.0 <= progress <= 1.0:
                raise ValueError(f"progress {progress} is outside 0..1; 0 is the start of the run and 1 its end")
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"share {value} is outside 0..1; write 0.9 for 90 %")
            if progress <= last:
                raise ValueError(
                    f"progress {progress} comes after {last}; it must go up from point to point (for a jump, set two points close by)"
                )
            last = progress
        return self

    @model_serializer
    def _short_form(self) -> Any:
        if len(self.points) == 1:
            return self.points[0][1]
        return [list(point) for point in self.points]

    def __call__(self, progress: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Shares at the given progress, any shape; clamped to the first and the last point."""
        xs, ys = np.array(self.points, dtype=np.float64).T
        return np.asarray(np.interp(progress, xs, ys), dtype=np.float64)

    @property
    def is_zero(self) -> bool:
        """True when the share is 0 everywhere."""
        return all(value == 0.0 for _, value in self.points)


class MixSettings(Settings):
    """What share of the documents is told how. One draw decides one thing, so each share is exactly what is written here."""

    rate: Curve = Field(default_factory=lambda: Curve.constant(0.0))
    """Probability that a document which is not paired is told by a view instead of raw. A number, or [[progress, value], ...]."""

    pair: Curve = Field(default_factory=lambda: Curve.constant(0.0))
    """Probability that a document is told twice, raw and by a view. A number, or [[progress, value], ...]."""

    parallel_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Of the documents told twice, the share whose two pieces cannot see each other (`parallel`) instead of sharing a segment (`pair`)."""

    raw_first: float = Field(default=0.5, ge=0.0, le=1.0)
    """Probability that the raw piece comes first in a document told twice."""

    weights: dict[str, float] | None = None
    """Relative weight of each view of the run, by name; views that are left out get 0. None: all equal."""

    @field_validator("weights")
    @classmethod
    def _weights_are_weights(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        if weights is None:
            return None
        for name, weight in weights.items():
            if not (weight >= 0.0 and np.isfinite(weight)):
                raise ValueError(f"weight {weight} of view '{name}' is not a number from 0 up")
        if weights and sum(weights.values()) <= 0.0:
            raise ValueError("all weights are 0; give at least one view a weight above 0")
        return weights

    def cumulative_weights(self, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """Upper borders in 0..1 of each view's share of the draws, shape [num_views], the last exactly 1.

        Raises `RequestError` for weights of views the run does not have, and for views wanted in a run that has none."""
        weights = dict.fromkeys(names, 1.0) if self.weights is None else self.weights
        for name in weights:
            if name not in names:
                raise RequestError(f"mix.weights names the view '{name}', which the run does not have; known: {', '.join(names) or 'none'}")
        if not names:
            for what, curve in (("rate", self.rate), ("pair", self.pair)):
                if not curve.is_zero:
                    raise RequestError(
                        f"mix.{what} = {curve.model_dump()} asks for views, but the run names none; add one under views or set mix.{what}=0"
                    )
            return np.zeros(0)
        shares = np.array([weights.get(name, 0.0) for name in names], dtype=np.float64)
        if shares.sum() <= 0.0:
            raise RequestError(f"mix.weights = {weights} gives no view of the run a weight above 0; known: {', '.join(names)}")
        borders: npt.NDArray[np.float64] = np.cumsum(shares) / shares.sum()
        # Rounding must not leave a gap below 1, nor give a share to a view of weight 0 at the end.
        borders[int(np.flatnonzero(shares)[-1]) :] = 1.0
        return borders
