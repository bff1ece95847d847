"""The ledger in a report: what each arm was given and what it spent, its seeds added up, arms of one scale and budget beside each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from eval.exchange import Charge, Pace, charged, paces, said
from eval.report_groups import Group, groups
from eval.results import ArmResult, Results
from proxy_lm.report import Section, Table, number, si

Runs = Sequence[ArmResult]


def sections(results: Results) -> list[Section]:
    """The ledger of a comparison; of a grid the main rows of all groups, then each group in full, folded."""
    text = "What each arm was given and what it spent. FLOPs are counted from the model's structure: three times the forward pass."
    shown, rates = groups(results), paces(results)
    views = list(results.views)
    if len(shown) == 1:
        pace = rates[shown[0].scale, shown[0].budget]
        return [Section("Ledger", [text, *_summed(shown[0]), *_paid(shown), *said(results)], full_table(shown[0], views, pace))]
    short = "Counts and seconds are of one run: the mean of its seeds, seconds of those that finished."
    found = [Section("Ledger", [text, short, *_paid(shown), *said(results)], short_table(shown, results.baseline, rates))]
    for group in shown:
        full = Section(f"Ledger in full: {group.name}", [group.title(results.baseline) + ".", *_summed(group)])
        found.append(replace(full, table=full_table(group, views, rates[group.scale, group.budget]), folded=True))
    return found


def short_table(shown: Sequence[Group], baseline: str, rates: Mapping[tuple[str | None, str | None], Pace]) -> Table:
    """A row an arm, under a line for each scale and budget."""
    teaches = any(_teaches(group) for group in shown)
    outside = ["compressor, once", "its share, %", *(["teacher, each run", "its share, %"] if teaches else [])]
    seconds = ["device seconds", f"compressor{' and teacher' if teaches else ''}, CPU seconds"]
    columns = ["arm", "runs", "FLOPs", *outside, "symbols", "source bytes", "unique bytes", "epochs", *seconds]
    rows: list[list[str]] = []
    heads: dict[int, str] = {}
    for group in shown:
        heads[len(rows)] = group.title(baseline)
        pace = rates[group.scale, group.budget]
        for name, runs in group.arms.items():
            flops = _mean(runs, "training_flops")
            asked = [run for run in runs if run.compressor.teacher_seconds] or runs  # one that did not finish has not told what it spent
            costs = [charged(run, pace) for run in asked]
            teacher = [math.fsum(cost.teacher for cost in costs) / len(costs)] if teaches else []
            spent = [max(charged(run, pace).once for run in runs), *teacher]
            rows.append(
                [
                    name,
                    str(len(runs)),
                    si(flops),
                    *(cell for part in spent for cell in (si(part), number(100 * part / flops, 2) if flops else "-")),
                    si(_mean(runs, "symbols")),
                    si(_mean(runs, "source_bytes")),
                    si(_mean(runs, "unique_bytes")),
                    number(_mean(runs, "epochs"), 2),
                    number(_mean_of([run.device_seconds for run in runs if run.device_seconds is not None]), 1),
                    number(_mean_of([run.compressor_seconds for run in asked]), 1),
                ]
            )
    return Table(columns, rows, heads=heads)


def full_table(group: Group, views: Sequence[str], pace: Pace) -> Table:
    """Every row of the ledger; a column an arm. What adds up is added up over the arm's seeds, the rest is told as it is."""
    told = ["raw", *views]
    arms = list(group.arms.values())
    costs: list[list[Charge]] = [[charged(run, pace) for run in runs] for runs in arms]

    def whole(name: str) -> list[str]:
        return [f"{sum(int(getattr(run, name)) for run in runs):,}" for runs in arms]

    def by_view(counts: str, view: str) -> list[str]:
        return [si(sum(getattr(run, counts).get(view, 0) for run in runs)) for runs in arms]

    def seconds(name: str) -> list[str]:
        return [_total(runs, lambda run: getattr(run, name), lambda value: number(value, 1)) for runs in arms]

    def once(name: str) -> list[str]:
        return [number(max(getattr(run.compressor, name) for run in runs), 1) for runs in arms]

    teaching = [math.fsum(run.compressor.teacher_seconds for run in runs) for runs in arms]
    teacher = [
        ["teacher: in every run, CPU seconds", *(number(seconds, 1) for seconds in teaching)],
        ["teacher: in every run, FLOPs", *(si(math.fsum(cost.teacher for cost in found)) for found in costs)],
    ]
    rows: list[list[str]] = [
        ["training FLOPs", *(f"{sum(run.training_flops for run in runs):.6g}" for runs in arms)],
        ["FLOPs a symbol", *(_same(runs, lambda run: f"{run.flops_per_symbol:,}") for runs in arms)],
        ["steps", *whole("num_steps")],
        ["symbols", *whole("symbols")],
        ["source bytes told", *whole("source_bytes")],
        *([f"source bytes as {view}", *by_view("source_bytes_by_view", view)] for view in told),
        *([f"documents as {view}", *by_view("documents_by_view", view)] for view in told),
        *([f"symbols as {view}", *by_view("symbols_by_view", view)] for view in told),
        ["unique bytes of a run", *(_same(runs, lambda run: f"{run.unique_bytes:,}") for runs in arms)],
        ["epochs of a run", *(_same(runs, lambda run: number(run.epochs, 2)) for runs in arms)],
        *([f"parameters: {part}", *_parameters(arms, part)] for part in dict.fromkeys(p for run in group.runs for p in run.num_parameters)),
        ["peak learning rate", *(_same(runs, lambda run: "-" if run.learning_rate is None else f"{run.learning_rate:g}") for runs in arms)],
        ["ranks", *(_same(runs, lambda run: str(run.world_size or "-")) for runs in arms)],
        ["seconds of steps", *seconds("seconds")],
        ["device seconds", *seconds("device_seconds")],
        ["wall seconds", *seconds("wall_seconds")],
        ["compressor: fitted once, CPU seconds", *once("train_seconds")],
        ["compressor: encoded once, CPU seconds", *once("encode_seconds")],
        ["compressor: fitted and encoded once, FLOPs", *(si(max(cost.once for cost in found)) for found in costs)],
        *(teacher if _teaches(group) else []),
        ["asked in view", *(_same(runs, lambda run: run.view or "-") for runs in arms)],
    ]
    # An alphabet of a view that no arm of this group was told would be a row of zeros.
    kept = [row for row in rows if not (" as " in row[0] and all(cell == "0" for cell in row[1:]))]
    return Table(["", *group.arms], kept)


