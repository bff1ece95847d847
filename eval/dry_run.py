"""What a comparison would give each arm, without making anything: parameters, FLOPs, symbols, steps.

The alphabet of a view that is not fitted yet is taken from its options; source bytes need the corpus and are told once it is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import compressors.registry as registry
from eval import further, rate_search
from eval.budget import TOLERANCE, Rates
from eval.matching import describe_runs, solve_runs
from eval.plan import ArmRun, ComparePlan, ViewPlan, arm_runs, check_arms
from eval.planned_literals import planned_literals
from proxy_lm.errors import RequestError
from proxy_lm.model.flops import num_parameters, training_flops_per_symbol
from proxy_lm.view_training import NEURAL
from proxy_lm.vocabulary import NUM_BYTES, Literals, Vocabulary


def check(plan: ComparePlan, out: Path) -> None:
    """Raise `RequestError` for what can be refused before there is a corpus: settings, evaluations, kinds of views, and a budget that the
    arms cannot meet, where it follows from the structure of the models. Makes nothing.

    A view that is not fitted counts with the alphabet its options ask for."""
    check_arms(plan)
    further.check(plan.evaluations, plan.views)
    alphabets = {name: _alphabet(name, view, out) for name, view in plan.views.items()}
    known = {name: size for name, size in alphabets.items() if size is not None}
    literals = planned_literals(plan, out, alphabets)
    if plan.match.kind == "symbols" or (plan.match.kind == "flops" and len(known) == len(alphabets)):
        # Symbols of a step do not depend on alphabets.
        sizes = {**dict.fromkeys(alphabets, NUM_BYTES), **known}
        for runs, tolerance in ((list(arm_runs(plan)), TOLERANCE), (rate_search.tries(plan), rate_search.TOLERANCE)):
            solve_runs(plan, runs, {run.cell_name: _cost(run, sizes, literals)[0] for run in runs}, tolerance=tolerance)


def dry_run(plan: ComparePlan, out: Path) -> dict[str, Any]:
    """Raises `RequestError` for a plan that cannot run."""
    check(plan, out)
    if plan.match.kind not in ("flops", "symbols"):
        raise RequestError(f"a match by {plan.match.kind} is solved from the corpus or a pace; --dry-run solves flops and symbols")
    alphabets = {name: _known_alphabet(name, view, out) for name, view in plan.views.items()}
    literals = planned_literals(plan, out, alphabets)
    runs = list(arm_runs(plan))
    costs: dict[str, Rates] = {}
    parameters: dict[str, int] = {}
    for run in runs:
        costs[run.cell_name], parameters[run.cell_name] = _cost(run, alphabets, literals)
    steps = solve_runs(plan, runs, costs)
    rows = [{**row, "num_parameters": parameters[row["arm"]]} for row in describe_runs(plan, runs, costs, steps)]
    tries = rate_search.tries(plan)
    costs = {run.cell_name: _cost(run, alphabets, literals)[0] for run in tries}
    steps = solve_runs(plan, tries, costs, tolerance=rate_search.TOLERANCE)
    return {
        "out": str(out),
        "match": {"kind": plan.match.kind, "target": plan.match.target},
        "alphabets": alphabets,
        "arms": rows,
        "num_tries": len(tries),
        "training_flops": sum(row["training_flops"] for row in rows),
        "search_flops": sum(costs[name].flops_per_step * steps[name] for name in steps),
    }


def show_dry_run(result: dict[str, Any]) -> None:
    """One row an arm."""
    from rich.table import Table

    from proxy_lm.progress import console_of

    budgets = any(row["budget"] for row in result["arms"])
    within = "within each scale and budget" if budgets else f"{result['match']['target']:.4g}"
    table = Table(title=f"equal {result['match']['kind']}, {within}", title_justify="left")
    for name in ("arm", "parameters", "steps", "symbols", "training FLOPs", "off target"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in result["arms"]:
        table.add_row(
            row["arm"],
            f"{row['num_parameters']:,}",
            f"{row['num_steps']:,}",
            f"{row['symbols']:,}",
            f"{row['training_flops']:.4g}",
            f"{100 * row['off_target']:+.2f} %",
        )
    console = console_of(120)
    console.print(table)
    tries = f", and {result['num_tries']} tries of the search {result['search_flops']:.4g}" if result["num_tries"] else ""
    console.print(f"{len(result['arms'])} cells take {result['training_flops']:.4g} training FLOPs{tries}", highlight=False)
    console.print(f"would be made in {result['out']}", highlight=False)


def _known_alphabet(name: str, view: ViewPlan, out: Path) -> int:
    size = _alphabet(name, view, out)
    if size is None:
        raise RequestError(f"view '{name}' is fitted first, and only then its alphabet is known; run once without --dry-run")
    return size


def _alphabet(name: str, view: ViewPlan, out: Path) -> int | None:
    """As far as it is known before the view is fitted. Raises `RequestError` for an unknown kind."""
    folder = out / "views" / name
    if (folder / registry.ARTIFACT_NAME).exists():
        return int(registry.read_artifact(folder)["alphabet_size"])
    if view.kind == NEURAL:
        return _alphabet(name, ViewPlan(kind=view.options.get("view", "table"), options=view.options.get("options", {})), out)
    if not registry.get(view.kind).needs_training:
        return registry.train(view.kind, (), **view.options).alphabet_size
    return registry.get(view.kind).planned_alphabet_size(view.options)


def _cost(run: ArmRun, alphabets: dict[str, int], literals: dict[str, Literals]) -> tuple[Rates, int]:
    settings = run.settings(Path("runs"), Path("corpus"), num_steps=1)
    vocabulary = Vocabulary([(view, alphabets[view]) for view in run.views], literals if settings.literals == "shared" else {})
    flops = training_flops_per_symbol(settings.model, vocabulary.size, settings.row_length)
    symbols = settings.rows_per_step * settings.row_length
    rates = Rates(symbols_per_step=symbols, flops_per_symbol=flops, source_bytes=lambda _: 0)
    return rates, num_parameters(settings.model, vocabulary.size).total
