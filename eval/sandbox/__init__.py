"""Running generated programs safely and judging them from outside. `from eval.sandbox import Program, Sandbox`; see README.md."""

from eval.sandbox.programs import Outcome, Program, Verdict
from eval.sandbox.tiers import TIERS

__all__ = ["TIERS", "Outcome", "Program", "Sandbox", "Verdict"]


def __getattr__(name: str) -> object:
    """`Sandbox` on first use: the process of a slot imports this package and needs no pool."""
    if name == "Sandbox":
        from eval.sandbox.pool import Sandbox

        return Sandbox
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
