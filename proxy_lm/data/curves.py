"""Curves: a number as a function of the progress of a run, written in YAML as a number or as a list of points.

    rate: 0.9                                      # constant
    rate: [[0.0, 0.4], [0.2, 0.9]]                 # a straight line over the first fifth, constant after it
    pair: [[0.1, 0.5], [0.3, 0.0, cosine]]         # the way to the second point is half a cosine: level at both ends

Progress is 0 at the start of the run and 1 at its end, counted in symbols of the stream (ids emitted over ids planned), so neither
accumulation nor a queue can bend a curve.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import model_serializer, model_validator

from proxy_lm.config import Settings

F64 = npt.NDArray[np.float64]
Way = Literal["linear", "cosine"]
_WAYS: Final = ("linear", "cosine")
MAX_WEIGHT: Final = 1000.0


class Curve(Settings):
    """A share from 0 to 1 as a function of progress from 0 to 1; constant before the first point and after the last.

    In YAML a number is a constant, and a list of [progress, value] or [progress, value, cosine] is a curve; progress goes strictly up."""

    what: ClassVar[str] = "share"
    greatest: ClassVar[float] = 1.0

    points: tuple[tuple[float, float, Way], ...]
    """(progress, value, the way from the point before to this one), progress strictly increasing."""

    @classmethod
    def constant(cls, value: float) -> Self:
        """The same value all along."""
        return cls(points=((0.0, value, "linear"),))

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, bool) or value is None or isinstance(value, str):
            raise ValueError(f"a {cls.what} is a number from 0 to {cls.greatest:g}, or a list of [progress, value] pairs")
        if isinstance(value, (int, float)):
            return {"points": ((0.0, value, "linear"),)}
        if isinstance(value, dict) and set(value) == {"points"}:
            value = value["points"]
        if isinstance(value, (list, tuple)):
            return {"points": tuple(cls._whole_point(point) for point in value)}
        return value

    @classmethod
    def _whole_point(cls, point: Any) -> tuple[Any, Any, str]:
        if isinstance(point, (list, tuple)) and len(point) == 3 and point[2] in _WAYS:
            return tuple(point)
        if not isinstance(point, (list, tuple)) or len(point) != 2:
            raise ValueError(
                f"{point!r} is not a [progress, value] pair; write for example [[0, 0.4], [0.2, 0.9]], or [0.2, 0.9, cosine] as the second"
            )
        return (*point, "linear")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.points:
            raise ValueError("a curve without points says nothing; write a number, or at least one [progress, value] pair")
        if self.points[0][2] != "linear":
            raise ValueError(
                f"the first point {list(self.points[0])} has nothing before it that could be curved; leave out '{self.points[0][2]}'"
            )
        last = -1.0
        for progress, value, _ in self.points:
            if not 0.0 <= progress <= 1.0:
                raise ValueError(f"progress {progress} is outside 0..1; 0 is the start of the run and 1 its end")
            if not 0.0 <= value <= self.greatest:
                hint = "; write 0.9 for 90 %" if self.greatest == 1.0 else ""
                raise ValueError(f"{self.what} {value} is outside 0..{self.greatest:g}{hint}")
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
        return [[progress, value] if way == "linear" else [progress, value, way] for progress, value, way in self.points]

    def __call__(self, progress: npt.ArrayLike) -> F64:
        """Values at the given progress, any shape; clamped to the first and the last point."""
        at = np.asarray(progress, dtype=np.float64)
        xs, ys, is_curved = _knots(self.points)
        values = np.full(at.shape, ys[0]) if ys.size == 1 else np.asarray(np.interp(at, xs, ys), dtype=np.float64)
        if is_curved:
            to = np.clip(np.searchsorted(xs, at, side="right"), 1, max(1, xs.size - 1))
            for k in range(1, xs.size):
                if self.points[k][2] == "cosine":
                    share = np.clip((at - xs[k - 1]) / (xs[k] - xs[k - 1]), 0.0, 1.0)
                    curved = ys[k - 1] + (ys[k] - ys[k - 1]) * (0.5 - 0.5 * np.cos(np.pi * share))
                    # Machines differ in the last bit of a cosine, and a plan must not.
                    values = np.where((to == k) & (at >= xs[0]), np.round(curved, 12), values)
        return values

    @property
    def is_zero(self) -> bool:
        """True when the value is 0 everywhere."""
        return all(value == 0.0 for _, value, _ in self.points)

    @property
    def is_constant(self) -> bool:
        """True when the value is the same everywhere."""
        return len({value for _, value, _ in self.points}) == 1


@functools.lru_cache(maxsize=256)
def _knots(points: tuple[tuple[float, float, Way], ...]) -> tuple[F64, F64, bool]:
    """(progress, values, whether any way is curved): a plan asks for them thousands of times."""
    return np.array([point[0] for point in points]), np.array([point[1] for point in points]), any(way == "cosine" for *_, way in points)


class WeightCurve(Curve):
    """A weight from 0 to 1000 as a function of progress, written like a share."""

    what: ClassVar[str] = "weight"
    greatest: ClassVar[float] = MAX_WEIGHT
