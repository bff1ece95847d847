"""`metrics.jsonl` as a file to read: its whole lines, one a step, and what is wrong with the others. No torch here."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Line:
    """What a step's line says of its identity."""

    step: int
    loss_hex: str
    batch_digest: str
    rows_digest: str | None
    """None in runs of before there was one."""
    total_symbols: int
    discarded: str | None
    """Why the step was not learnt from; None for the others."""


def read_lines(path: Path) -> tuple[list[Line], list[str], bool]:
    """The whole lines, the problems in words, and whether the file ends in the middle of a line, as a kill leaves it."""
    lines: list[Line] = []
    problems: list[str] = []
    torn = False
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                torn = True
                break
            try:
                lines.append(_line(json.loads(text)))
            except (ValueError, KeyError, TypeError) as error:
                problems.append(f"line {number} is not the line of a step ({type(error).__name__}: {str(error)[:80]})")
    return lines, problems, torn


def read_faults(path: Path) -> tuple[set[int], list[str]]:
    """The discarded steps that `faults.jsonl` tells of, and the problems in words. A line that a kill has torn is none."""
    steps: set[int] = set()
    problems: list[str] = []
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                value = json.loads(text)
                if value["event"] == "discarded":
                    steps.add(int(value["step"]))
            except (ValueError, KeyError, TypeError) as error:
                if text.endswith(b"\n"):
                    problems.append(f"line {number} is not the line of a fault ({type(error).__name__}: {str(error)[:80]})")
    return steps, problems


def _line(value: Any) -> Line:
    """Raises `ValueError`, `KeyError` or `TypeError` where a field is missing, of another type, or contradicts another."""
    step, loss, loss_hex = int(value["step"]), value["loss_nats"], str(value["loss_hex"])
    exact = float.fromhex(loss_hex)
    if (loss is None) == math.isfinite(exact) or (loss is not None and loss != exact):
        raise ValueError(f"loss_nats {loss} and loss_hex {loss_hex} differ")
    return Line(
        step=step,
        loss_hex=loss_hex,
        batch_digest=str(value["batch_digest"]),
        rows_digest=value.get("rows_digest"),
        total_symbols=int(value["total_symbols"]),
        discarded=value.get("discarded"),
    )
