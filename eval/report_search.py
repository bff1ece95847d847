"""The search for learning rates in a report: every rate that was tried for every arm, and the one it got."""

from __future__ import annotations

from collections.abc import Sequence

from eval.results import ChosenRate, Results, SearchedRate
from proxy_lm.report import Section, Table, number, si


def sections(results: Results) -> list[Section]:
    """Nothing where no rates were searched or chosen."""
    if not results.searched and not results.chosen:
        return []
    return [Section("Learning rates", _explained(results), table(results))]


def table(results: Results) -> Table:
    """A row an arm and scale, a column a rate: bits per byte on the valid split of the short run, then the rate that was taken and why."""
    rates = sorted({tried.learning_rate for tried in results.searched})
    tries: dict[tuple[str | None, str], list[SearchedRate]] = {}
    for one in results.searched:
        tries.setdefault((one.scale, one.arm), []).append(one)
    chosen = {(choice.scale, choice.arm): choice for choice in results.chosen}
    scales = list(dict.fromkeys(scale for scale, _ in [*tries, *chosen]))
    rows: list[list[str]] = []
    heads: dict[int, str] = {}
    for scale in scales:
        if scale is not None:
            heads[len(rows)] = scale
        for key in dict.fromkeys(key for key in [*tries, *chosen] if key[0] == scale):
            rows.append([key[1], *(_cell(tries.get(key, ()), rate) for rate in rates), *_taken(chosen.get(key))])
    return Table(["arm", *(f"{rate:g}" for rate in rates), "taken", "why"], rows, frozenset({0, len(rates) + 2}), heads=heads)


def _cell(tries: Sequence[SearchedRate], rate: float) -> str:
    found = [one for one in tries if one.learning_rate == rate]
    if not found:
        return "-"
    known = [one.bits_per_byte for one in found if one.bits_per_byte is not None]
    return ", ".join(number(bits, 4) for bits in known) or "failed"


def _taken(choice: ChosenRate | None) -> list[str]:
    return ["-", "-"] if choice is None else [f"{choice.learning_rate:g}", choice.reason]


def _explained(results: Results) -> list[str]:
    lines = []
    if results.searched:
        flops = sum(one.training_flops for one in results.searched)
        failed = [one for one in results.searched if one.bits_per_byte is None]
        lines.append(
            f"{len(results.searched)} short runs, the same rates for every arm, judged by bits per byte on the valid split in the view "
            f"in which the arm is asked. They took {si(flops)} FLOPs, which are outside the match."
            + (f" {len(failed)} of them failed or diverged." if failed else "")
        )
    lines += searched_less(results)
    edge = sorted({choice.arm for choice in results.chosen if choice.reason.startswith("edge")})
    if edge:
        lines.append(f"The best rate tried is the largest or smallest of the list for {', '.join(edge)}: a better one may lie beyond it.")
    moved = sorted({choice.reason for choice in results.chosen if choice.reason.startswith("transferred")})
    if moved:
        lines.append(f"Rates of scales that were not searched are {', '.join(moved)}, by the rule of the plan.")
    return lines


def searched_less(results: Results) -> list[str]:
    """Arms whose rate was chosen among fewer than the others' were, by name, with the rates that they have no number of: they were searched
    less, and may have been left with a worse one."""
    tried = {(one.scale, one.arm): set[float]() for one in results.searched}
    for one in results.searched:
        if one.bits_per_byte is not None:
            tried[one.scale, one.arm].add(one.learning_rate)
    told = []
    for (scale, arm), known in tried.items():
        rates = {rate for (at, _), others in tried.items() if at == scale for rate in others}
        if len(known) < len(rates):
            lost = ", ".join(f"{rate:g}" for rate in sorted(rates - known))
            place = "" if scale is None else f" at {scale}"
            told.append(f"{arm}{place} among {len(known)} of {len(rates)} (none at {lost})")
    return [f"Searched over fewer rates than the others, since a try failed or did not run: {'; '.join(told)}."] if told else []