def _summed(group: Group) -> list[str]:
    most = max(len(runs) for runs in group.arms.values())
    if most == 1:
        return []
    text = f"Up to {most} runs an arm (its seeds). Counts and seconds are added up over them; a run that did not finish counts with what "
    return [text + "it was to be given. What does not add up is told as it is, from low to high where seeds differ."]


def _paid(shown: Sequence[Group]) -> list[str]:
    """What stands outside the match, and how often it is paid."""
    text = "A compressor is fitted and encodes once for all runs of its view, and stands outside the match"
    if not any(_teaches(group) for group in shown):
        return [text + "; its share is of one run's FLOPs." if len(shown) > 1 else text + "."]
    text += ". So does a teacher, which is asked anew in every run; fitting its model is counted as the compressor's. "
    shares = "Shares are of one run's FLOPs. " if len(shown) > 1 else ""
    return [text + shares + "'With compressor' elsewhere in this report means with both."]


def _teaches(group: Group) -> bool:
    return any(run.compressor.teacher_seconds for run in group.runs)


def _parameters(arms: Sequence[Runs], part: str) -> list[str]:
    return [_same(runs, lambda run: si(run.num_parameters.get(part, 0))) for runs in arms]


def _mean(runs: Runs, name: str) -> float:
    return sum(float(getattr(run, name)) for run in runs) / len(runs)


def _mean_of(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _total(runs: Runs, value: Callable[[ArmResult], float | None], spell: Callable[[float], str]) -> str:
    """The sum of what is known; a dash where nothing is."""
    known = [found for found in map(value, runs) if found is not None]
    return spell(sum(known)) if known else "-"


def _same(runs: Runs, spell: Callable[[ArmResult], str]) -> str:
    """What all runs have, or the first and the last of what they have."""
    texts = list(dict.fromkeys(spell(run) for run in runs))
    known = sorted((text for text in texts if text != "-"), key=_size)
    return " to ".join(dict.fromkeys((known[0], known[-1]))) if known else "-"


def _size(text: str) -> tuple[float, str]:
    try:
        return float(text.replace(",", "")), ""
    except ValueError:
        return 0.0, text
