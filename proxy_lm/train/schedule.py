"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state.

Cosine is the schedule of the published proxy-compression runs (warm-up, then half a cosine down to a floor). WSD (warm-up, stable, decay)
holds the peak and goes down in a straight line over the last share of the run.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from proxy_lm.config import Settings


class ScheduleSettings(Settings):
    """How the learning rate moves over the run; all values are shares of the optimizer's `learning_rate` or of the run's steps."""

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    """cosine: half a cosine down to the floor. wsd: constant, then a straight line down. constant: warm-up only."""

    warmup_share: float = Field(default=0.02, ge=0, le=1)
    """Share of the steps in which the rate rises in a straight line from 0 to the peak."""

    warmup_steps: int | None = Field(default=None, ge=0)
    """Warm-up in steps; takes the place of `warmup_share` when given."""

    decay_share: float = Field(default=0.2, ge=0, le=1)
    """wsd only: share of the steps at the end in which the rate falls."""

    floor: float = Field(default=0.1, ge=0, le=1)
    """The rate at the last step, as a share of the peak."""


def learning_rate(settings: ScheduleSettings, peak: float, step: int, num_steps: int) -> float:
    """Rate of the update that makes step `step` (counted from 0) of `num_steps`."""
    warmup = settings.warmup_steps if settings.warmup_steps is not None else round(settings.warmup_share * num_steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if settings.kind == "constant":
        return peak
    if settings.kind == "cosine":
        progress = (step - warmup) / max(num_steps - 1 - warmup, 1)
        return peak * (settings.floor + (1 - settings.floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))
    decay = round(settings.decay_share * num_steps)
    remaining = num_steps - 1 - step
    if decay == 0 or remaining >= decay:
        return peak
    return peak * (settings.floor + (1 - settings.floor) * remaining / decay)
