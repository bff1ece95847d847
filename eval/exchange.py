"""What a processor second of a compressor or teacher costs in training FLOPs: as many as training does in a second, at its fastest.

    rates = paces(results)                      scale, budget -> Pace
    charged(run, rates[run.scale, run.budget])  Charge: FLOPs paid once for all runs of the view, and in every run for its teacher

Training is counted in FLOPs and a compressor in seconds, so 'with compressor' needs a rate of exchange. It is the fastest pace (training
FLOPs over device seconds) that a finished run of that scale and budget reached, of any arm: a busy machine makes seconds longer, both those
of runs and those of compressors, so a slow run says less about the machine than about its neighbours, and the fastest charges compressors
most. Where none is timed at a scale and budget it is that of the nearest scale (in body parameters, as a ratio), there of the same budget
if it can be. Where none is timed at all it is `ASSUMED_OPERATIONS_PER_SECOND`, and `said` says so.

What an artifact counts of its own arithmetic is charged where it is more than its seconds.

Not promised: that a compressor's seconds could not be fewer. They are those of its code on one processor, and on an accelerator each is
charged like a second of the device, which is too much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from eval.results import ArmResult, Results
from proxy_lm.report import si
from proxy_lm.view_training import ASSUMED_OPERATIONS_PER_SECOND

Place = tuple[str | None, str | None]
"""Scale, budget."""


@dataclass(frozen=True)
class Pace:
    """How many FLOPs a second is worth at one scale and budget."""

    flops_per_second: float
    kind: Literal["own", "nearest", "assumed"]
    of: Place | None
    """Where the run stands that reached it; None where none is timed."""


class Charge(NamedTuple):
    """FLOPs of one run's compressor and teacher."""

    once: float
    """Fitting and encoding, for all runs of the view."""
    teacher: float
    """Asking the teacher, anew in every run."""


def paces(results: Results) -> dict[Place, Pace]:
    """The rate of exchange at every scale and budget of the comparison."""
    fastest: dict[Place, float] = {}
    sizes: dict[Place, int] = {}
    for run in results.arms:
        place = run.scale, run.budget
        if place not in sizes or run.name == results.baseline:
            sizes[place] = run.num_parameters["body"]
        if run.status == "done" and run.device_seconds:
            fastest[place] = max(fastest.get(place, 0.0), run.training_flops / run.device_seconds)
    return {place: _pace(place, fastest, sizes) for place in sizes}


def _pace(place: Place, fastest: Mapping[Place, float], sizes: Mapping[Place, int]) -> Pace:
    if place in fastest:
        return Pace(fastest[place], "own", place)
    if not fastest:
        return Pace(ASSUMED_OPERATIONS_PER_SECOND, "assumed", None)

    def far(other: Place) -> tuple[float, bool, float]:
        return abs(math.log(max(1, sizes[other]) / max(1, sizes[place]))), other[1] != place[1], -fastest[other]

    nearest = min(fastest, key=far)
    return Pace(fastest[nearest], "nearest", nearest)


def charged(run: ArmResult, pace: Pace) -> Charge:
    """A run's compressor and teacher at that pace, and never less than what was counted."""
    cost = run.compressor
    counted = max(0.0, run.compressor_flops - cost.teacher_seconds * ASSUMED_OPERATIONS_PER_SECOND)
    seconds = cost.train_seconds + cost.encode_seconds
    return Charge(max(counted, seconds * pace.flops_per_second), cost.teacher_seconds * pace.flops_per_second)


def said(results: Results) -> list[str]:
    """How seconds were charged, in sentences; nothing where no arm has a compressor or teacher."""
    if not any(run.compressor_flops or run.compressor_seconds for run in results.arms):
        return []
    rates = paces(results)
    costs = "With compressor a processor second of fitting, encoding or teaching costs"
    own = [f"{_name(place)}: {si(pace.flops_per_second)}" for place, pace in rates.items() if pace.kind == "own"]
    if not own:
        rate = si(ASSUMED_OPERATIONS_PER_SECOND)
        lines = [f"{costs} {rate} FLOPs, which may be far too little: no run of this comparison is timed."]
    else:
        told = f"FLOPs a second; {'; '.join(own)}" if len(rates) > 1 else f"{own[0].partition(': ')[2]} FLOPs"
        lines = [f"{costs} what training does in a second at its fastest ({told})."]
    for of in dict.fromkeys(pace.of for pace in rates.values() if pace.kind == "nearest"):
        untimed = [_name(place) for place, pace in rates.items() if pace.kind == "nearest" and pace.of == of]
        lines.append(f"Nothing is timed at {', '.join(untimed)}: charged as at {_name(of or (None, None))}.")
    return lines + _untimed(results)


def _name(place: Place) -> str:
    return " ".join(part for part in place if part is not None) or "this comparison"


def _untimed(results: Results) -> list[str]:
    """Arms whose compressor or teacher has no seconds in the results, so that its charge is too small."""
    fitted = [run.name for run in results.arms if _fits(run) and not run.compressor.train_seconds + run.compressor.encode_seconds]
    asked = [run.name for run in results.finished if run.differs.get("teacher") and not run.compressor.teacher_seconds]
    return [
        f"{what} of {', '.join(dict.fromkeys(names))} took seconds that are not in the results, and are not charged."
        for what, names in (("Fitting and encoding", fitted), ("The teacher", asked))
        if names
    ]


def _fits(run: ArmResult) -> bool:
    return bool(run.differs.get("views") or run.differs.get("teacher"))
