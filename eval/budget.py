"""What "matched" means: the solver that gives each arm as many steps as the same budget pays for.

    match: {flops: 2.0e14}          equal training FLOPs, counted from structure (the default)
    match: {symbols: 20_000_000}    equal ids read and predicted
    match: {source_bytes: 30_000_000}   equal bytes of source told, whatever told them
    match: {seconds: 600}           equal training seconds, from a measured pace

Steps are whole, so an arm can miss the target by half a step; more than 1 % from it, or between two arms, is refused with the remedy.
FLOPs are three times the forward pass: every matrix product of the body, the output rows of all heads over the whole joint vocabulary,
and attention over the whole row. What compressors cost is not part of the match; it stands in the ledger beside it. Seconds are a
forecast from a short probe, so there the 1 % holds for the forecast only; the ledger shows what was spent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from proxy_lm.config import Settings
from proxy_lm.errors import RequestError

MatchKind = Literal["flops", "symbols", "source_bytes", "seconds"]
TOLERANCE = 0.01


class MatchSettings(Settings):
    """What is equal between the arms; exactly one is given."""

    flops: float | None = Field(default=None, gt=0)
    """Training FLOPs of every arm."""

    symbols: int | None = Field(default=None, gt=0)
    """Ids of every arm's rows."""

    source_bytes: int | None = Field(default=None, gt=0)
    """Bytes of source told by every arm, repeats counted."""

    seconds: float | None = Field(default=None, gt=0)
    """Seconds of training of every arm, by a pace measured before."""

    @model_validator(mode="after")
    def _one(self) -> MatchSettings:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            told = f"{' and '.join(given)} are given" if given else "nothing is given"
            raise ValueError(f"{told}; give one of flops, symbols, source_bytes, seconds, and null for the others (match.flops=null)")
        return self

    @property
    def kind(self) -> MatchKind:
        """Which one is given."""
        return next(name for name in ("flops", "symbols", "source_bytes", "seconds") if getattr(self, name) is not None)  # type: ignore[return-value]

    @property
    def target(self) -> float:
        """Its value."""
        return float(getattr(self, self.kind))

    def at(self, target: float) -> MatchSettings:
        """The same unit with another target."""
        return MatchSettings.model_validate({self.kind: round(target) if self.kind in ("symbols", "source_bytes") else target})


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a step of one arm costs. `source_bytes` maps a number of steps to the bytes told by them (a planning pass)."""

    symbols_per_step: int
    flops_per_symbol: int
    source_bytes: Callable[[int], int]
    seconds_per_step: float | None = None

    @property
    def flops_per_step(self) -> int:
        """Training FLOPs of one step."""
        return self.symbols_per_step * self.flops_per_symbol

    def spent(self, kind: MatchKind, num_steps: int) -> float:
        """The budget's measure after so many steps."""
        if kind == "flops":
            return float(self.flops_per_step * num_steps)
        if kind == "symbols":
            return float(self.symbols_per_step * num_steps)
        if kind == "source_bytes":
            return float(self.source_bytes(num_steps))
        assert self.seconds_per_step is not None, "a match by seconds needs a measured pace"
        return self.seconds_per_step * num_steps


def solve(arms: Mapping[str, Rates], match: MatchSettings, *, setting: str | None = None, tolerance: float = TOLERANCE) -> dict[str, int]:
    """Steps of every arm. Raises `RequestError` naming an arm that cannot come within `tolerance` of the target, or two that end further
    apart; `setting` is the one to change in the plan, when that is not `match`."""
    setting = setting or f"match.{match.kind}"
    steps = {name: _nearest(rates, match.kind, match.target) for name, rates in arms.items()}
    longest = max(rates.spent(match.kind, steps[name]) / steps[name] for name, rates in arms.items())
    enough = f"{1.05 * longest / tolerance:.2g}"  # half a step off on either side; rounded, not below what fits
    for name, rates in arms.items():
        spent = rates.spent(match.kind, steps[name])
        if abs(spent - match.target) > tolerance * match.target:
            raise RequestError(
                f"arm '{name}' comes to {spent:.4g} {match.kind} with {steps[name]} steps, more than {100 * tolerance:g} % from the target "
                f"{match.target:.4g}, since one step is {spent / steps[name]:.4g}; with {setting} of {enough} or more all arms fit, "
                "or use fewer rows_per_step"
            )
    costs = {name: rates.spent(match.kind, steps[name]) for name, rates in arms.items()}
    least, most = (choose(costs, key=costs.__getitem__) for choose in (min, max))
    if costs[most] - costs[least] > tolerance * costs[least]:
        raise RequestError(
            f"arms '{least}' and '{most}' come to {costs[least]:.4g} and {costs[most]:.4g} {match.kind}, more than {100 * tolerance:g} % "
            f"apart, since steps are whole; with {setting} of {enough} or more all arms fit, or use fewer rows_per_step"
        )
    return steps


def _nearest(rates: Rates, kind: MatchKind, target: float) -> int:
    """The number of steps whose cost is nearest to the target, at least 1."""
    num_steps = max(1, round(target / rates.spent(kind, 1)))
    if kind != "source_bytes":
        return num_steps
    # Bytes told grow almost in proportion to steps; the mix curves stretch with the run, so a few corrections settle it.
    best = num_steps
    for _ in range(12):
        spent = rates.spent(kind, num_steps)
        if abs(spent - target) < abs(rates.spent(kind, best) - target) or best == num_steps:
            best = num_steps
        following = max(1, round(num_steps * target / max(spent, 1.0)))
        if following == num_steps:
            break
        num_steps = following
    return best


def describe(arms: Mapping[str, Rates], steps: Mapping[str, int], match: MatchSettings) -> list[dict[str, Any]]:
    """What the solver gave each arm, as JSON: one row an arm."""
    return [
        {
            "arm": name,
            "num_steps": steps[name],
            "symbols": rates.symbols_per_step * steps[name],
            "training_flops": rates.flops_per_step * steps[name],
            "off_target": rates.spent(match.kind, steps[name]) / match.target - 1,
        }
        for name, rates in arms.items()
    ]
