"""Steps whose loss is not to be learnt from: recognised on all ranks alike, before the update, from the step's global sums.

    spikes: {skip: true, factor: 6, window_steps: 128, rollback_after: 8, max_rollbacks: 2}      # in a run's YAML

A loss that is not finite is always discarded. A spike is a step whose loss lies over what its own mixture of views leads to expect: the
running mean of each view's loss, weighed by this step's targets, so that a schedule that tells more by a costly view is no spike. After
`rollback_after` discarded steps in a row the weights and moments go back to a checkpoint from before them, and the run goes on with the
next step's data: steps never go back, so every row is read once and `metrics.jsonl` has no gap. All that is decided here is a function of
the global sums and of `SpikeState`, which every checkpoint holds: a resumed run decides the same.

Not promised: spikes of the gradient alone (clipping bounds those; where the gradient is not finite DeepSpeed makes no update, and that is
counted here too), and a decision in the first half window, where nothing is known yet. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import Field

from proxy_lm.config import Settings

# After so many discarded steps in a row, with no rollback left to try, nothing is being learnt.
MAX_BAD_STEPS: Final = 10


class SpikeSettings(Settings):
    """What is done with steps whose loss is not finite or far too high."""

    skip: bool = True
    """Discard the update of a step whose loss is a spike. Updates of losses that are not finite are discarded in any case."""

    factor: float = Field(default=6.0, gt=0)
    """A spike lies so many standard deviations, of what recent steps were off, over the expected loss."""

    floor_nats: float = Field(default=0.1, ge=0)
    """And at least so much over it, in nats a target: a very even loss makes no spikes of small waves."""

    window_steps: int = Field(default=128, ge=4)
    """Horizon of the running means. Nothing is a spike before half of it has been seen of a view."""

    rollback_after: int | None = Field(default=8, ge=1)
    """Discarded steps in a row after which the run goes back to an older checkpoint's weights; None: never."""

    max_rollbacks: int = Field(default=2, ge=0)
    """Rollbacks of a whole run. When they are used up, or there are none, ten discarded steps in a row end the run with exit code 1."""


@dataclass
class SpikeState:
    """What a decision depends on beside the step itself; plain numbers, saved in every checkpoint."""

    nll_nats: list[float] = field(default_factory=list)
    """Decayed sums over learnt steps by code (raw, each view, specials)."""
    num_targets: list[float] = field(default_factory=list)
    num_seen: list[int] = field(default_factory=list)
    """Learnt steps that had targets of the code."""
    square: float = 0.0
    """Decayed sum of squares of what learnt steps were off, in nats^2; `weight` is the same sum of ones."""
    weight: float = 0.0
    in_row: int = 0
    """Discarded steps up to now without a learnt one between."""
    num_discarded: int = 0
    discarded_since_rollback: bool = False
    """No step was learnt since the last rollback."""
    rollbacks: list[dict[str, int]] = field(default_factory=list)
    """{"at": step after which the weights went back, "to": step they went back to}."""


@dataclass(frozen=True)
class Verdict:
    """What is to be done with a step. `why` is None for one to learn from, else "loss not finite", "spike" or "gradient not finite"."""

    why: str | None
    expected_nats: float | None = None
    """Mean loss that was expected of the judged views, and the limit over it; None where nothing could be expected."""
    limit_nats: float | None = None

    @property
    def discard(self) -> bool:
        """Whether the update must not be made."""
        return self.why is not None


def judge(settings: SpikeSettings, state: SpikeState, nll_nats: Sequence[float], num_targets: Sequence[float]) -> Verdict:
    """Judge a step by its global sums of the first head's losses and targets by code. Changes nothing."""
    if not all(math.isfinite(value) for value in nll_nats):
        return Verdict("loss not finite")
    if not settings.skip:
        return Verdict(None)
    expected, found = _compare(state, nll_nats, num_targets, settings.window_steps // 2)
    if expected is None or state.weight == 0:
        return Verdict(None)
    deviation = math.sqrt(state.square / state.weight)
    limit = max(settings.factor * deviation, settings.floor_nats)
    return Verdict("spike" if found - expected > limit else None, expected, limit)


def count(settings: SpikeSettings, state: SpikeState, verdict: Verdict, nll_nats: Sequence[float], num_targets: Sequence[float]) -> None:
    """Take a judged step into the state: its losses where it was learnt from, else only that it was not."""
    if verdict.discard:
        state.in_row += 1
        state.num_discarded += 1
        return
    state.in_row = 0
    state.discarded_since_rollback = False
    decay = 1 - 1 / settings.window_steps
    expected, found = _compare(state, nll_nats, num_targets, 1)
    if expected is not None:
        state.square = decay * state.square + (found - expected) ** 2
        state.weight = decay * state.weight + 1
    missing = len(nll_nats) - len(state.nll_nats)
    for numbers in (state.nll_nats, state.num_targets):
        numbers.extend([0.0] * missing)
    state.num_seen.extend([0] * missing)
    for code, (nll, targets) in enumerate(zip(nll_nats, num_targets, strict=True)):
        state.nll_nats[code] = decay * state.nll_nats[code] + float(nll)
        state.num_targets[code] = decay * state.num_targets[code] + float(targets)
        state.num_seen[code] += targets > 0


def wants_rollback(settings: SpikeSettings, state: SpikeState) -> bool:
    """Whether the discarded steps in a row are enough, and a rollback is left."""
    return settings.rollback_after is not None and state.in_row >= settings.rollback_after and len(state.rollbacks) < settings.max_rollbacks


def give_up_after(settings: SpikeSettings, state: SpikeState) -> int:
    """Discarded steps in a row that end the run: later than a rollback that is still to come."""
    left = settings.rollback_after is not None and len(state.rollbacks) < settings.max_rollbacks
    return max(MAX_BAD_STEPS, (settings.rollback_after or 0) + 1) if left else MAX_BAD_STEPS


def roll_back(state: SpikeState, older: SpikeState, *, at: int, to: int) -> None:
    """The weights went back to step `to` after step `at`: what is expected goes back with them, what was counted does not."""
    for name in ("nll_nats", "num_targets", "num_seen", "square", "weight"):
        setattr(state, name, getattr(older, name))
    state.rollbacks.append({"at": at, "to": to})
    state.in_row = 0
    state.discarded_since_rollback = True


def newest_good_step(state: SpikeState, step: int) -> int:
    """The newest step whose weights a rollback after `step` may take: before the bad row, and older than what the last one took if no
    step was learnt since."""
    good = step - state.in_row
    return min(good, state.rollbacks[-1]["to"] - 1) if state.discarded_since_rollback and state.rollbacks else good


def state_of(saved: dict[str, Any] | SpikeState) -> SpikeState:
    """From a checkpoint's JSON."""
    return saved if isinstance(saved, SpikeState) else SpikeState(**saved)


def _compare(state: SpikeState, nll_nats: Sequence[float], num_targets: Sequence[float], enough: int) -> tuple[float | None, float]:
    """(expected, found) mean loss over the codes that were seen in `enough` steps; None where this step has none of them."""
    known = [code for code, seen in enumerate(state.num_seen) if seen >= enough and num_targets[code] > 0]
    targets = sum(float(num_targets[code]) for code in known)
    if not targets:
        return None, 0.0
    expected = sum(float(num_targets[code]) * state.nll_nats[code] / state.num_targets[code] for code in known)
    return expected / targets, sum(float(nll_nats[code]) for code in known) / targets
