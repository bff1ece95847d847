"""What a fact is looked up in, and what verdicts mean for a claim; `eval.facts` has the facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from eval.grid_analysis import Analysis
from eval.results import Results

Outcome = Literal["agrees", "differs", "in part", "not decided", "not run"]
Says = Literal["better", "worse", "at least as good"]
Pairs = tuple[tuple[str, str], ...]

_CONFIRMS: Final = {"better": ("better",), "worse": ("worse",), "at least as good": ("better", "tie")}
_DENIES: Final = {"better": ("worse",), "worse": ("better",), "at least as good": ("worse",)}


class Analyses(Protocol):
    """As `eval.tables.Library.analysis`."""

    def __call__(self, name: str, pairs: Pairs = (), *, whole: bool = False) -> Analysis:
        """Points and verdicts of a kept comparison; `whole` has the rest too."""


@dataclass(frozen=True)
class Seen:
    """What the kept results show of a fact."""

    lines: list[str] = field(default_factory=list)
    """One for each comparison, scale and budget."""
    outcome: Outcome = "not run"


@dataclass(frozen=True)
class Shelf:
    """The kept results and their analyses."""

    kept: Mapping[str, Results]
    analysis: Analyses

    def having(self, *arms: str) -> Iterator[tuple[str, Results]]:
        """Comparisons that have a score of each of these arms."""
        for name, results in self.kept.items():
            if all(any(run.name == arm for run in results.finished) for arm in arms):
                yield name, results


def outcome_of(words: Sequence[str], says: Says) -> Outcome:
    """What verdicts mean for a claim."""
    decided = [word for word in words if word not in ("not decided", "not judged")]
    confirming = [word in _CONFIRMS[says] for word in decided]
    if decided and all(confirming):
        return "agrees"
    if any(confirming):
        return "in part"
    return "differs" if any(word in _DENIES[says] for word in decided) else "not decided"


def place(*parts: str | None) -> str:
    """'ladder, s0, x1': a comparison, scale and budget, or those of them that there are."""
    return ", ".join(part for part in parts if part is not None)


def pairs_apart(results: Results) -> str:
    """Why pairs decide nothing: documents longer than a row, so that few second tellings see the first; empty where they fit, or where the
    plan does not say how long rows are."""
    row_length = results.plan.get("base", {}).get("row_length")
    train = results.corpus["splits"]["train"]
    mean_bytes = train["num_bytes"] / train["num_documents"]
    if row_length is None or mean_bytes <= row_length:
        return ""
    return f"; decides nothing: documents of {mean_bytes:,.0f} bytes in rows of {row_length:,}, so pairs hardly meet"
